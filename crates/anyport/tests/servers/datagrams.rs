//! A UDP port with several guests behind it.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use anyport::server::Restart;
use anyport::{Policy, Running};

use crate::wat_support::{DEADLINE, load};

/// Answers each datagram with itself, and traps on one that begins with 255.
///
/// 64: an address argument for 4 bytes at 80; 96: the buffers.
const ECHO: &str = "(module
  (import \"wasi_snapshot_preview1\" \"sock_open\" (func $open (param i32 i32 i32) (result i32)))
  (import \"wasi_snapshot_preview1\" \"sock_bind\" (func $bind (param i32 i32 i32) (result i32)))
  (import \"wasi_snapshot_preview1\" \"sock_recv_from_v2\"
    (func $receive (param i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
  (import \"wasi_snapshot_preview1\" \"sock_send_to_v2\"
    (func $send (param i32 i32 i32 i32 i32 i32 i32) (result i32)))
  (memory (export \"memory\") 1)
  (data (i32.const 64) \"\\50\\00\\00\\00\\04\\00\\00\\00\")
  (func $must (param $errno i32) (if (local.get $errno) (then unreachable)))
  (func $buffer (param $length i32)
    (i32.store (i32.const 96) (i32.const 1024))
    (i32.store (i32.const 100) (local.get $length)))
  (func (export \"_start\")
    (call $must (call $open (i32.const 1) (i32.const 1) (i32.const 0)))
    (call $must (call $bind (i32.load (i32.const 0)) (i32.const 64) (i32.const 53)))
    (loop $next
      (call $buffer (i32.const 512))
      (call $must (call $receive (i32.load (i32.const 0)) (i32.const 96) (i32.const 1) (i32.const 64) (i32.const 0)
        (i32.const 8) (i32.const 12) (i32.const 16)))
      (if (i32.eq (i32.load8_u (i32.const 1024)) (i32.const 255)) (then unreachable))
      (call $buffer (i32.load (i32.const 12)))
      (call $must (call $send (i32.load (i32.const 0)) (i32.const 96) (i32.const 1) (i32.const 64)
        (i32.load (i32.const 8)) (i32.const 0) (i32.const 20)))
      (br $next))))";

fn start(workers: usize, restart: Restart) -> (Running, SocketAddr) {
    let server = load(ECHO).unwrap_or_else(|error| panic!("{error}"));
    let policy = Policy { publish: vec!["0:53/udp".parse().expect("a port")], ..Policy::default() };
    let running =
        server.policy(policy).workers(workers).restart(restart).start().unwrap_or_else(|error| panic!("{error}"));
    let address = running.ports()[0].address().expect("it is an IP port");
    (running, address)
}

fn client() -> UdpSocket {
    let client = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    client.set_read_timeout(Some(DEADLINE)).expect("it is not zero");
    client
}

fn is_answered(client: &UdpSocket, from: SocketAddr, bytes: &[u8]) {
    let mut answer = [0; 8];
    let (length, sender) = client.recv_from(&mut answer).expect("it is answered");
    assert_eq!((&answer[..length], sender), (bytes, from));
}

/// Each datagram comes to one of them, and is answered once.
#[test]
fn each_is_answered_once() {
    for workers in [1, 2, 4] {
        let (_running, address) = start(workers, Restart::No);
        let clients: Vec<UdpSocket> = (0..4).map(|_| client()).collect();
        for turn in 0..100_u32 {
            for client in &clients {
                client.send_to(&turn.to_le_bytes(), address).expect("the port is bound");
            }
            for client in &clients {
                is_answered(client, address, &turn.to_le_bytes());
            }
        }
        for client in &clients {
            client.set_read_timeout(Some(Duration::from_millis(20))).expect("it is not zero");
            assert!(client.recv(&mut [0; 8]).is_err(), "it is answered twice");
        }
    }
}

/// For good, or until the next guest has it again; what comes meanwhile waits.
#[test]
fn a_guest_that_ends_leaves_the_port_to_others() {
    for (workers, restart, traps) in [(3, Restart::No, 2), (1, Restart::OnFailure, 3), (3, Restart::OnFailure, 4)] {
        let (running, address) = start(workers, restart);
        let client = client();
        for _ in 0..traps {
            client.send_to(b"first", address).expect("the port is bound");
            is_answered(&client, address, b"first");
            client.send_to(&[255], address).expect("the port is bound");
            for turn in 0..20_u32 {
                client.send_to(&turn.to_le_bytes(), address).expect("the port is bound");
                is_answered(&client, address, &turn.to_le_bytes());
            }
        }
        drop(running);
    }
}
