//! Where `digestd serve` writes beside its store: the log file, with the names of its rotated ones, and socket files.
//!
//! It refuses to make anything. **Invariant:** none of them is what something else has that this server uses, by
//! whatever path: a rotation would put a line of a log where a store, a token or a key was.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use crate::commands::options::UsageError;
use crate::config::{CertificateConfig, Config};
use crate::server;
use crate::store::{OWN_NAMES, is_own_name};

/// Makes sure that nothing is in the way of anything else.
///
/// # Errors
/// If a file is to be two things.
pub(super) fn check(config: &Config) -> Result<(), UsageError> {
    let store = Store::of(&config.data_dir);
    for socket in &config.socket_files {
        if store.has(&places(socket)) {
            return Err(own("--listen unix:", socket, config));
        }
    }
    let Some(log) = config.log.file.as_ref().map(|file| &file.path) else {
        return Ok(());
    };
    let log_places = places(log);
    let mut all = store.names.iter().chain([&store.directory]);
    if store.has(&log_places) || all.any(|path| takes(&log_places, path)) {
        return Err(own("--log-file ", log, config));
    }
    for (option, path) in used(config) {
        let is_it = places(&path).iter().any(|path| takes(&log_places, path));
        if is_it || is_same(log, &path) {
            return Err(UsageError(
                format!(
                    "--log-file {} is, or becomes when it is rotated, the file of {option}; choose another name",
                    log.display()
                )
                .into(),
            ));
        }
    }
    Ok(())
}

fn own(option: &str, path: &Path, config: &Config) -> UsageError {
    UsageError(
        format!(
            "{option}{} is, or becomes, what the store in {} has for itself; choose another name, or a place outside \
             of it",
            path.display(),
            config.data_dir.display()
        )
        .into(),
    )
}

/// Files of this server that others made or are to find, and the option of each.
fn used(config: &Config) -> Vec<(&'static str, PathBuf)> {
    let rules = [
        ("--tokens", &config.access.tokens),
        ("--list-file", &config.access.list_file),
    ];
    let rules = rules
        .into_iter()
        .filter_map(|(option, path)| Some((option, path.clone()?)));
    let mut used: Vec<_> = rules.collect();
    match config.tls.as_ref().map(|tls| &tls.certificate) {
        Some(CertificateConfig::Files { certificate, key }) => {
            used.extend([
                ("--tls-cert", certificate.clone()),
                ("--tls-key", key.clone()),
            ]);
        }
        // Also where this start has another certificate: a later one may not.
        Some(CertificateConfig::SelfSigned) | None => {
            let own =
                [server::CERTIFICATE_NAME, server::KEY_NAME].map(|name| config.data_dir.join(name));
            used.extend(own.map(|path| ("--tls-self-signed", path)));
        }
    }
    let sockets = config.socket_files.iter().cloned();
    used.extend(sockets.map(|path| ("--listen unix:", path)));
    used
}

/// The names of a store, and where they lead.
struct Store {
    directory: PathBuf,
    names: Vec<PathBuf>,
}

impl Store {
    fn of(directory: &Path) -> Self {
        let names = OWN_NAMES.map(|name| resolved(&directory.join(name)));
        Self {
            directory: resolved(directory),
            names: names.into(),
        }
    }

    /// Whether one of `places` is a file of the store, or in one of its directories.
    fn has(&self, places: &[PathBuf]) -> bool {
        places.iter().any(|place| {
            let inside = place.strip_prefix(&self.directory).ok();
            let first = inside.and_then(|inside| inside.components().next());
            let first = first.map(|first| first.as_os_str().to_string_lossy());
            first.is_some_and(|first| is_own_name(&first))
                || self.names.iter().any(|name| place.starts_with(name))
        })
    }
}

/// Where the file at `path` has its name, and where its bytes are.
fn places(path: &Path) -> [PathBuf; 2] {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let name = path.file_name().unwrap_or_default();
    [resolved(directory).join(name), resolved(path)]
}

/// Whether a log in one of `places` is `path` or what it is in, or becomes it when it is rotated.
fn takes(places: &[PathBuf], path: &Path) -> bool {
    path.ancestors().any(|path| {
        places.iter().any(|place| {
            let is_beside = path.parent() == place.parent();
            path == place || is_beside && is_rotated(path.file_name(), place.file_name())
        })
    })
}

/// Whether `name` is that of an old file of the log `of`: `.1`, `.1.gz`, `.gz.part` after it.
fn is_rotated(name: Option<&OsStr>, of: Option<&OsStr>) -> bool {
    let (Some(name), Some(of)) = (name, of) else {
        return false;
    };
    let ending = name.as_encoded_bytes().strip_prefix(of.as_encoded_bytes());
    let Some(ending) = ending.and_then(|ending| ending.strip_prefix(b".")) else {
        return false;
    };
    let number = ending.strip_suffix(b".gz").unwrap_or(ending);
    ending == b"gz.part" || !number.is_empty() && number.iter().all(u8::is_ascii_digit)
}

/// Whether two paths are names of one file: hard links too.
fn is_same(one: &Path, other: &Path) -> bool {
    let identity = |path| fs::metadata(path).map(|file| (file.dev(), file.ino()));
    matches!((identity(one), identity(other)), (Ok(one), Ok(other)) if one == other)
}

/// `path` without links, `.` and `..`, as far as that can be seen: the end of it need not be there.
fn resolved(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut resolved = PathBuf::new();
    for component in absolute.components() {
        match component {
            Component::ParentDir => drop(resolved.pop()),
            component => resolved.push(component),
        }
        resolved = match resolved.canonicalize() {
            Ok(canonical) => canonical,
            // It is not there, or is a link to what is not; one that leads to itself is another error.
            Err(error) if error.kind() == io::ErrorKind::NotFound => followed(resolved),
            Err(_) => resolved,
        };
    }
    resolved
}

/// Where a link leads whose end is not there.
fn followed(path: PathBuf) -> PathBuf {
    match (fs::read_link(&path), path.parent()) {
        (Ok(target), Some(parent)) => resolved(&parent.join(target)),
        _ => path,
    }
}
