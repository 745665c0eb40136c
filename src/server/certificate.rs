//! Certificates: read from files and checked with their keys, or made for this machine.
//!
//! A certificate made here is signed by an authority made for it, whose key is forgotten at once, so
//! that nothing else can ever be signed with it. Both are in `localhost.crt`: the server sends the
//! one, and a client that takes the file as a trust root trusts the other.

mod pem;

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::net::{Ipv4Addr, Ipv6Addr};
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
use x509_cert::der::Decode;

const CERTIFICATE_NAME: &str = "localhost.crt";
const KEY_NAME: &str = "localhost.key";

/// How long a certificate made here is valid: the longest that all clients accept.
const VALIDITY: Duration = Duration::from_hours(825 * 24);

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
pub(super) struct Loaded {
    pub(super) config: Arc<ServerConfig>,
    pub(super) expiry: SystemTime,
}

/// What tells a file from the one that was there before: modification time, inode and length, `None`
/// if there is no file.
pub(super) type Stamps = [Option<(SystemTime, u64, u64)>; 2];

impl Files {
    pub(super) fn stamps(&self) -> Stamps {
        [&self.certificate, &self.key].map(|path| {
            let metadata = fs::metadata(path).ok()?;
            Some((metadata.modified().ok()?, metadata.ino(), metadata.len()))
        })
    }

    pub(super) fn load(&self) -> Result<Loaded, TlsError> {
        let path = &self.certificate;
        let chain = pem::read_certificates(path)
            .map_err(|error| TlsError::file("read the certificate", path, &error))?;
        let first = chain
            .first()
            .ok_or_else(|| TlsError::certificate(path, &"there is none in it"))?;
        let expiry = expiry(first).map_err(|error| TlsError::certificate(path, &error))?;
        let key = pem::read_key(&self.key)
            .map_err(|error| TlsError::file("read the key", &self.key, &error))?;
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
            expiry,
        })
    }
}

fn expiry(certificate: &CertificateDer<'_>) -> Result<SystemTime, x509_cert::der::Error> {
    let certificate = Certificate::from_der(certificate)?;
    let not_after = certificate.tbs_certificate().validity().not_after;
    Ok(UNIX_EPOCH + not_after.to_unix_duration())
}

/// The certificate in `data_dir`, made there if there is none or it is valid no longer.
pub(super) fn own_certificate(data_dir: &Path) -> Result<Files, TlsError> {
    let files = Files {
        certificate: data_dir.join(CERTIFICATE_NAME),
        key: data_dir.join(KEY_NAME),
    };
    let lasts = |loaded: &Loaded| loaded.expiry > SystemTime::now() + VALIDITY_MIN;
    if files.load().as_ref().is_ok_and(lasts) {
        return Ok(files);
    }
    let Pem { chain, key } =
        make().map_err(|error| TlsError::certificate(&files.certificate, &error))?;
    // The key first: a certificate without one would look complete.
    replace(&files.key, &key, 0o600)?;
    replace(&files.certificate, &chain, 0o644)?;
    info!(certificate = %files.certificate.display(), "made a TLS certificate for this machine");
    Ok(files)
}

struct Pem {
    chain: String,
    key: String,
}

/// Makes a certificate for this machine, and the authority that signs it.
fn make() -> Result<Pem, rcgen::Error> {
    let now = SystemTime::now();
    let mut authority = CertificateParams::default();
    authority.not_before = now.into();
    authority.not_after = (now + VALIDITY).into();
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    authority.distinguished_name = name("digestd, for this machine only");

    let mut server = CertificateParams::default();
    server.not_before = authority.not_before;
    server.not_after = authority.not_after;
    server.distinguished_name = name("localhost");
    server.subject_alt_names = vec![
        SanType::DnsName("localhost".try_into()?),
        SanType::IpAddress(Ipv4Addr::LOCALHOST.into()),
        SanType::IpAddress(Ipv6Addr::LOCALHOST.into()),
    ];
    let host = rustix::system::uname();
    // One that is no DNS name is nothing that a client could ask for.
    if let Some(host) = host
        .nodename()
        .to_str()
        .ok()
        .filter(|host| *host != "localhost")
        && let Ok(host) = host.try_into()
    {
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
