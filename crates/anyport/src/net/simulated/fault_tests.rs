//! What only this network does: faults, seeds, waiters, and a test's own side.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Wake, Waker};
use std::thread;

use tokio::io::{AsyncReadExt, AsyncWriteExt, split};
use tokio::runtime::Builder;
use tokio::time::timeout;

use super::tests::*;
use super::*;
use crate::net::{Endpoint as Socket, Network};

#[tokio::test]
async fn delayed_bytes_arrive_in_order_and_before_the_end() {
    let network = simulated(Faults { delay: 1.0, delay_max: Duration::from_millis(100), ..Faults::none() });
    let (listener, at) = listening(&network, 8);
    let client = dialing(&network, at);
    assert!(!is_ready(&listener, Interest::Read) && !is_ready(&client, Interest::Write));
    assert_eq!(errno(listener.accept()), Errno::AGAIN);
    ready(&client, Interest::Write).await;
    let (server, _) = until(&listener, Interest::Read, || listener.accept()).await.expect("it is there");
    for byte in 0..10 {
        sent(&client, &[byte]).await;
    }
    drop(client);
    assert_eq!(errno(receive(&server)), Errno::AGAIN);
    // Two runtimes wait for the same bytes: each has to be woken by its own clock.
    let server = Arc::new(server);
    let other = thread::spawn({
        let server = Arc::clone(&server);
        move || run(async { Ok(ready(&server, Interest::Read).await) })
    });
    let mut all = Vec::new();
    loop {
        let bytes = received(&server).await.expect("it is there");
        if bytes.is_empty() {
            break;
        }
        all.extend(bytes);
    }
    assert_eq!(all, Vec::from_iter(0..10));
    other.join().expect("no panic").expect("it was woken");
}

#[tokio::test]
async fn delayed_datagrams_all_arrive() {
    let network = simulated(Faults { delay: 0.5, delay_max: Duration::from_millis(10), ..Faults::none() });
    let (one, two) = (udp(&network), udp(&network));
    for number in 0..100 {
        one.send_to(&[number], two.local_address().expect("bound")).expect("it is sent");
    }
    let mut all = Vec::new();
    while all.len() < 100 {
        all.extend(received(&two).await.expect("it is there"));
    }
    all.sort_unstable();
    assert_eq!(all, Vec::from_iter(0..100));
}

#[tokio::test]
async fn a_client_that_gives_up_is_accepted_and_reset() {
    let network = simulated(Faults { delay: 1.0, delay_max: Duration::from_millis(100), ..Faults::none() });
    let (listener, at) = listening(&network, 8);
    drop(dialing(&network, at));
    let (server, _) = until(&listener, Interest::Read, || listener.accept()).await.expect("it is there");
    assert_eq!(errno(receive(&server)), Errno::CONNRESET);
}

#[tokio::test]
async fn an_injected_reset_is_seen_on_both_sides() {
    let network = simulated(Faults { reset: 1.0, ..Faults::none() });
    let (client, server) = pair(&network).await;
    assert_eq!(errno(send(&client, b"x")), Errno::CONNRESET);
    hung_up(&server).await;
    assert_eq!(errno(receive(&server)), Errno::CONNRESET);
    assert_eq!(receive(&server).expect("the end"), b"");
}

#[tokio::test]
async fn an_injected_refusal_is_a_refusal() {
    let network = simulated(Faults { refuse: 1.0, ..Faults::none() });
    let (listener, at) = listening(&network, 8);
    let client = dialing(&network, at);
    assert_eq!(errno(client.take_error()), Errno::CONNREFUSED);
    assert_eq!(errno(listener.accept()), Errno::AGAIN);
}

#[tokio::test]
async fn connections_and_listeners_are_a_tests_own_side() {
    let network = Simulated::new(1, Faults::none());
    let at = SocketAddr::from((Ipv4Addr::new(10, 0, 0, 1), 80));
    assert_eq!(errno(network.connect(at).await), Errno::CONNREFUSED);
    let listener = network.listen(at).expect("a free address");
    assert_eq!(errno(network.listen(at)), Errno::ADDRINUSE);
    assert_eq!(listener.local_address().expect("it is bound"), at);
    let connecting = tokio::spawn(network.connect(at));
    let (mut server, peer) = listener.accept().await.expect("it is there");
    let mut client = connecting.await.expect("no panic").expect("it is connected");
    assert_eq!(client.local_address().expect("it is connected"), peer);
    assert_eq!(client.peer_address().expect("it is connected"), at);
    client.write_all(b"request").await.expect("it is sent");
    client.shutdown().await.expect("it is connected");
    let mut text = String::new();
    server.read_to_string(&mut text).await.expect("it is there");
    assert_eq!(text, "request");
    server.write_all(b"resp").await.expect("it is sent");
    server.reset();
    let mut text = Vec::new();
    assert_eq!(errno(client.read_to_end(&mut text).await), Errno::CONNRESET);
    assert_eq!(text, b"resp");
}

/// Counts how often it was woken.
#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn every_waiter_is_woken_and_none_is_kept_without_bound() {
    let (client, server) = pair(&simulated(Faults::none())).await;
    let Socket::Simulated(endpoint) = &server else { panic!("it is simulated") };
    let kept = || endpoint.network.lock(|world| world.socket(endpoint.id).waiters[0].len());
    let counts: Vec<Arc<Count>> = (0..1000).map(|_| Arc::default()).collect();
    for count in &counts {
        let waker = Waker::from(Arc::clone(count));
        for _ in 0..3 {
            assert!(server.poll_ready(&mut Context::from_waker(&waker), Interest::Read).is_pending());
        }
    }
    assert_eq!(kept(), 1000 - 3 * 256);
    sent(&client, b"x").await;
    assert_eq!(kept(), 0);
    assert!(counts.iter().all(|count| count.0.load(Ordering::Relaxed) == 1));
}

/// What a fixed sequence of calls does on the network of a seed.
fn trace(seed: u64) -> String {
    let faults = Faults { partial_receive: 0.3, partial_send: 0.3, reset: 0.05, refuse: 0.3, ..Faults::none() };
    let network = Network::Simulated(Simulated::new(seed, faults));
    let mut text = String::new();
    for _ in 0..20 {
        let (listener, at) = listening(&network, 8);
        let client = dialing(&network, at);
        text += &format!("connect: {:?}\n", client.take_error());
        let Ok((server, _)) = listener.accept() else { continue };
        for _ in 0..10 {
            text += &format!("send: {:?}\n", send(&client, b"a few bytes"));
            text += &format!("receive: {:?}\n", receive(&server));
        }
    }
    text
}

#[test]
fn a_seed_says_what_happens() {
    assert_eq!(trace(1), trace(1));
    assert_ne!(trace(1), trace(2));
    let text = trace(1);
    for outcome in ["connect: Ok", "refused", "send: Ok(11)", "send: Ok(4)", "receive: Ok([97])", "reset by peer"] {
        assert!(text.contains(outcome), "{outcome} is not in\n{text}");
    }
}

#[test]
fn a_megabyte_survives_partial_calls_and_delays() {
    for seed in 0..20 {
        let faults = Faults {
            partial_receive: 0.2,
            partial_send: 0.2,
            delay: 0.02,
            delay_max: Duration::from_millis(2),
            buffer_bytes: 4096 << (seed % 5),
            ..Faults::none()
        };
        assert_eq!(echo(seed, faults).expect("nothing is reset"), MEGABYTE);
    }
}

#[test]
fn a_reset_is_never_taken_for_an_end() {
    let outcomes = (0..20)
        .map(|seed| echo(seed, Faults { partial_receive: 0.2, partial_send: 0.2, reset: 0.01, ..Faults::none() }));
    let (whole, reset): (Vec<_>, Vec<_>) = outcomes.partition(io::Result::is_ok);
    assert!(whole.into_iter().flatten().all(|count| count == MEGABYTE));
    assert!(!reset.is_empty());
    for outcome in reset {
        assert!([Errno::CONNRESET, Errno::PIPE].contains(&errno(outcome)));
    }
}

/// Sends a megabyte to a server on another thread, as a guest is, and counts what comes back.
fn echo(seed: u64, faults: Faults) -> io::Result<usize> {
    let network = Simulated::new(seed, faults);
    let listener = network.listen(ANY)?;
    let at = listener.local_address()?;
    let server = thread::spawn(move || {
        run(async {
            let (stream, _) = listener.accept().await?;
            let (mut reader, mut writer) = split(stream);
            tokio::io::copy(&mut reader, &mut writer).await?;
            writer.shutdown().await
        })
    });
    let bytes: Vec<u8> = std::iter::repeat_with({
        let mut rng = fastrand::Rng::with_seed(seed);
        move || rng.u8(..)
    })
    .take(MEGABYTE)
    .collect();
    let outcome = run(async {
        let (mut reader, mut writer) = split(network.connect(at).await?);
        let expected = bytes.clone();
        let writing = tokio::spawn(async move {
            writer.write_all(&bytes).await?;
            writer.shutdown().await
        });
        let mut count = 0;
        let mut buffer = vec![0; 50_000];
        let outcome = loop {
            match reader.read(&mut buffer).await {
                Ok(0) => break Ok(count),
                Ok(read) => {
                    assert_eq!(buffer[..read], expected[count..count + read]);
                    count += read;
                }
                Err(error) => break Err(error),
            }
        };
        let written = writing.await.expect("no panic");
        outcome.and_then(|count| written.map(|()| count))
    });
    let served = server.join().expect("no panic");
    outcome.and_then(|count| served.map(|()| count))
}

/// Runs to the end on a runtime of its own, in bounded time.
fn run<R>(task: impl Future<Output = io::Result<R>>) -> io::Result<R> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async { timeout(PATIENCE, task).await.expect("it comes to an end") })
}
