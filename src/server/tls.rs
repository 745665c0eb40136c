//! TLS: the handshake, with the certificate of the moment.
//!
//! rustls with ring, TLS 1.2 and 1.3, HTTP/1.1 and HTTP/2 by ALPN. A certificate is read again when
//! it is told to be and when its files change; connections that exist keep the one they began with.
//! **Invariant:** there is always a certificate that was checked with its key: a bad new one changes
//! nothing. When to look at the files again is the caller's.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::time::SystemTime;

use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tracing::info;

use super::certificate::{Files, Loaded, Stamps, TlsError, host_name};
use crate::config::CertificateConfig;
use crate::metrics::Metrics;

/// Encrypts connections, with the certificate of the moment.
#[derive(Debug)]
pub struct Tls {
    files: Files,
    /// The certificate is made here, and made again when it is of no use any more.
    is_own: bool,
    current: RwLock<Loaded>,
    /// Of the files when they were read last.
    stamps: Mutex<Stamps>,
    metrics: Arc<Metrics>,
}

impl Tls {
    /// Reads the certificate, or makes one in `data_dir` if that is asked for and there is none that is valid, and
    /// for this machine.
    ///
    /// # Errors
    /// If there is no certificate that can be used.
    pub fn new(
        certificate: &CertificateConfig,
        data_dir: &Path,
        metrics: Arc<Metrics>,
    ) -> Result<Self, TlsError> {
        let is_own = *certificate == CertificateConfig::SelfSigned;
        let files = match certificate {
            CertificateConfig::Files { certificate, key } => Files {
                certificate: certificate.clone(),
                key: key.clone(),
            },
            CertificateConfig::SelfSigned => Files::own(data_dir),
        };
        // Before they are read: what changes meanwhile is read again.
        let mut stamps = files.stamps();
        let loaded = if is_own {
            let loaded = files.load_or_make(SystemTime::now(), host_name().as_deref())?;
            stamps = files.stamps();
            loaded
        } else {
            files.load()?
        };
        metrics.set_certificate_expiry(loaded.expiry);
        info!(certificate = %files.certificate.display(), expires = %humantime::format_rfc3339_seconds(loaded.expiry), "TLS certificate");
        Ok(Self {
            files,
            is_own,
            current: RwLock::new(loaded),
            stamps: Mutex::new(stamps),
            metrics,
        })
    }

    /// The certificate of the moment, in DER.
    #[must_use]
    pub fn certificate(&self) -> Vec<u8> {
        self.current().certificate.to_vec()
    }

    /// Shakes hands. Takes as long as the client takes.
    pub(super) async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let config = Arc::clone(&self.current().config);
        TlsAcceptor::from(config).accept(stream).await
    }

    /// Whether one of the files is not the one that was read. Blocks for two system calls.
    #[must_use]
    pub fn has_changed(&self) -> bool {
        *self.stamps() != self.files.stamps()
    }

    /// Reads the certificate again. Blocks.
    ///
    /// # Errors
    /// If the new one cannot be used; the old one is kept.
    pub fn reload(&self) -> Result<(), TlsError> {
        // Before they are read: what changes meanwhile is read again.
        *self.stamps() = self.files.stamps();
        self.replace(self.files.load()?);
        Ok(())
    }

    /// Makes a certificate of its own again if that is not valid `now`, or not for the name that this machine has;
    /// returns whether that was so. Blocks.
    ///
    /// # Errors
    /// If none can be made; the old one is kept.
    pub fn renew(&self, now: SystemTime) -> Result<bool, TlsError> {
        let host = host_name();
        if !self.is_own || self.current().serves(now, host.as_deref()) {
            return Ok(false);
        }
        let made = self.files.make(now, host.as_deref())?;
        *self.stamps() = self.files.stamps();
        self.replace(made);
        Ok(true)
    }

    fn replace(&self, loaded: Loaded) {
        let expiry = loaded.expiry;
        self.metrics.set_certificate_expiry(expiry);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = loaded;
        info!(expires = %humantime::format_rfc3339_seconds(expiry), "TLS certificate read again");
    }

    fn current(&self) -> RwLockReadGuard<'_, Loaded> {
        self.current.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn stamps(&self) -> MutexGuard<'_, Stamps> {
        self.stamps.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    const YEAR: Duration = Duration::from_hours(365 * 24);

    #[test]
    fn a_certificate_of_its_own_is_made_again_when_the_clock_jumps() {
        let directory = tempfile::tempdir().unwrap();
        let metrics = Arc::new(Metrics::default());
        let tls = Tls::new(&CertificateConfig::SelfSigned, directory.path(), metrics).unwrap();
        let now = SystemTime::now();
        assert!(!tls.renew(now).unwrap());
        for now in [now + 10 * YEAR, now, UNIX_EPOCH, now - 3 * YEAR] {
            let before = tls.certificate();
            assert!(tls.renew(now).unwrap(), "{now:?}");
            assert_ne!(tls.certificate(), before);
            assert!(!tls.renew(now).unwrap(), "{now:?}");
            assert!(!tls.has_changed());
        }
    }

    #[test]
    fn the_certificate_of_an_operator_is_left_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let files = Files::own(directory.path());
        files.make(UNIX_EPOCH, None).unwrap();
        let config = CertificateConfig::Files {
            certificate: files.certificate.clone(),
            key: files.key.clone(),
        };
        let tls = Tls::new(&config, directory.path(), Arc::default()).unwrap();
        assert!(!tls.renew(SystemTime::now()).unwrap());
    }

    #[test]
    fn one_that_cannot_be_made_again_leaves_the_old_one_and_is_tried_again() {
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path().join("data");
        std::fs::create_dir(&data).unwrap();
        let tls = Tls::new(&CertificateConfig::SelfSigned, &data, Arc::default()).unwrap();
        let before = tls.certificate();
        let later = SystemTime::now() + 10 * YEAR;
        std::fs::rename(&data, directory.path().join("away")).unwrap();
        tls.renew(later).unwrap_err();
        assert_eq!(tls.certificate(), before);
        std::fs::rename(directory.path().join("away"), &data).unwrap();
        assert!(tls.renew(later).unwrap());
    }
}
