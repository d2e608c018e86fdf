//! A guest that polls in a loop for what it does not use is slowed down, and is still told of news at
//! once: every server on mio does so while a client is connected.

use std::io::Write;
use std::time::{Duration, Instant};

use crate::wat_support::{Connected, Wait, connected, indices};

#[test]
fn an_idle_connection_is_polled_a_few_hundred_times_a_second() {
    let Connected { mut guest, fd, client: _client, .. } = connected("0:80");
    let both = [Wait::Read(fd), Wait::Write(fd)];
    let began = Instant::now();
    let mut polls = 0;
    while began.elapsed() < Duration::from_secs(1) {
        assert_eq!(indices(&guest.poll(&both)), [1]);
        polls += 1;
    }
    assert!((2..=300).contains(&polls), "{polls} polls in a second");
}

#[test]
fn what_was_told_and_used_is_told_again_at_once() {
    let Connected { mut guest, fd, client: _client, .. } = connected("0:80");
    let began = Instant::now();
    for _ in 0..200 {
        assert_eq!(indices(&guest.poll(&[Wait::Write(fd)])), [0]);
        assert_eq!(guest.send(fd, b"x"), Ok(1));
    }
    // With pauses of 64 ms it would take 13 s.
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
}

#[test]
fn news_end_a_pause() {
    let Connected { mut guest, fd, mut client, .. } = connected("0:80");
    let both = [Wait::Read(fd), Wait::Write(fd)];
    let mut delays = Vec::new();
    for _ in 0..9 {
        // Told again and again, it is told ever more slowly: the last pause is 64 ms.
        while guest.look(&[Wait::Read(fd)]).is_empty() {
            let began = Instant::now();
            guest.poll(&both);
            if began.elapsed() >= Duration::from_millis(60) {
                break;
            }
        }
        let polling = guest.begin_poll("poll_oneoff", &both);
        let sent = Instant::now();
        client.write_all(b"x").expect("it is open");
        let mut told = guest.finish_poll(&polling).expect("it ends");
        while !indices(&told).contains(&0) {
            told = guest.poll(&both);
        }
        delays.push(sent.elapsed());
        assert_eq!(guest.recv(fd, 1).as_deref(), Ok(&b"x"[..]));
    }
    delays.sort();
    assert!(delays[delays.len() / 2] < Duration::from_millis(32), "{delays:?}");
}

#[test]
fn a_hang_up_ends_a_pause() {
    let Connected { mut guest, fd, client, .. } = connected("0:80");
    guest.must("sock_shutdown", &[fd, 2]);
    for _ in 0..8 {
        guest.poll(&[Wait::Write(fd)]);
    }
    drop(client);
    let began = Instant::now();
    loop {
        let told = guest.poll(&[Wait::Write(fd)]);
        assert_eq!(indices(&told), [0]);
        if told[0].hangup {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(10), "no hang-up is told");
    }
}
