//! Certificates and keys in PEM (RFC 7468), and what a file holds instead of them.
//!
//! It refuses to know what a certificate says. **Invariant:** what is wrong with a file is said with the command
//! that mends it, and nothing of what is in it.

use std::path::Path;

use rustls::crypto::ring;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::file;
use crate::text::{self, Encoding, NotUtf8};

/// What a file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Certificate,
    Key,
}

/// The certificates in the file at `path`, in their order; at least one.
///
/// # Errors
/// What is there instead, and what to do, in words.
pub(super) fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let bytes = read(path)?;
    let read = |bytes: &[u8]| CertificateDer::pem_slice_iter(bytes).collect();
    let all: Result<Vec<_>, _> = read(text::skip_mark(&bytes));
    match all {
        Ok(all) if !all.is_empty() => Ok(all),
        all => match read(&tidy(&bytes)) {
            Ok(tidied) if !tidied.is_empty() => Ok(tidied),
            _ => Err(explain(
                path,
                &bytes,
                Wanted::Certificate,
                all.as_ref().err(),
            )),
        },
    }
}

/// The first private key in the file at `path`.
///
/// # Errors
/// What is there instead, and what to do, in words.
pub(super) fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    let bytes = read(path)?;
    PrivateKeyDer::from_pem_slice(text::skip_mark(&bytes))
        .or_else(|error| PrivateKeyDer::from_pem_slice(&tidy(&bytes)).map_err(|_| error))
        .map_err(|error| explain(path, &bytes, Wanted::Key, Some(&error)))
}

fn tidy(bytes: &[u8]) -> Vec<u8> {
    text::tidy_pem(&String::from_utf8_lossy(bytes)).into_bytes()
}

/// Whether TLS can be spoken with a key.
///
/// # Errors
/// What kind of key it is, and what to do, in words.
pub(super) fn check_key(key: &PrivateKeyDer<'static>) -> Result<(), String> {
    let provider = ring::default_provider().key_provider;
    match provider.load_private_key(key.clone_key()) {
        Ok(_) => Ok(()),
        Err(_) => Err(explain_key(key.secret_der())),
    }
}

/// Why a key is of no use.
fn explain_key(der: &[u8]) -> String {
    let has = |id: &[u8]| der.windows(id.len()).any(|bytes| bytes == id);
    let kind = KEY_KINDS.iter().find(|(id, _)| has(id));
    match kind.map(|(_, kind)| *kind) {
        Some(kind) if kind.is_usual => format!(
            "it is a {} key that is damaged or cut short{}; copy it again",
            kind.name,
            if kind.name == "RSA" {
                ", or not of 2048 to 4096 bits"
            } else {
                ""
            }
        ),
        Some(kind) => format!(
            "it is a key for {}, and this server uses P-256, P-384, Ed25519 and RSA; `openssl genpkey -algorithm EC \
             -pkeyopt ec_paramgen_curve:P-256 -out NEW.key` makes one, which needs a certificate of its own",
            kind.name
        ),
        // In the form before PKCS#8 an RSA key does not say what it is.
        None => "it is damaged or cut short, or an RSA key not of 2048 to 4096 bits; copy it again"
            .into(),
    }
}

/// What a key is for.
#[derive(Clone, Copy, Debug)]
struct KeyKind {
    name: &'static str,
    /// Whether a good one can be used.
    is_usual: bool,
}

impl KeyKind {
    const fn usual(name: &'static str) -> Self {
        Self {
            name,
            is_usual: true,
        }
    }

    const fn other(name: &'static str) -> Self {
        Self {
            name,
            is_usual: false,
        }
    }
}

/// The object identifiers that tell keys: of curves (SEC 2, RFC 5639), of RFC 8410, and of RFC 8017.
const KEY_KINDS: [(&[u8], KeyKind); 13] = [
    (
        b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07",
        KeyKind::usual("P-256"),
    ),
    (b"\x06\x05\x2b\x81\x04\x00\x22", KeyKind::usual("P-384")),
    (b"\x06\x05\x2b\x81\x04\x00\x23", KeyKind::other("P-521")),
    (b"\x06\x05\x2b\x81\x04\x00\x21", KeyKind::other("P-224")),
    (b"\x06\x05\x2b\x81\x04\x00\x0a", KeyKind::other("secp256k1")),
    (
        b"\x06\x09\x2b\x24\x03\x03\x02\x08\x01\x01",
        KeyKind::other("a Brainpool curve"),
    ),
    (b"\x06\x03\x2b\x65\x70", KeyKind::usual("Ed25519")),
    (b"\x06\x03\x2b\x65\x71", KeyKind::other("Ed448")),
    (
        b"\x06\x03\x2b\x65\x6e",
        KeyKind::other("X25519, which signs nothing"),
    ),
    (
        b"\x06\x03\x2b\x65\x6f",
        KeyKind::other("X448, which signs nothing"),
    ),
    (
        b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01",
        KeyKind::usual("RSA"),
    ),
    (
        b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0a",
        KeyKind::other("RSA-PSS alone"),
    ),
    (
        b"\x06\x07\x2a\x86\x48\xce\x38\x04\x01",
        KeyKind::other("DSA"),
    ),
];

fn read(path: &Path) -> Result<Vec<u8>, String> {
    file::read(path).map_err(|error| error.to_string())
}

/// Why there is nothing wanted in a file.
fn explain(path: &Path, bytes: &[u8], wanted: Wanted, error: Option<&pem::Error>) -> String {
    let path = path.display();
    let found = Found::of(bytes);
    // The errors themselves have what they stumbled over in them.
    let damaged = || {
        match error {
        Some(pem::Error::MissingSectionEnd { .. }) => {
            "it is cut short: a line -----END …----- is missing; copy the whole file again".into()
        }
        Some(pem::Error::IllegalSectionStart { .. }) => {
            "it is damaged: a line -----BEGIN …----- is not whole; copy the file again".into()
        }
        Some(pem::Error::Base64Decode(_)) => {
            "it is damaged: what stands between -----BEGIN …----- and -----END …----- is not Base64; copy the file \
             again"
                .into()
        }
        _ => "it is damaged; copy it again".into(),
    }
    };
    let (a_key, a_certificate) = (wanted == Wanted::Key, wanted == Wanted::Certificate);
    match found {
        Found::Nothing => "the file is empty".into(),
        Found::Encoding(encoding) => format!("it is {}", NotUtf8::Encoding(encoding)),
        Found::Pkcs12 => {
            let what = if a_key { "-nocerts -noenc" } else { "-nokeys" };
            format!(
                "it is PKCS#12, not PEM; `openssl pkcs12 -in {path} {what} -out NEW.pem` takes out what is wanted"
            )
        }
        Found::EncryptedKey if a_key => format!(
            "it is encrypted, and a server cannot type its passphrase; `openssl pkey -in {path} -out NEW.key` \
             removes the passphrase"
        ),
        Found::EncryptedDerKey if a_key => format!(
            "it is DER, not PEM, and encrypted; `openssl pkcs8 -inform DER -in {path} -out NEW.key` makes it PEM \
             without a passphrase"
        ),
        Found::DerKey if a_key => format!(
            "it is DER, not PEM; `openssl pkey -inform DER -in {path} -out NEW.key` makes it PEM"
        ),
        Found::DerCertificate if a_certificate => format!(
            "it is DER, not PEM; `openssl x509 -inform DER -in {path} -out NEW.crt` makes it PEM"
        ),
        Found::TrustedCertificate if a_certificate => format!(
            "it is a certificate with trust settings of OpenSSL; `openssl x509 -in {path} -out NEW.crt` removes \
             them"
        ),
        Found::Pkcs7 => format!(
            "it is PKCS#7, not PEM of certificates; `openssl pkcs7 -print_certs -in {path} -out NEW.crt` takes them \
             out"
        ),
        Found::OpenSsh if a_key => format!(
            "it is a key of OpenSSH; `ssh-keygen -p -N '' -m PKCS8 -f COPY` turns a copy of {path} into one for TLS"
        ),
        Found::EncryptedKey
        | Found::EncryptedDerKey
        | Found::DerKey
        | Found::Key
        | Found::OpenSsh
            if a_certificate =>
        {
            "it holds a key and no certificate; is it the file for --tls-key?".into()
        }
        Found::Certificate | Found::TrustedCertificate | Found::DerCertificate if a_key => {
            "it holds a certificate and no key; is it the file for --tls-cert?".into()
        }
        Found::Request => {
            "it is a request for a certificate; the certificate is what the authority answers it \
                           with, and the key is in another file"
                .into()
        }
        Found::PublicKey => {
            "it is a public key; the private one, or the certificate, is in another file".into()
        }
        Found::Parameters => format!(
            "it holds parameters alone; `openssl genpkey -paramfile {path} -out NEW.key` makes a key with them"
        ),
        Found::DsaKey => {
            "it is a DSA key, which TLS does not use any more; make one for ECDSA or RSA".into()
        }
        Found::Other => "it is PEM of something else".into(),
        Found::Rubbish => "it is not PEM: it has no line -----BEGIN …-----".into(),
        _ => damaged(),
    }
}

/// What a file holds, by its first bytes or the first lines of its sections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    Nothing,
    Encoding(Encoding),
    Certificate,
    TrustedCertificate,
    DerCertificate,
    Key,
    EncryptedKey,
    DerKey,
    EncryptedDerKey,
    DsaKey,
    OpenSsh,
    PublicKey,
    Parameters,
    Request,
    Pkcs7,
    Pkcs12,
    Other,
    Rubbish,
}

impl Found {
    fn of(bytes: &[u8]) -> Self {
        if bytes.trim_ascii().is_empty() {
            return Self::Nothing;
        }
        if let Some(found) = Self::of_der(bytes) {
            return found;
        }
        if let Some(encoding) = Encoding::of(bytes) {
            return Self::Encoding(encoding);
        }
        let text = String::from_utf8_lossy(text::skip_mark(bytes));
        let is_encrypted = text
            .lines()
            .any(|line| line.trim_start().starts_with("Proc-Type: 4,ENCRYPTED"));
        let mut sections: Vec<_> = text::pem_labels(&text)
            .map(|label| Self::of_label(label, is_encrypted))
            .collect();
        // Parameters stand before the key that is made with them.
        sections.sort_by_key(|found| matches!(found, Self::Parameters | Self::Other));
        sections.first().copied().unwrap_or(Self::Rubbish)
    }

    /// By the label of a section, and whether one in the file is encrypted in the way before PKCS#8.
    fn of_label(label: &str, is_encrypted: bool) -> Self {
        match label {
            "CERTIFICATE" | "X509 CERTIFICATE" | "X.509 CERTIFICATE" => Self::Certificate,
            "TRUSTED CERTIFICATE" => Self::TrustedCertificate,
            "DSA PRIVATE KEY" => Self::DsaKey,
            "RSA PRIVATE KEY" | "EC PRIVATE KEY" if is_encrypted => Self::EncryptedKey,
            "PRIVATE KEY" | "RSA PRIVATE KEY" | "EC PRIVATE KEY" => Self::Key,
            "ENCRYPTED PRIVATE KEY" => Self::EncryptedKey,
            "OPENSSH PRIVATE KEY" => Self::OpenSsh,
            "PUBLIC KEY" | "RSA PUBLIC KEY" => Self::PublicKey,
            "EC PARAMETERS" | "DH PARAMETERS" | "DSA PARAMETERS" => Self::Parameters,
            "CERTIFICATE REQUEST" | "NEW CERTIFICATE REQUEST" => Self::Request,
            "PKCS7" | "PKCS #7 SIGNED DATA" => Self::Pkcs7,
            _ => Self::Other,
        }
    }

    /// By what an ASN.1 sequence begins with; `None` if it is none.
    fn of_der(bytes: &[u8]) -> Option<Self> {
        /// PBES2 and its like, by which a key in PKCS#8 is encrypted: RFC 8018, appendix A.
        const ENCRYPTION: &[u8] = b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x05";
        /// RFC 2315, section 14.
        const SIGNED_DATA: &[u8] = b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07";
        let content = sequence(bytes)?;
        Some(match content {
            [2, 1, 3, 0x30, ..] => Self::Pkcs12,
            // Version 0 of PKCS#8 and PKCS#1, version 1 of SEC 1.
            [2, 1, 0 | 1, ..] => Self::DerKey,
            _ if content.starts_with(SIGNED_DATA) => Self::Pkcs7,
            _ => match sequence(content)? {
                inner if inner.starts_with(ENCRYPTION) => Self::EncryptedDerKey,
                // The version of a request is 0 and stands alone; that of a certificate is tagged.
                [2, 1, 0, 0x30, ..] => Self::Request,
                [6, ..] => Self::PublicKey,
                _ => Self::DerCertificate,
            },
        })
    }
}

/// What an ASN.1 sequence begins with (X.690, section 8.1.3); `None` if it is none.
fn sequence(bytes: &[u8]) -> Option<&[u8]> {
    match bytes {
        [0x30, 0..=0x80, content @ ..]
        | [0x30, 0x81, _, content @ ..]
        | [0x30, 0x82, _, _, content @ ..]
        | [0x30, 0x83, _, _, _, content @ ..] => Some(content),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECTIONS: [(&str, Found); 14] = [
        ("CERTIFICATE", Found::Certificate),
        ("TRUSTED CERTIFICATE", Found::TrustedCertificate),
        ("PRIVATE KEY", Found::Key),
        ("RSA PRIVATE KEY", Found::Key),
        ("EC PRIVATE KEY", Found::Key),
        ("ENCRYPTED PRIVATE KEY", Found::EncryptedKey),
        ("OPENSSH PRIVATE KEY", Found::OpenSsh),
        ("DSA PRIVATE KEY", Found::DsaKey),
        ("PUBLIC KEY", Found::PublicKey),
        ("EC PARAMETERS", Found::Parameters),
        ("CERTIFICATE REQUEST", Found::Request),
        ("PKCS7", Found::Pkcs7),
        ("X509 CRL", Found::Other),
        ("PGP MESSAGE", Found::Other),
    ];

    fn section(label: &str) -> String {
        format!("-----BEGIN {label}-----\nAAAA\n-----END {label}-----\n")
    }

    #[test]
    fn sections_are_told_by_their_labels() {
        for (label, found) in SECTIONS {
            assert_eq!(Found::of(section(label).as_bytes()), found, "{label}");
            let text = format!(
                "\u{feff}Bag Attributes\r\n{}",
                section(label).replace('\n', "\r\n")
            );
            assert_eq!(Found::of(text.as_bytes()), found, "{label}");
        }
        let key = section("EC PARAMETERS") + &section("EC PRIVATE KEY");
        assert_eq!(Found::of(key.as_bytes()), Found::Key);
        let old = section("RSA PRIVATE KEY")
            .replace("AAAA", "Proc-Type: 4,ENCRYPTED\nDEK-Info: X,1\n\nAAAA");
        assert_eq!(Found::of(old.as_bytes()), Found::EncryptedKey);
    }

    #[test]
    fn what_is_no_pem_is_named() {
        for (bytes, found) in [
            (&b""[..], Found::Nothing),
            (b" \r\n\n", Found::Nothing),
            (b"MIIEvQ==", Found::Rubbish),
            (b"\xff\xfe-\0-\0", Found::Encoding(Encoding::Utf16)),
            (b"-\0-\0-\0", Found::Encoding(Encoding::Utf16)),
            (b"\0-\0-\0-", Found::Encoding(Encoding::Utf16)),
            (b"0\x82\x01\x02\x02\x01\x03\x30\x82", Found::Pkcs12),
            (b"0\x81\x87\x02\x01\0\x30\x13", Found::DerKey),
            (b"0\x77\x02\x01\x01\x04\x20", Found::DerKey),
            (
                b"0\x82\x03\x01\x30\x82\x02\x01\xa0\x03\x02\x01\x02",
                Found::DerCertificate,
            ),
            (
                b"0\x82\x03\x01\x30\x82\x02\x01\x02\x01\0\x30\x10",
                Found::Request,
            ),
            (b"0\x59\x30\x13\x06\x07\x2a", Found::PublicKey),
        ] {
            assert_eq!(Found::of(bytes), found, "{bytes:?}");
        }
    }

    #[test]
    fn nothing_of_a_file_is_shown() {
        for (label, _) in SECTIONS {
            let text = section(label).replace("AAAA", "c2VjcmV0 s3cret");
            for wanted in [Wanted::Certificate, Wanted::Key] {
                let said = explain("file.pem".as_ref(), text.as_bytes(), wanted, None);
                assert!(!said.contains("s3cret") && !said.contains("c2Vj"), "{said}");
            }
        }
    }
}
