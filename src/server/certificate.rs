//! Certificates: read from files and checked with their keys, or made for this machine.
//!
//! A certificate made here is signed by an authority made for it, whose key is forgotten at once, so
//! that nothing else can ever be signed with it. Both are in `localhost.crt`: the server sends the
//! one, and a client that takes the file as a trust root trusts the other.
//!
//! **Invariant:** one made here is valid at the time that it was made for, and a day before: clocks differ.

mod pem;

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::Range;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use tracing::info;
use x509_cert::Certificate;
use x509_cert::der::{self, Decode};
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

/// The file of a certificate that is made here, in the data directory.
pub const CERTIFICATE_NAME: &str = "localhost.crt";

/// The file of its key.
pub const KEY_NAME: &str = "localhost.key";

/// The issuer of certificates made here …
const AUTHORITY: &str = "digestd, for this machine only";

/// … and what of it is printed without an escape.
const AUTHORITY_PART: &str = "for this machine only";

/// How long a certificate made here is valid: the longest that all clients accept.
const VALIDITY: Duration = Duration::from_hours(825 * 24);

/// So much of it is over when it is made: the clocks of clients are behind by seconds, those of virtual machines by
/// hours.
const BACKDATING: Duration = Duration::from_hours(24);

/// A clock is taken to be between 1970, where those without a battery start, and the year 2170: certificates cannot
/// tell of any other time.
const CLOCK_MAX: Duration = Duration::from_hours(200 * 365 * 24);

/// One made here is replaced at a start when it is valid no longer than this.
const VALIDITY_MIN: Duration = Duration::from_hours(30 * 24);

/// There is no certificate that can be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read or written.
    #[error("cannot {action} {path}: {reason}")]
    File {
        /// What was tried.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// What happened.
        reason: String,
    },
    /// The certificate and the key are of no use together.
    #[error("cannot use the certificate in {path}: {reason}")]
    Certificate {
        /// Where the certificate is.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

impl TlsError {
    fn file(action: &'static str, path: &Path, reason: &impl ToString) -> Self {
        Self::File {
            action,
            path: path.into(),
            reason: reason.to_string(),
        }
    }

    fn certificate(path: &Path, reason: &impl ToString) -> Self {
        Self::Certificate {
            path: path.into(),
            reason: reason.to_string(),
        }
    }
}

/// Where a certificate and its key are.
#[derive(Debug)]
pub(super) struct Files {
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
}

/// A certificate that was checked.
#[derive(Clone, Debug)]
pub(super) struct Loaded {
    pub(super) config: Arc<ServerConfig>,
    pub(super) certificate: CertificateDer<'static>,
    pub(super) expiry: SystemTime,
    /// When it is valid, and its authority if it was made here.
    valid: Range<SystemTime>,
    /// The names in it if it was made here.
    own_names: Option<Vec<String>>,
}

impl Loaded {
    /// Whether a client at `now` would take it; if it was made here, also from a machine with this `host` name.
    pub(super) fn serves(&self, now: SystemTime, host: Option<&str>) -> bool {
        let names = self.own_names.as_ref();
        let is_for = |host: &str| names.is_none_or(|names| names.iter().any(|name| name == host));
        self.valid.contains(&sensible(now)) && host.is_none_or(is_for)
    }

    /// Whether it is one of those that are made again in time.
    fn lasts(&self, now: SystemTime) -> bool {
        self.valid.end > sensible(now) + VALIDITY_MIN
    }
}

/// A time that certificates can tell of.
fn sensible(now: SystemTime) -> SystemTime {
    now.clamp(UNIX_EPOCH, UNIX_EPOCH + CLOCK_MAX)
}

/// What tells a file from the one that was there before, `None` if there is no file: modification time, inode and
/// length, and the time of the last change of anything, its owner and permissions included.
pub(super) type Stamps = [Option<(SystemTime, u64, u64, (i64, i64))>; 2];

impl Files {
    pub(super) fn stamps(&self) -> Stamps {
        [&self.certificate, &self.key].map(|path| {
            let metadata = fs::metadata(path).ok()?;
            // A pipe changes when it is written to, and nothing can be read from it again.
            if !metadata.is_file() {
                return None;
            }
            let changed = (metadata.ctime(), metadata.ctime_nsec());
            Some((
                metadata.modified().ok()?,
                metadata.ino(),
                metadata.len(),
                changed,
            ))
        })
    }

    pub(super) fn load(&self) -> Result<Loaded, TlsError> {
        let path = &self.certificate;
        let chain = pem::read_certificates(path)
            .map_err(|error| TlsError::file("read the certificate", path, &error))?;
        let certificate = chain.first().cloned();
        let certificate =
            certificate.ok_or_else(|| TlsError::certificate(path, &"there is none in it"))?;
        let facts = Facts::of(&chain).map_err(|error| {
            let reason = format!("it is damaged or cut short ({error}); copy it again");
            TlsError::certificate(path, &reason)
        })?;
        let key = pem::read_key(&self.key)
            .map_err(|error| TlsError::file("read the key", &self.key, &error))?;
        pem::check_key(&key).map_err(|error| TlsError::file("use the key", &self.key, &error))?;
        let mut config = ServerConfig::builder_with_provider(ring::default_provider().into())
            .with_safe_default_protocol_versions()
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
            .map_err(|error| match error {
                rustls::Error::InconsistentKeys(_) => TlsError::certificate(
                    path,
                    &format!(
                        "it belongs to another key than that in {}",
                        self.key.display()
                    ),
                ),
                error => TlsError::certificate(path, &error),
            })?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Loaded {
            config: Arc::new(config),
            certificate,
            expiry: facts.expiry,
            valid: facts.valid,
            own_names: facts.own_names,
        })
    }

    /// Where a certificate made here is kept.
    pub(super) fn own(data_dir: &Path) -> Self {
        Self {
            certificate: data_dir.join(CERTIFICATE_NAME),
            key: data_dir.join(KEY_NAME),
        }
    }

    /// The certificate made here; made now if there is none, if it is not valid `now` or not much longer, or not for
    /// a machine with this `host` name.
    pub(super) fn load_or_make(
        &self,
        now: SystemTime,
        host: Option<&str>,
    ) -> Result<Loaded, TlsError> {
        match self.load() {
            Ok(loaded) if loaded.serves(now, host) && loaded.lasts(now) => Ok(loaded),
            _ => self.make(now, host),
        }
    }

    /// Makes a certificate that is valid `now`, in the place of the one that is there.
    pub(super) fn make(&self, now: SystemTime, host: Option<&str>) -> Result<Loaded, TlsError> {
        let Pem { chain, key } =
            make(now, host).map_err(|error| TlsError::certificate(&self.certificate, &error))?;
        // The key first: a certificate without one would look complete.
        replace(&self.key, &key, 0o600)?;
        replace(&self.certificate, &chain, 0o644)?;
        info!(certificate = %self.certificate.display(), "made a TLS certificate for this machine");
        self.load()
    }
}

/// What certificates say.
struct Facts {
    /// Of the first.
    expiry: SystemTime,
    /// Of all, if they were made here; otherwise of the first.
    valid: Range<SystemTime>,
    /// Of the first, if it was made here.
    own_names: Option<Vec<String>>,
}

impl Facts {
    fn of(chain: &[CertificateDer<'_>]) -> der::Result<Self> {
        let mut facts = Self {
            expiry: UNIX_EPOCH,
            valid: UNIX_EPOCH..UNIX_EPOCH,
            own_names: None,
        };
        for (number, certificate) in chain.iter().enumerate() {
            // Of an operator's chain nothing else is asked; rustls passes it on as it is.
            if number > 0 && facts.own_names.is_none() {
                break;
            }
            let certificate = Certificate::from_der(certificate)?;
            let certificate = certificate.tbs_certificate();
            let validity = certificate.validity();
            let [start, end] = [validity.not_before, validity.not_after]
                .map(|time| UNIX_EPOCH + time.to_unix_duration());
            if number == 0 {
                facts.expiry = end;
                facts.valid = start..end;
                let issuer = certificate.issuer().to_string();
                if issuer.contains(AUTHORITY_PART) {
                    let names = certificate.get_extension::<SubjectAltName>()?;
                    let names = names.into_iter().flat_map(|(_, names)| names.0);
                    facts.own_names = Some(names.filter_map(dns_name).collect());
                }
            } else {
                facts.valid = start.max(facts.valid.start)..end.min(facts.valid.end);
            }
        }
        Ok(facts)
    }
}

fn dns_name(name: GeneralName) -> Option<String> {
    match name {
        GeneralName::DnsName(name) => Some(name.to_string()),
        _ => None,
    }
}

/// The name of this machine; `None` if it is no name that a client could ask for.
pub(super) fn host_name() -> Option<String> {
    let host = rustix::system::uname();
    let host = host.nodename().to_str().ok()?;
    (!host.is_empty() && host.is_ascii()).then(|| host.to_owned())
}

struct Pem {
    chain: String,
    key: String,
}

/// Makes a certificate for a machine with this `host` name, and the authority that signs it.
fn make(now: SystemTime, host: Option<&str>) -> Result<Pem, rcgen::Error> {
    let start = sensible(sensible(now) - BACKDATING);
    let mut authority = CertificateParams::default();
    authority.not_before = start.into();
    authority.not_after = (start + VALIDITY).into();
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    authority.distinguished_name = name(AUTHORITY);

    let mut server = CertificateParams::default();
    server.not_before = authority.not_before;
    server.not_after = authority.not_after;
    server.distinguished_name = name("localhost");
    server.subject_alt_names = vec![
        SanType::DnsName("localhost".try_into()?),
        SanType::IpAddress(Ipv4Addr::LOCALHOST.into()),
        SanType::IpAddress(Ipv6Addr::LOCALHOST.into()),
    ];
    if let Some(host) = host.filter(|host| *host != "localhost") {
        let host = host.try_into()?;
        server.subject_alt_names.push(SanType::DnsName(host));
    }
    server.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    server.use_authority_key_identifier_extension = true;

    let authority_key = KeyPair::generate()?;
    let authority_certificate = authority.self_signed(&authority_key)?;
    let key = KeyPair::generate()?;
    let issuer = Issuer::new(authority, authority_key);
    let certificate = server.signed_by(&key, &issuer)?;
    Ok(Pem {
        chain: certificate.pem() + &authority_certificate.pem(),
        key: key.serialize_pem(),
    })
}

fn name(common_name: &str) -> rcgen::DistinguishedName {
    let mut name = rcgen::DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

/// Puts `text` in the place of the file at `path`, all of it or nothing.
fn replace(path: &Path, text: &str, mode: u32) -> Result<(), TlsError> {
    let new = path.with_extension("new");
    // Left from a start that was broken off, perhaps with another mode.
    let _ = fs::remove_file(&new);
    let written = File::options()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&new)
        .and_then(|mut file| {
            // The certificate is for everybody, whatever the process keeps for itself.
            file.set_permissions(Permissions::from_mode(mode))?;
            file.write_all(text.as_bytes())?;
            file.sync_all()
        })
        .and_then(|()| fs::rename(&new, path));
    written.map_err(|error| TlsError::file("write", path, &error))
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    const DAY: Duration = Duration::from_hours(24);

    fn files() -> (TempDir, Files) {
        let directory = tempfile::tempdir().unwrap();
        let files = Files::own(directory.path());
        (directory, files)
    }

    /// Some moments at which a machine may think it is.
    fn moments() -> [SystemTime; 5] {
        // 1970 and a second later; 2026; after 2050, when certificates write time in another way; 2170.
        [0, 1, 1_790_000_000, 2_600_000_000, 6_307_200_000]
            .map(|seconds| UNIX_EPOCH + Duration::from_secs(seconds))
    }

    #[test]
    fn a_certificate_made_here_is_valid_at_once_and_a_day_before() {
        for now in moments() {
            let (_directory, files) = files();
            let made = files.load_or_make(now, Some("here")).unwrap();
            for before in [Duration::ZERO, Duration::from_secs(1), DAY] {
                let then = now.checked_sub(before).unwrap();
                assert!(made.serves(then, Some("here")), "{now:?} {before:?}");
            }
            let life = made.valid.end.duration_since(made.valid.start).unwrap();
            assert_eq!(life, VALIDITY);
            assert!(made.expiry > now + VALIDITY - 2 * DAY);
            assert!(now < UNIX_EPOCH + 2 * DAY || !made.serves(now - 2 * DAY, None));
        }
    }

    #[test]
    fn it_is_kept_as_long_as_it_is_valid_and_for_this_host() {
        for now in moments() {
            let (_directory, files) = files();
            let made = files.load_or_make(now, Some("here")).unwrap();
            for later in [Duration::ZERO, DAY, 793 * DAY] {
                let kept = files.load_or_make(now + later, Some("here")).unwrap();
                assert_eq!(kept.certificate, made.certificate, "{now:?} {later:?}");
            }
            let kept = files.load_or_make(now, None).unwrap();
            assert_eq!(kept.certificate, made.certificate);
        }
    }

    #[test]
    fn it_is_made_again_when_it_is_not_valid_or_for_another_host() {
        let [epoch, _, now, later, last] = moments();
        for (made_at, now, host) in [
            // A clock that started in 1970 and was set; one that lost its battery; years on a shelf.
            (epoch, now, "here"),
            (now, epoch, "here"),
            (now, later, "here"),
            (last, now, "here"),
            (now, now - 2 * DAY, "here"),
            (now, now + VALIDITY - VALIDITY_MIN, "here"),
            (now, now, "there"),
            (now, now, "her"),
        ] {
            let (_directory, files) = files();
            let old = files.load_or_make(made_at, Some("here")).unwrap();
            let new = files.load_or_make(now, Some(host)).unwrap();
            assert_ne!(
                new.certificate, old.certificate,
                "{made_at:?} {now:?} {host}"
            );
            assert!(new.serves(now, Some(host)) && new.lasts(now));
        }
    }

    #[test]
    fn a_certificate_of_somebody_else_is_for_the_names_that_it_is_for() {
        let (directory, files) = files();
        fs::create_dir_all(directory.path()).unwrap();
        let theirs = rcgen::generate_simple_self_signed(["example.org".to_owned()]).unwrap();
        fs::write(&files.certificate, theirs.cert.pem()).unwrap();
        fs::write(&files.key, theirs.signing_key.serialize_pem()).unwrap();
        let loaded = files.load_or_make(moments()[2], Some("here")).unwrap();
        assert_eq!(&loaded.certificate, theirs.cert.der());
    }

    #[test]
    fn a_clock_outside_of_all_certificates_makes_one_and_not_one_after_the_other() {
        for now in [UNIX_EPOCH - DAY, UNIX_EPOCH + 3 * CLOCK_MAX] {
            let (_directory, files) = files();
            let made = files.load_or_make(now, None).unwrap();
            assert!(made.serves(now, None));
            let kept = files.load_or_make(now, None).unwrap();
            assert_eq!(kept.certificate, made.certificate);
        }
    }

    #[test]
    fn a_file_whose_owner_or_permissions_changed_is_not_the_one_it_was() {
        let (_directory, files) = files();
        files.make(moments()[2], None).unwrap();
        for mode in [0o640, 0o600] {
            let before = files.stamps();
            let changed = |path: &Path| fs::metadata(path).unwrap().ctime_nsec();
            let old = changed(&files.key);
            // The clock of a file system moves in steps.
            while changed(&files.key) == old {
                fs::set_permissions(&files.key, Permissions::from_mode(mode)).unwrap();
            }
            assert_ne!(files.stamps(), before);
        }
    }
}
