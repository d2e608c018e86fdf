//! Requests on a simulated network: one guest asks another, whatever the network does to their bytes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyport::simulated::{Faults, Simulated};
use anyport::{Policy, Publish, Running};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::client::{PATIENCE, server};

/// Two guests, of which the first may ask the second.
struct Pair {
    network: Arc<Simulated>,
    asks: Running,
    answers: Running,
}

const UPSTREAM: &str = "10.1.1.1:80";

impl Pair {
    fn new(seed: u64, faults: Faults) -> Self {
        let network = Simulated::new(seed, faults);
        let start = |publish: &str, outbound: &[&str]| {
            let policy = Policy {
                publish: vec![publish.parse().expect("a port")],
                outbound: outbound.iter().map(|rule| rule.parse().expect("a rule")).collect(),
                ..Policy::default()
            };
            server(&[]).policy(policy).simulated(Arc::clone(&network)).start().expect("it can be started")
        };
        let answers = start("10.1.1.1:80:8080", &[]);
        let asks = start("10.1.1.2:80:8080", &[UPSTREAM]);
        Self { network, asks, answers }
    }

    /// What the first guest gets from the second; none if its own client's connection was broken.
    async fn fetch(&self, method: &str, url: &str, body: &str) -> Option<(u16, String)> {
        let address: SocketAddr = self.asks.ports().first().and_then(Publish::address).expect("a port is published");
        let exchange = async {
            let client = self.network.connect(address).await.ok()?;
            let (mut input, mut output) = tokio::io::split(client);
            let length = body.len();
            let head =
                format!("{method} /fetch?url={url} HTTP/1.0\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{body}");
            let mut answer = String::new();
            // Both at a time: what is sent comes back before all of it is sent.
            let (sent, read) = tokio::join!(output.write_all(head.as_bytes()), input.read_to_string(&mut answer));
            sent.and(read).ok()?;
            let (head, body) = answer.split_once("\r\n\r\n")?;
            Some((head.get(9..12)?.parse().ok()?, body.to_owned()))
        };
        tokio::time::timeout(PATIENCE, exchange).await.expect("an answer")
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        self.asks.stop();
        self.answers.stop();
    }
}

#[tokio::test]
async fn bytes_that_come_late_and_in_parts_are_all_there() {
    for seed in 0..8 {
        let mut dice = fastrand::Rng::with_seed(seed);
        let faults = Faults {
            partial_receive: dice.f64(),
            partial_send: dice.f64(),
            delay: dice.f64() * 0.03,
            delay_max: Duration::from_millis(2),
            buffer_bytes: 1 << dice.u32(7..15),
            ..Faults::none()
        };
        let pair = Pair::new(seed, faults);
        // Short: the guest of 0.2 reads no answer before all is sent.
        let echoed = pair.fetch("POST", &format!("http://{UPSTREAM}/echo"), "0123456789").await;
        assert_eq!(echoed, Some((200, "0123456789".to_owned())), "seed {seed}: {faults:?}");
        let (status, large) =
            pair.fetch("GET", &format!("http://{UPSTREAM}/big?bytes=20000"), "").await.expect("it is whole");
        assert_eq!((status, large.len()), (200, 20_000), "seed {seed}: {faults:?}");
    }
}

#[tokio::test]
async fn what_the_network_breaks_has_an_error_of_its_own() {
    for seed in 0..20 {
        let pair = Pair::new(seed, Faults { reset: 0.05, refuse: 0.3, ..Faults::none() });
        for _ in 0..10 {
            let Some((status, body)) = pair.fetch("GET", &format!("http://{UPSTREAM}/hello"), "").await else {
                continue;
            };
            let known = match status {
                // Its own connection may break off within the answer.
                200 => "Hello\n".starts_with(&body),
                502 => {
                    ["connection-refused\n", "connection-terminated\n", "http-response-incomplete\n"].contains(&&*body)
                }
                _ => false,
            };
            assert!(known, "seed {seed}: {status} {body:?}");
        }
    }
}

#[tokio::test]
async fn the_policy_holds_there_too() {
    let pair = Pair::new(0, Faults::none());
    let refused = pair.fetch("GET", "http://10.1.1.3/", "").await;
    assert_eq!(refused, Some((502, "destination-ip-prohibited\n".to_owned())));
}
