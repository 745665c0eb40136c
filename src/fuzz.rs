//! What is thrown at the parsers: one function a target, called by the fuzzer of `fuzz/` with whatever bytes it
//! makes up, and by the tests below with the seeds that it begins with.
//!
//! The functions are those of the rooms, each in a `fuzz` of its own beside what it calls, so that nothing has to
//! be more public than it is. They take bytes and panic where something that the room promises does not hold. This
//! room refuses to know what is parsed. **Invariant:** it is in no program: only tests and the fuzzer compile it.

pub use crate::access::fuzz::{forwarded, lists};
pub use crate::commands::fuzz::imports;
pub use crate::http::fuzz::{addresses, digest_fields, fields, host, json_body, lines};
pub use crate::server::fuzz::frames;
pub use crate::store::fuzz::log_records;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::{Path, PathBuf};

    use super::*;

    /// What is in `fuzz/<folder>`.
    fn list(folder: &str) -> Vec<PathBuf> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("fuzz")
            .join(folder);
        let entries = fs::read_dir(folder).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    /// Gives `target` every seed that it has. The test's output names the one that it fails with.
    fn run_seeds(name: &str, target: fn(&[u8])) {
        let seeds = list(&format!("seeds/{name}"));
        assert!(!seeds.is_empty());
        for seed in seeds {
            println!("{}", seed.display());
            target(&fs::read(seed).unwrap());
        }
    }

    #[test]
    fn every_target_has_its_file_its_row_in_the_manifest_and_its_seeds() {
        let names = |folder| -> BTreeSet<_> {
            let stem = |path: &PathBuf| path.file_stem().unwrap().to_str().unwrap().to_owned();
            list(folder).iter().map(stem).collect()
        };
        let targets = names("fuzz_targets");
        assert_eq!(targets, names("seeds"));
        let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/Cargo.toml");
        let manifest = fs::read_to_string(manifest).unwrap();
        let rows = manifest.lines().filter_map(|line| {
            let path = line.strip_prefix("path = \"fuzz_targets/")?;
            path.strip_suffix(".rs\"").map(str::to_owned)
        });
        assert_eq!(targets, rows.collect());
        // Those that the tests below run.
        let code = include_str!("fuzz.rs");
        for target in targets {
            let call = format!("run_seeds(\"{target}\", {target});");
            assert!(code.contains(&call), "{call}");
        }
    }

    #[test]
    fn a_json_body_says_here_what_it_says_to_others() {
        run_seeds("json_body", json_body);
    }

    #[test]
    fn a_digest_has_one_spelling_in_each_kind_of_address() {
        run_seeds("addresses", addresses);
    }

    #[test]
    fn the_lines_of_a_body_are_the_same_wherever_its_pieces_end() {
        run_seeds("lines", lines);
    }

    #[test]
    fn what_is_stated_of_one_body_is_not_true_of_another() {
        run_seeds("digest_fields", digest_fields);
    }

    #[test]
    fn a_range_is_within_its_text_and_a_trace_id_stands_in_its_field() {
        run_seeds("fields", fields);
    }

    #[test]
    fn the_host_of_a_request_is_part_of_it_and_the_host_of_one_that_names_it() {
        run_seeds("host", host);
    }

    #[test]
    fn whom_a_proxy_speaks_for_is_the_same_however_its_fields_are_cut() {
        run_seeds("forwarded", forwarded);
    }

    #[test]
    fn a_file_of_tokens_or_networks_is_as_good_as_each_of_its_lines() {
        run_seeds("lists", lists);
    }

    #[test]
    fn what_is_read_from_an_archive_reads_back_from_another() {
        run_seeds("imports", imports);
    }

    #[test]
    fn a_recovery_finds_each_whole_record_and_a_second_one_finds_the_same() {
        run_seeds("log_records", log_records);
    }

    #[test]
    fn the_charge_for_frames_is_the_same_wherever_they_are_cut() {
        run_seeds("frames", frames);
    }
}
