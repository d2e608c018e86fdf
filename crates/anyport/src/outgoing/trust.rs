//! Whom a guest's requests trust: the system's certificates, and those that the person adds.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tokio::sync::OnceCell;

use super::fault::Fault;
use crate::error::Error;
use crate::spelling::option;

/// The certificates of a server's guests, and with them the sessions that are resumed.
#[derive(Default)]
pub(crate) struct Trust {
    added: Vec<CertificateDer<'static>>,
    /// Made at the first request over TLS: reading the system's takes some milliseconds.
    config: OnceCell<Arc<ClientConfig>>,
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trust").field("added", &self.added.len()).finish_non_exhaustive()
    }
}

impl Trust {
    /// The system's certificates, and those of these files.
    pub(crate) fn new<'f>(files: impl IntoIterator<Item = &'f Path>) -> Result<Self, Error> {
        let mut added = Vec::new();
        for file in files {
            added.extend(certificates(file)?);
        }
        Ok(Self { added, config: OnceCell::new() })
    }

    /// How a connection over TLS is made.
    pub(super) async fn config(&self) -> Result<Arc<ClientConfig>, Fault> {
        let made = self.config.get_or_try_init(|| async {
            let added = self.added.clone();
            let made = tokio::task::spawn_blocking(|| client_config(added)).await;
            made.map_err(|_| Fault::Configuration)?.map_err(|error| {
                tracing::warn!("the guest's requests cannot use TLS: {error}");
                Fault::Configuration
            })
        });
        made.await.map(Arc::clone)
    }
}

/// The certificates of a PEM file, of which there is one at least.
fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let refused = |why: String| {
        Error::host(format!("the certificates of `{}` cannot be used: {why}", file.display())).with_hint(
            "it is a PEM file with the certificate of an authority, which begins with `-----BEGIN CERTIFICATE-----`",
        )
    };
    let text = std::fs::read(file).map_err(|error| refused(error.to_string()))?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let found = found.map_err(|error| refused(error.to_string()))?;
    if found.is_empty() {
        return Err(refused("there is none in it".to_owned()));
    }
    let mut tried = RootCertStore::empty();
    for certificate in &found {
        tried.add(certificate.clone()).map_err(|error| refused(error.to_string()))?;
    }
    Ok(found)
}

fn client_config(added: Vec<CertificateDer<'static>>) -> Result<Arc<ClientConfig>, rustls::Error> {
    let system = rustls_native_certs::load_native_certs();
    for error in &system.errors {
        tracing::debug!("some of the system's certificates are not read: {error}");
    }
    let mut roots = RootCertStore::empty();
    let (known, _) = roots.add_parsable_certificates(system.certs);
    if known == 0 && added.is_empty() {
        tracing::warn!(
            "this machine has no certificates to know servers by; install its package `ca-certificates`, or add `{}`",
            option("ca-file", "FILE")
        );
    }
    roots.add_parsable_certificates(added);
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_certificates_has_one() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("ca.pem");
        let not_one = "-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n";
        for text in ["", "hello\n", not_one, "-----BEGIN CERTIFICATE-----\n"] {
            std::fs::write(&file, text).expect("room");
            let error = Trust::new([file.as_path()]).expect_err("none");
            assert!(error.to_string().starts_with("the certificates of `"), "{error}");
            assert!(error.hint().is_some());
        }
        assert!(Trust::new([folder.path().join("none").as_path()]).is_err());
        assert!(Trust::new([]).is_ok());
    }
}
