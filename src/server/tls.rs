//! TLS: the handshake, with the certificate of the moment.
//!
//! rustls with ring, TLS 1.2 and 1.3, HTTP/1.1 and HTTP/2 by ALPN. A certificate is read again when
//! it is told to be and when its files change; connections that exist keep the one they began with.
//! **Invariant:** there is always a certificate that was checked with its key: a bad new one changes
//! nothing.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use rustls::ServerConfig;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tracing::{info, warn};

use super::certificate::{Files, Loaded, Stamps, TlsError, own_certificate};
use crate::config::CertificateConfig;
use crate::metrics::Metrics;

/// Encrypts connections, with the certificate of the moment.
#[derive(Debug)]
pub struct Tls {
    files: Files,
    current: RwLock<Arc<ServerConfig>>,
    /// Of the files when they were read last.
    stamps: Mutex<Stamps>,
    metrics: Arc<Metrics>,
}

impl Tls {
    /// Reads the certificate, or makes one in `data_dir` if there is none yet and it is asked for.
    ///
    /// # Errors
    /// If there is no certificate that can be used.
    pub fn new(
        certificate: &CertificateConfig,
        data_dir: &Path,
        metrics: Arc<Metrics>,
    ) -> Result<Self, TlsError> {
        let files = match certificate {
            CertificateConfig::Files { certificate, key } => Files {
                certificate: certificate.clone(),
                key: key.clone(),
            },
            CertificateConfig::SelfSigned => own_certificate(data_dir)?,
        };
        let stamps = files.stamps();
        let loaded = files.load()?;
        metrics.set_certificate_expiry(loaded.expiry);
        info!(certificate = %files.certificate.display(), expires = %humantime::format_rfc3339_seconds(loaded.expiry), "TLS certificate");
        Ok(Self {
            files,
            current: RwLock::new(loaded.config),
            stamps: Mutex::new(stamps),
            metrics,
        })
    }

    /// Shakes hands. Takes as long as the client takes.
    pub(super) async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let current = self.current.read();
        let config = Arc::clone(&current.unwrap_or_else(PoisonError::into_inner));
        TlsAcceptor::from(config).accept(stream).await
    }

    /// Reads the certificate again if one of its files is not the one it was; returns whether that is so.
    /// Blocks for two system calls.
    pub fn reload_if_changed(&self) -> bool {
        let has_changed = *self.stamps() != self.files.stamps();
        if has_changed {
            self.reload();
        }
        has_changed
    }

    /// Reads the certificate again; keeps the old one if the new one cannot be used. Blocks.
    pub fn reload(&self) {
        // Before they are read: what changes meanwhile is read again.
        *self.stamps() = self.files.stamps();
        match self.files.load() {
            Ok(Loaded { config, expiry }) => {
                self.metrics.set_certificate_expiry(expiry);
                let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
                *current = config;
                info!(expires = %humantime::format_rfc3339_seconds(expiry), "TLS certificate read again");
            }
            Err(error) => warn!(%error, "the TLS certificate stays the one it was"),
        }
    }

    fn stamps(&self) -> MutexGuard<'_, Stamps> {
        self.stamps.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
