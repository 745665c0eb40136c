//! How much memory this process may use, of its control group or of the machine.

use std::fs;
use std::path::Path;

/// The part of the memory limit that caches get unless told otherwise.
const CACHE_SHARE: u64 = 4;

/// Caches where the memory limit cannot be found out.
const CACHE_BYTES_FALLBACK: u64 = 256 << 20;

/// A quarter of the memory this process may use: of its control group, or of the machine.
#[must_use]
pub fn default_cache_bytes() -> u64 {
    memory_limit_bytes().map_or(CACHE_BYTES_FALLBACK, |bytes| bytes / CACHE_SHARE)
}

/// The memory this process may use, in bytes: of its control group, or of the machine.
#[must_use]
pub fn memory_limit_bytes() -> Option<u64> {
    let group = fs::read_to_string("/proc/self/cgroup")
        .ok()
        .and_then(|groups| group_limit_bytes(Path::new("/sys/fs/cgroup"), &groups));
    // In a container it may say less than the kernel, and it may be hidden (ProcSubset=pid).
    let machine = fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| total_memory_bytes(&text))
        .or_else(machine_bytes);
    group.into_iter().chain(machine).min()
}

/// The memory of the machine, as the kernel says.
fn machine_bytes() -> Option<u64> {
    #[cfg(target_os = "linux")]
    {
        let info = rustix::system::sysinfo();
        #[allow(
            clippy::useless_conversion,
            reason = "a machine of 32 bits has a smaller number"
        )]
        let units = u64::from(info.totalram);
        units.checked_mul(info.mem_unit.into())
    }
    #[cfg(not(target_os = "linux"))]
    None
}

/// The lowest memory limit of the control groups below `mount` that a process with these `groups` is
/// in. A limit holds for all groups below, so all on the way to the root count; in a container these
/// may be names of the host which are not there, and the root is its own.
///
/// `groups` reads as in cgroups(7); limits are found by versions 1 and 2 of control groups.
fn group_limit_bytes(mount: &Path, groups: &str) -> Option<u64> {
    let mut limits = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (root, files, group) = match (parts.next(), parts.next()) {
            (Some(""), Some(group)) => (mount.into(), &["memory.max", "memory.high"][..], group),
            (Some(kinds), Some(group)) if kinds.split(',').any(|kind| kind == "memory") => {
                (mount.join("memory"), &["memory.limit_in_bytes"][..], group)
            }
            _ => continue,
        };
        for group in Path::new(group.trim_start_matches('/')).ancestors() {
            let group = root.join(group);
            limits.extend(
                files
                    .iter()
                    .filter_map(|file| read_number(&group.join(file))),
            );
        }
    }
    limits.into_iter().min()
}

fn read_number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn total_memory_bytes(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    kibibytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_s_memory_is_read_from_meminfo() {
        let meminfo = "MemTotal:       24626856 kB\nMemFree:        1 kB\n";
        assert_eq!(total_memory_bytes(meminfo), Some(24_626_856 * 1024));
        assert_eq!(total_memory_bytes("nothing"), None);
    }

    /// A container may be told of less.
    #[cfg(target_os = "linux")]
    #[test]
    fn without_meminfo_the_kernel_says_how_much_memory_there_is() {
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap();
        assert!(machine_bytes() >= total_memory_bytes(&meminfo));
    }

    /// The limit of a process in `groups`, when these are the files below the mount point.
    fn group_limit(groups: &str, files: &[(&str, &str)]) -> Option<u64> {
        let mount = tempfile::tempdir().unwrap();
        for (path, content) in files {
            let path = mount.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        group_limit_bytes(mount.path(), groups)
    }

    #[test]
    fn the_lowest_limit_of_the_groups_above_a_process_counts() {
        let files = [
            ("memory.max", "max\n"),
            ("system.slice/memory.max", "3000\n"),
            ("system.slice/digestd.service/memory.max", "5000\n"),
            ("system.slice/other.service/memory.max", "1000\n"),
        ];
        let groups = "0::/system.slice/digestd.service\n";
        assert_eq!(group_limit(groups, &files), Some(3000));
        let throttled = ("system.slice/digestd.service/memory.high", "2000\n");
        let files = [&files[..], &[throttled]].concat();
        assert_eq!(group_limit(groups, &files), Some(2000));
    }

    #[test]
    fn a_container_finds_its_limit_at_the_root() {
        assert_eq!(group_limit("0::/\n", &[("memory.max", "7\n")]), Some(7));
        let groups = "5:cpu,cpuacct:/docker/c1\n4:memory:/docker/c1\n0::/docker/c1\n";
        let file = ("memory/memory.limit_in_bytes", "7\n");
        assert_eq!(group_limit(groups, &[file]), Some(7));
    }

    #[test]
    fn a_group_without_a_limit_has_none() {
        let groups = "0::/a\n";
        for files in [&[][..], &[("a/memory.max", "max\n")]] {
            assert_eq!(group_limit(groups, files), None);
        }
        let other = "1:cpu:/a\nnonsense\n";
        assert_eq!(group_limit(other, &[("memory.max", "7\n")]), None);
    }
}
