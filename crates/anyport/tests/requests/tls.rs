//! HTTPS: certificates, HTTP/2 and HTTP/1.1 as the server has them.

use std::convert::Infallible;
use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use h2::Reason;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rcgen::{CertifiedKey, KeyPair, generate_simple_self_signed};
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::PrivateKeyDer;
use tempfile::TempDir;
use tokio_rustls::TlsAcceptor;

use super::client::{Guest, server};

/// A server with a certificate of its own, which says in what version it was asked.
struct Secure {
    address: SocketAddr,
    folder: TempDir,
    accepted: Arc<AtomicUsize>,
}

impl Secure {
    fn new(name: &str, protocols: &[&str]) -> Self {
        Self::of(name, protocols, serve)
    }

    fn of<F: Future<Output = ()>>(
        name: &str, protocols: &[&str],
        play: impl FnOnce(std::net::TcpListener, TlsAcceptor, Arc<AtomicUsize>) -> F + Send + 'static,
    ) -> Self {
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed([name.to_owned()]).expect("a certificate can be made");
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("ca.pem"), cert.pem()).expect("room");
        let acceptor = acceptor(&cert, &signing_key, protocols);
        let accepted = Arc::new(AtomicUsize::new(0));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        listener.set_nonblocking(true).expect("a socket");
        let count = Arc::clone(&accepted);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(play(listener, acceptor, count));
        });
        Self { address, folder, accepted }
    }

    fn url(&self, host: &str) -> String {
        format!("https://{host}:{}/", self.address.port())
    }

    /// A guest that trusts it.
    fn guest(&self) -> Guest {
        Guest::start(server(&["private"]).ca_file(self.folder.path().join("ca.pem")))
    }
}

fn acceptor(certificate: &rcgen::Certificate, key: &KeyPair, protocols: &[&str]) -> TlsAcceptor {
    let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring has them")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .expect("they belong together");
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    TlsAcceptor::from(Arc::new(config))
}

async fn serve(listener: std::net::TcpListener, acceptor: TlsAcceptor, accepted: Arc<AtomicUsize>) {
    let listener = tokio::net::TcpListener::from_std(listener).expect("a socket");
    loop {
        let (stream, _) = listener.accept().await.expect("a connection");
        accepted.fetch_add(1, Ordering::SeqCst);
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            // A client that does not trust it ends the connection.
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let answer = service_fn(|request: Request<Incoming>| async move {
                let host = request.headers().get("host").is_some();
                let text = format!("{:?}, host {host}", request.version());
                Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(text))))
            });
            let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), answer).await;
        });
    }
}

#[test]
fn a_server_is_asked_in_its_version_and_its_connection_kept() {
    for (protocols, want) in [
        (&["h2", "http/1.1"][..], "HTTP/2.0, host false"),
        (&["http/1.1"], "HTTP/1.1, host true"),
        (&[], "HTTP/1.1, host true"),
    ] {
        let secure = Secure::new("localhost", protocols);
        let guest = secure.guest();
        for _ in 0..3 {
            assert_eq!(guest.fetch(&secure.url("localhost")), (200, want.to_owned()));
        }
        assert_eq!(secure.accepted.load(Ordering::SeqCst), 1, "{protocols:?}");
    }
}

/// Says by HTTP/2, after the head of a request: that request is given up, or the connection, for this reason.
async fn refuse(listener: std::net::TcpListener, acceptor: TlsAcceptor, reason: Reason, all: bool) {
    let listener = tokio::net::TcpListener::from_std(listener).expect("a socket");
    loop {
        let (stream, _) = listener.accept().await.expect("a connection");
        let stream = acceptor.accept(stream).await.expect("a client that trusts it");
        let mut connection = h2::server::handshake(stream).await.expect("a client of HTTP/2");
        let (_request, mut answer) = connection.accept().await.expect("a request").expect("it is right");
        match all {
            true => connection.abrupt_shutdown(reason),
            false => answer.send_reset(reason),
        }
        let _ = std::future::poll_fn(|context| connection.poll_closed(context)).await;
    }
}

#[test]
fn the_reason_of_http_2_is_told() {
    for (reason, all, want) in [
        (Reason::REFUSED_STREAM, false, "connection-terminated\n"),
        (Reason::CANCEL, false, "connection-terminated\n"),
        (Reason::INTERNAL_ERROR, false, "connection-terminated\n"),
        (Reason::HTTP_1_1_REQUIRED, false, "http-upgrade-failed\n"),
        (Reason::INADEQUATE_SECURITY, false, "tls-protocol-error\n"),
        // Of a connection as a whole hyper tells only that it is gone.
        (Reason::ENHANCE_YOUR_CALM, true, "connection-terminated\n"),
        (Reason::PROTOCOL_ERROR, false, "http-protocol-error\n"),
        (Reason::FLOW_CONTROL_ERROR, false, "http-protocol-error\n"),
    ] {
        let secure =
            Secure::of("localhost", &["h2"], move |listener, acceptor, _| refuse(listener, acceptor, reason, all));
        assert_eq!(secure.guest().fetch(&secure.url("localhost")), (502, want.to_owned()), "{reason:?} {all}");
    }
}

/// Answers one request, and gives up each other of its connection for this reason.
async fn refuse_others(
    listener: std::net::TcpListener, acceptor: TlsAcceptor, reason: Reason, refused: Arc<AtomicUsize>,
) {
    let listener = tokio::net::TcpListener::from_std(listener).expect("a socket");
    loop {
        let (stream, _) = listener.accept().await.expect("a connection");
        let stream = acceptor.accept(stream).await.expect("a client that trusts it");
        let mut connection = h2::server::handshake(stream).await.expect("a client of HTTP/2");
        let mut is_first = true;
        while let Some(Ok((_request, mut answer))) = connection.accept().await {
            if std::mem::take(&mut is_first) {
                answer.send_response(Response::new(()), true).expect("it is open");
            } else {
                refused.fetch_add(1, Ordering::SeqCst);
                answer.send_reset(reason);
            }
        }
    }
}

/// Which would double the work of a server that asks for less. What it has refused it has not looked at.
#[test]
fn a_request_that_is_given_up_is_not_sent_again() {
    for (reason, times) in
        [(Reason::ENHANCE_YOUR_CALM, 1), (Reason::INTERNAL_ERROR, 1), (Reason::CANCEL, 1), (Reason::REFUSED_STREAM, 2)]
    {
        let refused = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&refused);
        let secure = Secure::of("localhost", &["h2"], move |listener, acceptor, _| {
            refuse_others(listener, acceptor, reason, count)
        });
        let guest = secure.guest();
        assert_eq!(guest.fetch(&secure.url("localhost")).0, 200);
        assert_eq!(guest.fetch(&secure.url("localhost")), (502, "connection-terminated\n".to_owned()));
        assert_eq!(refused.load(Ordering::SeqCst), times, "{reason:?}");
    }
}

#[test]
fn a_certificate_is_for_its_name_and_of_an_authority_that_is_known() {
    let secure = Secure::new("localhost", &[]);
    let refused = (502, "tls-certificate-error\n".to_owned());
    // Of another name.
    assert_eq!(secure.guest().fetch(&secure.url("127.0.0.1")), refused);
    // Of nobody that the system knows.
    assert_eq!(Guest::allowed(&["private"]).fetch(&secure.url("localhost")), refused);
    let numbered = Secure::new("127.0.0.1", &[]);
    assert_eq!(numbered.guest().fetch(&numbered.url("127.0.0.1")).0, 200);
}

#[test]
fn a_server_without_tls_is_an_error_of_tls() {
    let plain = super::upstream::Upstream::new(|mut connection| connection.write("HTTP/1.1 400 Bad Request\r\n\r\n"));
    let guest = Guest::allowed(&["private"]);
    let fetched = guest.fetch(&format!("https://127.0.0.1:{}/", plain.port));
    assert_eq!(fetched, (502, "tls-protocol-error\n".to_owned()));
}

#[test]
fn a_file_of_certificates_that_is_none_is_told_at_the_start() {
    let folder = tempfile::tempdir().expect("a folder");
    let error = server(&[]).ca_file(folder.path().join("none.pem")).start().err().expect("it is not there");
    assert!(error.to_string().contains("none.pem"), "{error}");
}
