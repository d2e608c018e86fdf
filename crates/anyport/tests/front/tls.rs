//! TLS in front of a service.

use std::fs;
use std::time::Duration;

use anyport::server::CertificateFiles;
use rustls::version::{TLS12, TLS13};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::frames::{HEADERS, SETTINGS, frame, get};
use super::service::{Service, all, certificate, echo, of_versions, pair, shake, status, trusting, until};
use crate::support::{Tested, within};

const HELLO: &[u8] = b"GET /headers HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

fn secure(names: &[&str]) -> Service {
    Service::with(|_, front| front.certificates = names.iter().map(|name| pair(name)).collect())
}

async fn ask(mut stream: TlsStream<TcpStream>) -> Tested<String> {
    within("sending", stream.write_all(HELLO)).await?;
    all(&mut stream).await
}

/// The server's certificate, for a client that asks for this name.
async fn shown(service: &Service, connector: &TlsConnector, name: &str) -> Tested<Vec<u8>> {
    let stream = shake(connector, name, service.connect().await?).await?;
    let shown = stream.get_ref().1.peer_certificates().expect("a server has one")[0].to_vec();
    Ok(shown)
}

fn der(name: &str) -> Vec<u8> {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;
    CertificateDer::from_pem_file(certificate(&format!("{name}.pem"))).expect("PEM").to_vec()
}

#[tokio::test]
async fn requests_come_over_tls_of_both_versions() -> Tested {
    for service in Service::of_each_version(|_, front| front.certificates = vec![pair("local")]) {
        for version in [&TLS12, &TLS13] {
            let connector = of_versions(&[version], |_| {});
            let stream = shake(&connector, "localhost", service.connect().await?).await?;
            assert_eq!(stream.get_ref().1.protocol_version(), Some(version.version));
            let answer = ask(stream).await?;
            assert_eq!(status(&answer), 200, "{answer}");
            // The guest is told.
            assert!(answer.contains("scheme https\nauthority localhost\n"), "{answer}");
        }
    }
    Ok(())
}

/// Also of RSA.
#[tokio::test]
async fn keys_are_of_any_kind_and_chosen_by_what_a_client_knows() -> Tested {
    let service = secure(&["rsa"]);
    let connector = trusting(|_| {});
    assert_eq!(shown(&service, &connector, "localhost").await?, der("rsa"));
    Ok(())
}

#[tokio::test]
async fn http_2_is_agreed_upon() -> Tested {
    let service = secure(&["local"]);
    for (offered, agreed) in [(&["h2", "http/1.1"][..], Some("h2")), (&["http/1.1"], Some("http/1.1")), (&[], None)] {
        let connector =
            trusting(|config| config.alpn_protocols = offered.iter().map(|name| name.as_bytes().to_vec()).collect());
        let mut stream = shake(&connector, "localhost", service.connect().await?).await?;
        assert_eq!(stream.get_ref().1.alpn_protocol(), agreed.map(str::as_bytes));
        if agreed == Some("h2") {
            let hello =
                [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &frame(SETTINGS, 0, 0, &[])[..], &get(1, "/hello")].concat();
            within("sending", stream.write_all(&hello)).await?;
            let answer = until(&mut stream, "Hello\n").await?;
            assert!(answer.as_bytes().contains(&HEADERS));
        } else {
            assert_eq!(status(&ask(stream).await?), 200);
        }
    }
    // Nothing that both know is no handshake.
    let connector = trusting(|config| config.alpn_protocols = vec![b"spdy/1".to_vec()]);
    let refused = shake(&connector, "localhost", service.connect().await?).await;
    assert!(refused.is_err(), "it is taken");
    Ok(())
}

#[tokio::test]
async fn the_certificate_is_the_one_of_the_name() -> Tested {
    let service = secure(&["local", "other"]);
    let connector = trusting(|_| {});
    for (name, wanted) in
        [("localhost", "local"), ("other.example", "other"), ("a.wild.example", "other"), ("127.0.0.1", "local")]
    {
        assert_eq!(shown(&service, &connector, name).await?, der(wanted), "{name}");
    }
    // None is of this name: the client sees the first, and refuses it.
    assert!(shown(&service, &connector, "nobody.example").await.is_err());
    Ok(())
}

#[tokio::test]
async fn new_files_are_taken_and_broken_ones_are_not() -> Tested {
    let folder = tempfile::tempdir().expect("a folder");
    let [chain, key] = ["cert.pem", "key.pem"].map(|name| folder.path().join(name));
    let put = |name: &str| {
        fs::copy(certificate(&format!("{name}.key")), &key).expect("it is ours");
        fs::copy(certificate(&format!("{name}.pem")), &chain).expect("it is ours");
    };
    put("local");
    let files = CertificateFiles { chain: chain.clone(), key: key.clone() };
    let service = Service::with(|_, front| front.certificates = vec![files]);
    let connector = trusting(|_| {});
    let shows = async |wanted: &str| {
        let wanted = der(wanted);
        within("waiting for the other certificate", async {
            while shown(&service, &connector, "localhost").await? != wanted {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Ok(())
        })
        .await
    };
    shows("local").await?;
    put("renewed");
    shows("renewed").await?;
    // The key is another's.
    fs::copy(certificate("local.key"), &key).expect("it is ours");
    fs::write(&chain, "nothing").expect("it is ours");
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(shown(&service, &connector, "localhost").await?, der("renewed"));
    assert_eq!(shown(&service, &connector, "localhost").await?, der("renewed"));
    put("local");
    shows("local").await
}

#[tokio::test]
async fn what_is_no_handshake_ends_and_delays_nobody() -> Tested {
    let limit = Duration::from_secs(2);
    let mut service = Service::with(|limits, front| {
        limits.header_timeout = limit;
        front.certificates = vec![pair("local")];
    });
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(service.connect().await?);
    }
    let connector = trusting(|_| {});
    let began = std::time::Instant::now();
    assert_eq!(status(&ask(shake(&connector, "localhost", service.connect().await?).await?).await?), 200);
    assert!(began.elapsed() < limit, "{:?}", began.elapsed());
    for mut stream in silent {
        all(&mut stream).await?;
    }
    assert!(began.elapsed() >= limit, "{:?}", began.elapsed());
    // Without TLS nothing is answered.
    let mut plain = service.connect().await?;
    within("sending", plain.write_all(b"GET /stdout?text=called HTTP/1.1\r\nHost: a\r\n\r\n")).await?;
    assert_eq!(status(&all(&mut plain).await?), 0);
    drop(plain);
    // This program needs none.
    let stream = service.running.connect(8080).expect("it is published");
    stream.set_nonblocking(true).expect("a socket");
    let mut inner = tokio::net::UnixStream::from_std(stream).expect("a runtime");
    within("sending", inner.write_all(HELLO)).await?;
    let answer = all(&mut inner).await?;
    assert!(answer.contains("scheme http\n"), "{answer}");
    drop(inner);
    service.running.stop();
    let mut rest = String::new();
    within("waiting for the end", async {
        use tokio::io::AsyncReadExt;
        service.printed().read_to_string(&mut rest).await
    })
    .await?;
    assert_eq!(rest, "");
    Ok(())
}

#[test]
fn files_that_are_not_right_are_explained() {
    let folder = tempfile::tempdir().expect("a folder");
    let empty = folder.path().join("empty");
    fs::write(&empty, "").expect("it is ours");
    let [local, other] = ["local", "other"].map(pair);
    let missing = folder.path().join("missing");
    for (chain, key, wanted) in [
        (&local.chain, &other.key, "is not that of the certificate"),
        (&missing, &local.key, "cannot be read: No such file"),
        (&local.chain, &missing, "cannot be read: No such file"),
        (&empty, &local.key, "there is no certificate in"),
        (&local.key, &local.key, "there is no certificate in"),
        (&local.chain, &local.chain, "there is no key in"),
        (&folder.path().to_owned(), &local.key, "it is no file"),
    ] {
        let publish = vec!["0:8080".parse().expect("a port")];
        let mut front = anyport::server::Front::default();
        front.certificates = vec![CertificateFiles { chain: chain.clone(), key: key.clone() }];
        let server = echo().policy(anyport::Policy { publish, ..Default::default() }).front(front);
        let Err(error) = server.start() else { panic!("it starts: {wanted}") };
        assert!(error.to_string().contains(wanted), "{error}, and not {wanted}");
        assert!(error.hint().is_some(), "{error}");
    }
}
