//! The health port: for every kind of guest, whatever that is doing.

use std::net::SocketAddr;
use std::time::Duration;

use anyport::server::Front;
use anyport::{Policy, Running};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::service::{Service, all, status};
use crate::support::{Client, Guest, Tested, within};

fn front() -> Front {
    let mut front = Front::default();
    front.health = Some("127.0.0.1:0".parse().expect("an address"));
    front
}

async fn ask(address: SocketAddr, method: &str, path: &str) -> Tested<String> {
    let mut stream = within("connecting", TcpStream::connect(address)).await?;
    let request = format!("{method} {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    within("sending", stream.write_all(request.as_bytes())).await?;
    all(&mut stream).await
}

async fn says(running: &Running, path: &str) -> Tested<u16> {
    let address = running.health_address().expect("it is asked for");
    Ok(status(&ask(address, "GET", path).await?))
}

async fn until_ready(running: &Running) -> Tested {
    within("waiting for the guest to listen", async {
        while says(running, "/readyz").await? != 200 {
            tokio::task::yield_now().await;
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn it_tells_how_the_server_is() -> Tested {
    for workers in [1, 2] {
        let policy = Policy { publish: vec!["0:8080".parse().expect("a port")], ..Policy::default() };
        let server = Guest::Wasmedge.server().policy(policy).workers(workers).front(front());
        let running = server.start().unwrap_or_else(|error| panic!("{error}"));
        let address = running.health_address().expect("it is asked for");
        until_ready(&running).await?;
        assert_eq!(says(&running, "/healthz").await?, 200);
        // A guest that computes is no reason to say nothing.
        let port = running.ports()[0].address().expect("an IP port");
        let mut client = Client::from(within("connecting", TcpStream::connect(port)).await?);
        assert_eq!(client.ask("echo in").await?, "in");
        client.send("spin\n").await?;
        assert_eq!(says(&running, "/healthz").await?, 200);
        let answer = ask(address, "GET", "/status").await?;
        let (_, body) = answer.split_once("\r\n\r\n").expect("a head");
        let told: serde_json::Value = serde_json::from_str(body).expect("it is JSON");
        assert_eq!((&told["stage"], &told["ports"][0]["listening"]), (&"serving".into(), &true.into()), "{told}");
        let (drained, draining) = tokio::join!(running.drain(Duration::from_secs(2)), async {
            within("waiting for the drain", async {
                while says(&running, "/healthz").await? != 503 {
                    tokio::task::yield_now().await;
                }
                Ok(())
            })
            .await?;
            says(&running, "/readyz").await
        });
        assert_eq!((drained, draining?), (false, 503));
    }
    Ok(())
}

#[tokio::test]
async fn it_answers_what_it_knows() -> Tested {
    let service = Service::with(|_, given| given.health = front().health);
    let address = service.running.health_address().expect("it is asked for");
    until_ready(&service.running).await?;
    for (method, path, wanted) in [
        ("GET", "/healthz", 200),
        ("HEAD", "/healthz", 200),
        ("POST", "/healthz", 405),
        ("GET", "/", 404),
        ("GET", "/healthz/..", 404),
    ] {
        assert_eq!(status(&ask(address, method, path).await?), wanted, "{method} {path}");
    }
    // Those who say nothing take nobody's place for ever.
    let mut silent = Vec::new();
    for _ in 0..40 {
        silent.push(within("connecting", TcpStream::connect(address)).await?);
    }
    assert_eq!(says(&service.running, "/healthz").await?, 200);
    Ok(())
}

#[test]
fn a_port_that_is_taken_is_an_error() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let mut front = Front::default();
    front.health = Some(taken.local_addr().expect("it is bound"));
    let policy = Policy { publish: vec!["0:8080".parse().expect("a port")], ..Policy::default() };
    let Err(error) = Guest::Wasmedge.server().policy(policy).front(front).start() else { panic!("it starts") };
    assert!(error.to_string().contains("is in use"), "{error}");
}
