//! TLS to a server: who it has to prove to be, and why it did not.
//!
//! It refuses to know what is said then. **Invariant:** a server that is not the one that was meant is sent nothing.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use rustls::client::WantsClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, ConfigBuilder, DigitallySignedStruct, Error, RootCertStore,
    SignatureScheme,
};
use rustls_platform_verifier::BuilderVerifierExt;

use super::url::ServerUrl;
use crate::digest::Digest;
use crate::file;
use crate::text;

/// Who is believed that a server is the one that was meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// The authorities that this system trusts.
    System,
    /// Those in a file, and nobody else.
    Authorities(PathBuf),
    /// Anybody who says so.
    Anybody,
    /// Who has the certificate with this digest.
    Certificate(Digest),
}

/// Whom to speak TLS with, and how.
#[derive(Clone, Debug)]
pub(super) struct Secure {
    pub(super) config: Arc<ClientConfig>,
    pub(super) name: ServerName<'static>,
}

impl Secure {
    /// With the server at `url`. Reads certificates, which takes some milliseconds.
    ///
    /// # Errors
    /// If the host is no name, or there is nobody to trust.
    pub(super) fn new(url: &ServerUrl, trust: &Trust) -> anyhow::Result<Self> {
        let host = url.bare_host();
        let name = ServerName::try_from(host.to_owned());
        let name =
            name.with_context(|| format!("{host} is not a name that a certificate can have"))?;
        let builder = ClientConfig::builder_with_provider(ring::default_provider().into())
            .with_safe_default_protocol_versions()?;
        let mut config = with_trust(builder, trust)?.with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self {
            config: config.into(),
            name,
        })
    }
}

fn with_trust(
    builder: ConfigBuilder<ClientConfig, rustls::WantsVerifier>,
    trust: &Trust,
) -> anyhow::Result<ConfigBuilder<ClientConfig, WantsClientCert>> {
    let certificate = match trust {
        Trust::System => {
            let none =
                "this system has no certificates of authorities; name some with --cacert FILE";
            return builder.with_platform_verifier().context(none);
        }
        Trust::Authorities(file) => {
            return Ok(builder.with_root_certificates(authorities(file)?));
        }
        Trust::Anybody => None,
        Trust::Certificate(certificate) => Some(*certificate),
    };
    let algorithms = builder.crypto_provider().signature_verification_algorithms;
    let pinned = Pinned {
        certificate,
        algorithms,
    };
    let builder = builder.dangerous();
    Ok(builder.with_custom_certificate_verifier(Arc::new(pinned)))
}

/// What an ASN.1 sequence begins with, and so a certificate in DER; no text does.
const DER_SEQUENCE: u8 = 0x30;

/// The certificates in a file, in PEM, or the one in it in DER.
fn authorities(path: &Path) -> anyhow::Result<RootCertStore> {
    let shown = path.display();
    let bytes = file::read(path).with_context(|| format!("cannot read {shown}"))?;
    let pem = text::tidy_pem(&String::from_utf8_lossy(&bytes));
    let mut certificates = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        // The error itself shows what it stumbled over.
        certificates.push(certificate.ok().with_context(|| {
            format!("{shown} is damaged: it has something that is not Base64; copy it again")
        })?);
    }
    if certificates.is_empty() && bytes.first() == Some(&DER_SEQUENCE) && bytes.contains(&0) {
        certificates.push(bytes.into());
    } else if certificates.is_empty() {
        let text = String::from_utf8_lossy(&bytes);
        let found = match text::pem_labels(&text).next() {
            None => "it is not PEM: it has no line -----BEGIN CERTIFICATE-----",
            Some("CERTIFICATE") => "it is cut short: a line -----END CERTIFICATE----- is missing",
            Some(_) => "what is in it is something else",
        };
        bail!(
            "{shown} has no certificate: {found}; --cacert takes what is in PEM, as `openssl x509 -in FILE` prints \
             it, or one certificate in DER"
        );
    }
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        let added = roots.add(certificate);
        added.ok().with_context(|| {
            format!(
                "a certificate in {shown} cannot be used: it is damaged or cut short; `openssl x509 -noout -text \
                 -in {shown}` shows how far it can be read"
            )
        })?;
    }
    Ok(roots)
}

/// Why there is no TLS with `host`, and what to do.
pub(super) fn explain(host: &str, error: &io::Error) -> String {
    use CertificateError as C;
    let error = error.get_ref().and_then(|error| error.downcast_ref());
    let of_certificate = match error {
        Some(Error::InvalidCertificate(error)) => error,
        Some(Error::InvalidMessage(_)) => {
            return format!("it does not speak HTTPS there; try http://{host}");
        }
        Some(error) => return format!("no TLS with it: {error}"),
        None => return "it broke off the TLS handshake".into(),
    };
    match of_certificate {
        C::Expired | C::ExpiredContext { .. } => "its certificate has expired".into(),
        C::NotValidYet | C::NotValidYetContext { .. } => {
            "its certificate is not valid yet, or the clock of this machine is wrong".into()
        }
        C::NotValidForName | C::NotValidForNameContext { .. } => {
            format!("its certificate is not for {host}")
        }
        // One of the same name, with another key.
        C::UnknownIssuer | C::BadSignature => {
            "its certificate is of no authority that is trusted here; name the file of one that is \
                             with --cacert"
                .into()
        }
        C::ApplicationVerificationFailure => "it has another certificate than it should".into(),
        // That of webpki is no variant of its own.
        error if format!("{error:?}").contains("CaUsedAsEndEntity") => {
            "its certificate is that of an authority, which no server may have; openssl makes another with \
             `-addext basicConstraints=critical,CA:FALSE`"
                .into()
        }
        error => format!("its certificate cannot be used: {error}"),
    }
}

/// Accepts one certificate, or any, whatever it says of names and times; only who has its key.
#[derive(Debug)]
struct Pinned {
    certificate: Option<Digest>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self
            .certificate
            .is_none_or(|known| Digest::of(end_entity) == known)
        {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
