//! TLS of public ports: certificates from files, chosen by the name that a client asks for, read again when they
//! change.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

use rustls::client::verify_server_name;
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring;
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{InconsistentKeys, ServerConfig};
use tokio_rustls::TlsAcceptor;

use crate::error::{Error, printable};

/// A certificate and its key, in files of PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The certificate, and behind it those that it was issued by.
    pub chain: PathBuf,
    /// Its key: PKCS #8, PKCS #1 or SEC1.
    pub key: PathBuf,
}

/// How often it is looked whether files have changed, at most: a stat for each file is nothing beside a handshake.
const LOOK: Duration = Duration::from_secs(1);

/// A file of certificates has a few KiB.
const FILE_BYTES_MOST: u64 = 1 << 20;

/// What takes connections over TLS, with these protocols above it.
pub(crate) fn acceptor(files: &[CertificateFiles], protocols: &[&str]) -> Result<TlsAcceptor, Error> {
    let provider = Arc::new(ring::default_provider());
    let certificates = Certificates::load(files, &provider)?;
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.map_err(|error| Error::host(format!("TLS cannot be set up: {error}")))?;
    let mut config = config.with_no_client_auth().with_cert_resolver(Arc::new(certificates));
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// The certificates of a server.
struct Certificates {
    files: Vec<CertificateFiles>,
    provider: Arc<CryptoProvider>,
    current: Mutex<Current>,
}

struct Current {
    pairs: Arc<Vec<Pair>>,
    /// Of each file when it was read last.
    stamps: Vec<Stamp>,
    looked: Instant,
}

/// A certificate with its key.
struct Pair {
    key: Arc<CertifiedKey>,
    leaf: CertificateDer<'static>,
}

/// What tells that a file is another: when it was written, how long it is, which it is.
type Stamp = Option<(SystemTime, u64, u64)>;

impl Certificates {
    fn load(files: &[CertificateFiles], provider: &Arc<CryptoProvider>) -> Result<Self, Error> {
        let stamps = stamps(files);
        let pairs = Arc::new(read_all(files, provider)?);
        let current = Mutex::new(Current { pairs, stamps, looked: Instant::now() });
        Ok(Self { files: files.to_vec(), provider: Arc::clone(provider), current })
    }

    /// Those that are in the files now, or were when these were right last.
    fn pairs(&self) -> Arc<Vec<Pair>> {
        let mut current = self.lock();
        if current.looked.elapsed() >= LOOK {
            current.looked = Instant::now();
            let stamps = stamps(&self.files);
            if stamps != current.stamps {
                current.stamps = stamps;
                self.reload(&mut current);
            }
        }
        Arc::clone(&current.pairs)
    }

    /// Once for each change: what is wrong with a file is told once.
    fn reload(&self, current: &mut Current) {
        match read_all(&self.files, &self.provider) {
            Ok(pairs) => {
                current.pairs = Arc::new(pairs);
                tracing::info!("the certificates were read again");
            }
            Err(error) => tracing::warn!("the certificates stay as they were: {error}"),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Current> {
        self.current.lock().expect("no panic while held")
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.files.fmt(f)
    }
}

impl ResolvesServerCert for Certificates {
    /// The first for the client's name whose key it can check, else the first that it can check.
    fn resolve(&self, client: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = client.server_name().and_then(|name| ServerName::try_from(name).ok());
        let pairs = self.pairs();
        let usable = || pairs.iter().filter(|pair| pair.key.key.choose_scheme(client.signature_schemes()).is_some());
        let named = name.and_then(|name| usable().find(|pair| pair.is_for(&name)));
        named.or_else(|| usable().next()).map(|pair| Arc::clone(&pair.key))
    }
}

impl Pair {
    fn is_for(&self, name: &ServerName<'_>) -> bool {
        ParsedCertificate::try_from(&self.leaf).is_ok_and(|leaf| verify_server_name(&leaf, name).is_ok())
    }
}

fn stamps(files: &[CertificateFiles]) -> Vec<Stamp> {
    files.iter().flat_map(|pair| [&pair.chain, &pair.key]).map(|file| stamp(file)).collect()
}

fn stamp(file: &Path) -> Stamp {
    use std::os::unix::fs::MetadataExt;
    let known = fs::metadata(file).ok()?;
    Some((known.modified().ok()?, known.len(), known.ino()))
}

fn read_all(files: &[CertificateFiles], provider: &CryptoProvider) -> Result<Vec<Pair>, Error> {
    files.iter().map(|files| read(files, provider)).collect()
}

fn read(files: &CertificateFiles, provider: &CryptoProvider) -> Result<Pair, Error> {
    let chain = chain(&files.chain)?;
    let leaf = chain[0].clone();
    let key = key(&files.key)?;
    let pair = CertifiedKey::from_der(chain, key, provider).map_err(|error| unfit(files, &error))?;
    Ok(Pair { key: Arc::new(pair), leaf })
}

fn chain(file: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let read = CertificateDer::pem_slice_iter(&bytes_of(file)?).collect::<Result<Vec<_>, _>>();
    let chain = read.map_err(|error| broken(file, &error))?;
    let Some(leaf) = chain.first() else {
        return Err(Error::host(format!("there is no certificate in {}", name(file))).with_hint(FORM));
    };
    match ParsedCertificate::try_from(leaf) {
        Ok(_) => Ok(chain),
        Err(error) => Err(Error::host(format!("the certificate in {} is not right: {error}", name(file)))
            .with_hint("the server's own certificate stands first, of version 3 and with its names in it")),
    }
}

fn key(file: &Path) -> Result<PrivateKeyDer<'static>, Error> {
    PrivateKeyDer::from_pem_slice(&bytes_of(file)?).map_err(|error| match error {
        PemError::NoItemsFound => {
            let hint = "a key begins with `-----BEGIN PRIVATE KEY-----`; one with a passphrase cannot be used";
            Error::host(format!("there is no key in {}", name(file))).with_hint(hint)
        }
        error => broken(file, &error),
    })
}

fn bytes_of(file: &Path) -> Result<Vec<u8>, Error> {
    let unreadable = |why: String| {
        Error::host(format!("{} cannot be read: {why}", name(file)))
            .with_hint("it is a file that you may read: `--tls-cert FILE --tls-key FILE`")
    };
    match fs::metadata(file) {
        Ok(known) if known.len() > FILE_BYTES_MOST => Err(unreadable("it is too large".to_owned())),
        Ok(known) if known.is_file() => fs::read(file).map_err(|error| unreadable(error.to_string())),
        Ok(_) => Err(unreadable("it is no file".to_owned())),
        Err(error) => Err(unreadable(error.to_string())),
    }
}

fn broken(file: &Path, error: &PemError) -> Error {
    Error::host(format!("{} is no file of PEM: {error}", name(file))).with_hint(FORM)
}

fn unfit(files: &CertificateFiles, error: &rustls::Error) -> Error {
    let (chain, key) = (name(&files.chain), name(&files.key));
    match error {
        rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
            Error::host(format!("the key in {key} is not that of the certificate in {chain}"))
                .with_hint("the first `--tls-key` belongs to the first `--tls-cert`, and so on")
        }
        error => Error::host(format!("the key in {key} cannot be used: {error}"))
            .with_hint("keys are RSA from 2048 bits, ECDSA on P-256 or P-384, or Ed25519"),
    }
}

fn name(file: &Path) -> String {
    format!("`{}`", printable(&file.display().to_string()))
}

const FORM: &str = "a certificate begins with `-----BEGIN CERTIFICATE-----`, as `--tls-cert` takes it";
