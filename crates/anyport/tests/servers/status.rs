//! What is told of a server while it runs, and how an end for want of memory is told apart.

use std::time::Instant;

use anyport::server::{Restart, Status};
use anyport::spelling::{Spelling, choose};
use anyport::{Limits, Outcome, Running};
use serde_json::{Value, json};

use crate::servers::started::{LONG, Setup, ends, until};
use crate::support::{Guest, Tested, in_own_process, within};
use crate::wat_support::{NONBLOCK, Stage, connect, errno, load, past_deadline};

const PAGE: u64 = 1 << 16;

fn told(status: &Status) -> Value {
    serde_json::to_value(status).expect("it is plain data")
}

/// Waits until a look at a server gives this.
async fn until_told(running: &Running, pointer: &str, wanted: Value) -> Tested {
    until(wanted, async || Ok(told(&running.status()).pointer(pointer).cloned().unwrap_or_default())).await
}

#[test]
fn it_is_told_while_a_guest_computes_without_end() {
    let mut guest = Stage::new().publish("0:80").listens_anywhere().limit("memory-bytes", 4 * PAGE).start();
    assert_eq!(told(&guest.running().status())["stage"], "starting");
    let listener = guest.listen(80);
    let (_accepted, _waiting) = (connect(guest.address(0)), connect(guest.address(0)));
    guest.accept(listener);
    assert!(guest.grow_memory(1));
    assert!(!guest.grow_memory(2));
    guest.connect("192.0.2.1", 80).expect_err("no rule allows it");
    guest.spin();
    for _ in 0..100 {
        let status = told(&guest.running().status());
        let worker = &status["workers"][0];
        // Three streams, the listener, its connection, and the socket that did not connect.
        assert_eq!((&worker["descriptors"], &worker["connections"]), (&json!(6), &json!(1)));
        assert_eq!((&worker["memory_bytes"], &worker["memory_limit_bytes"]), (&json!(3 * PAGE), &json!(4 * PAGE)));
        assert_eq!((&worker["memory_refused"], &worker["restarts"]), (&json!(1), &json!(0)));
        assert_eq!((&worker["state"], &worker["last_failure"]), (&json!("running"), &Value::Null));
        assert_eq!(status["stage"], "serving");
        assert_eq!(status["ports"][0]["listening"], true);
        assert_eq!(status["ports"][0]["host"], guest.address(0).to_string());
        let refusals = status["refusals"].as_object().expect("it is one");
        assert!(refusals.keys().any(|text| text.contains("connect to 192.0.2.1:80")), "{refusals:?}");
    }
    let before = guest.running().status().cpu_ms;
    let began = Instant::now();
    while guest.running().status().cpu_ms <= before {
        assert!(!past_deadline(began), "it computes, and no time passes");
        std::thread::yield_now();
    }
    assert_eq!(guest.stop(), Outcome::Stopped);
}

/// Ports that guests open are told while they are there.
#[test]
fn a_port_that_a_guest_opens_is_told() {
    let mut guest = Stage::new().listens_anywhere().start();
    let ports = |guest: &crate::wat_support::Puppet| told(&guest.running().status())["ports"].clone();
    assert_eq!(ports(&guest), json!([]));
    let (fd, ip) = (guest.tcp(), guest.address_of("127.0.0.1"));
    guest.must("sock_bind", &[fd, ip, 0]);
    // A client's, so far.
    assert_eq!(ports(&guest), json!([]));
    guest.must("sock_listen", &[fd, 1]);
    let told = ports(&guest);
    assert_eq!((&told[0]["transport"], &told[0]["listening"]), (&json!("tcp"), &json!(true)));
    let port = told[0]["guest_port"].as_u64().expect("a number");
    assert_eq!(told[0]["host"], format!("127.0.0.1:{port}"));
    guest.close(fd);
    assert_eq!(ports(&guest), json!([]));
}

#[tokio::test]
async fn a_failure_and_the_restart_are_told() -> Tested {
    for workers in [1, 2] {
        let mut server = Setup::of(Guest::Wasmedge).workers(workers).start().await?;
        let mut client = server.served(1).await?.remove(0);
        client.send("trap\n").await?;
        ends(&mut client).await?;
        server.guest_listens().await?;
        let status = told(&server.running.status());
        let failed: Vec<&Value> =
            status["workers"].as_array().expect("a list").iter().filter(|worker| worker["restarts"] == 1).collect();
        assert_eq!(failed.len(), 1, "{status}");
        assert!(failed[0]["last_failure"].as_str().is_some_and(|reason| reason.contains("unreachable")), "{status}");
        assert_eq!(failed[0]["state"], "running");
        server.stop().await?;
    }
    Ok(())
}

#[tokio::test]
async fn the_stages_of_a_server_are_told() -> Tested {
    let server = Setup::of(Guest::Preview1).start().await?;
    let mut client = server.served(1).await?.remove(0);
    until_told(&server.running, "/stage", json!("serving")).await?;
    client.send("source 16777216\n").await?;
    let drain = within("draining", async { Ok(server.running.drain(LONG).await) });
    let (drained, done) = tokio::join!(drain, async {
        until_told(&server.running, "/stage", json!("draining")).await?;
        client.take(16_777_216).await?;
        drop(client);
        Ok(())
    });
    done?;
    assert!(drained?);
    assert_eq!(told(&server.running.status())["stage"], "stopped");
    server.outcome().await?;
    // By itself.
    let server = Setup::of(Guest::Preview1).restart(Restart::No).start().await?;
    let mut client = server.served(1).await?.remove(0);
    client.send("exit 3\n").await?;
    ends(&mut client).await?;
    until_told(&server.running, "/workers/0/state", json!("ended")).await?;
    assert_eq!(told(&server.running.status())["stage"], "stopped");
    assert_eq!(server.outcome().await?, Outcome::Exited(3));
    Ok(())
}

/// How a module ends that may have four pages and begins with one.
fn end_of(body: &str) -> Outcome {
    let text = format!(
        "(module (import \"wasi_snapshot_preview1\" \"proc_exit\" (func $exit (param i32)))
          (memory (export \"memory\") 1)
          (func $deep (call $deep))
          (func (export \"_start\") {body}))"
    );
    let mut limits = Limits::default();
    limits.set("memory-bytes", 4 * PAGE);
    limits.cpu_time = Some(std::time::Duration::from_millis(50));
    let server = load(&text).unwrap_or_else(|error| panic!("{error}")).limits(limits);
    server.start().unwrap_or_else(|error| panic!("{error}")).wait()
}

const REFUSED: &str = "(drop (memory.grow (i32.const 9)))";

#[test]
fn an_end_for_want_of_memory_is_told_apart() {
    for end in ["unreachable", "(call $exit (i32.const 2))", "(drop (i32.load (i32.const -8)))"] {
        let outcome = end_of(&format!("{REFUSED} {end}"));
        let Outcome::OutOfMemory { reason, code, .. } = &outcome else { panic!("{end}: {outcome:?}") };
        assert_eq!(*code, end.contains("exit").then_some(2));
        assert!(reason.starts_with("it needs more than 262144 bytes"), "{reason}");
        // Nothing was refused.
        assert!(!matches!(end_of(end), Outcome::OutOfMemory { .. }), "{end}");
        // It got what it wanted instead.
        let helped = end_of(&format!("{REFUSED} (drop (memory.grow (i32.const 1))) {end}"));
        assert!(!matches!(helped, Outcome::OutOfMemory { .. }), "{end}: {helped:?}");
    }
    // It has come to terms with it.
    assert_eq!(end_of(REFUSED), Outcome::Exited(0));
    // These have other reasons.
    for end in ["(call $deep)", "(loop $again (br $again))"] {
        let outcome = end_of(&format!("{REFUSED} {end}"));
        assert!(matches!(outcome, Outcome::Trapped { .. }), "{end}: {outcome:?}");
    }
    let larger = load("(module (memory (export \"memory\") 9) (func (export \"_start\")))");
    let mut limits = Limits::default();
    limits.set("memory-bytes", 4 * PAGE);
    let started = larger.unwrap_or_else(|error| panic!("{error}")).limits(limits).start();
    assert!(matches!(started.unwrap_or_else(|error| panic!("{error}")).wait(), Outcome::OutOfMemory { .. }));
}

/// A server that answered its clients after a refusal went on without that memory.
#[test]
fn a_refusal_of_long_ago_is_no_reason() {
    for looks in [false, true] {
        let mut guest = Stage::new().publish("0:80").limit("memory-bytes", 2 * PAGE).start();
        let listener = guest.listen(80);
        guest.set_flags(listener, NONBLOCK);
        let out = guest.room(4);
        assert!(!guest.grow_memory(1));
        if looks {
            assert_eq!(guest.call("sock_accept", &[listener, out]), errno::AGAIN);
        }
        // It traps, and another takes its place.
        guest.begin("random_get", &[u64::from(u32::MAX), 8]);
        let began = Instant::now();
        let failure = loop {
            match told(&guest.running().status()).pointer("/workers/0/last_failure") {
                Some(Value::String(reason)) => break reason.clone(),
                _ => assert!(!past_deadline(began), "it is not told"),
            }
        };
        assert_eq!(failure.starts_with("it needs more than"), !looks, "{failure}");
    }
}

/// In a container the words are those of `docker run`.
#[test]
fn options_are_spelt_as_they_are_typed() {
    in_own_process("servers::status::options_are_spelt_as_they_are_typed", || {
        choose(Spelling::Container);
        let mut guest = Stage::new().start();
        guest.connect("192.0.2.1", 80).expect_err("no rule allows it");
        let (fd, any) = (guest.tcp(), guest.address_of("0.0.0.0"));
        assert_eq!(guest.call("sock_bind", &[fd, any, 80]), errno::ACCESS);
        let refusals = guest.running().status().refusals;
        for wanted in ["add `--annotation io.anyport.allow-net=192.0.2.1:80`", "add `-e io.anyport.listen=80`"] {
            assert!(refusals.keys().any(|text| text.ends_with(wanted)), "{refusals:?}");
        }
        assert!(refusals.keys().all(|text| !text.contains("--allow") && !text.contains("-p ")), "{refusals:?}");
    });
}
