//! The PROXY protocol: whose a connection is, as the proxy in front says.

use std::time::Duration;

use anyport::server::Front;
use tokio::io::AsyncWriteExt;

use super::service::{Service, all, pair, shake, status, trusting};
use crate::support::{Tested, within};
use crate::wat_support::{Stage, connect};

const ASK: &str = "GET /headers HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

/// Version 2: its command, its family and transport, what follows.
fn second(command: u8, family: u8, more: &[u8]) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    header.extend([0x20 | command, family]);
    header.extend(u16::try_from(more.len()).expect("it is small").to_be_bytes());
    header.extend(more);
    header
}

fn proxied() -> Service {
    Service::with(|limits, front| {
        limits.header_timeout = Duration::from_secs(2);
        front.proxy_protocol = true;
        front.x_forwarded = true;
    })
}

#[tokio::test]
async fn the_client_is_who_the_proxy_says() -> Tested {
    let service = proxied();
    let inet4 = [192, 0, 2, 7, 10, 0, 0, 1, 0x12, 0x67, 0, 80];
    let mut inet6 = [0; 36];
    inet6[..4].copy_from_slice(&[0x20, 1, 0xd, 0xb8]);
    inet6[15] = 9;
    let with_more = [&inet4[..], &[4, 0, 3, 1, 2, 3]].concat();
    for (header, who) in [
        (b"PROXY TCP4 192.0.2.7 10.0.0.1 4711 80\r\n".to_vec(), "192.0.2.7"),
        (b"PROXY TCP6 2001:db8::9 2001:db8::1 4711 80\r\n".to_vec(), "2001:db8::9"),
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1"),
        (b"PROXY UNKNOWN ffff::1 ffff::1 1 2\r\n".to_vec(), "127.0.0.1"),
        (second(1, 0x11, &inet4), "192.0.2.7"),
        (second(1, 0x21, &inet6), "2001:db8::9"),
        (second(1, 0x11, &with_more), "192.0.2.7"),
        // A proxy that looks whether we are well.
        (second(0, 0, &[]), "127.0.0.1"),
        (second(0, 0x11, &inet4), "127.0.0.1"),
    ] {
        let answer = service.send([&header[..], ASK.as_bytes()].concat()).await?;
        assert!(answer.contains(&format!("x-forwarded-for: {who}\n")), "{who}: {answer}");
        // However it is cut.
        let mut slow = service.connect().await?;
        slow.set_nodelay(true).expect("a socket");
        for part in header.chunks(7) {
            within("sending", slow.write_all(part)).await?;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        within("sending", slow.write_all(ASK.as_bytes())).await?;
        assert!(all(&mut slow).await?.contains(&format!("x-forwarded-for: {who}\n")), "{who}");
    }
    Ok(())
}

#[tokio::test]
async fn a_connection_without_a_right_header_is_closed() -> Tested {
    let service = proxied();
    let long = second(1, 0x11, &[0; 5000]);
    for (why, header) in [
        ("none", &b""[..]),
        ("half of one", b"PROXY TCP4 192.0.2.7"),
        ("a wrong address", b"PROXY TCP4 192.0.2 10.0.0.1 4711 80\r\n"),
        ("a wrong port", b"PROXY TCP4 192.0.2.7 10.0.0.1 99999 80\r\n"),
        ("a wrong family", b"PROXY TCP9 192.0.2.7 10.0.0.1 4711 80\r\n"),
        ("a long line", &[b"PROXY UNKNOWN "[..].to_vec(), vec![b'a'; 200]].concat()),
        ("version 3", b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\x0c\xc0\0\x02\x07\x0a\0\0\x01\x12\x67\0\x50"),
        ("addresses that are missing", &second(1, 0x11, &[1, 2])),
        ("a long one", &long),
    ] {
        let answer = service.send([header, ASK.as_bytes()].concat()).await?;
        assert_eq!(status(&answer), 0, "{why}: {answer}");
    }
    // Nor one that takes too long.
    let mut silent = service.connect().await?;
    assert_eq!(all(&mut silent).await?, "");
    Ok(())
}

/// The proxy speaks before TLS begins.
#[tokio::test]
async fn tls_comes_behind_the_header() -> Tested {
    let service = Service::with(|_, front| {
        front.proxy_protocol = true;
        front.x_forwarded = true;
        front.certificates = vec![pair("local")];
    });
    let mut stream = service.connect().await?;
    within("sending", stream.write_all(b"PROXY TCP4 192.0.2.7 10.0.0.1 4711 80\r\n")).await?;
    let mut stream = shake(&trusting(|_| {}), "localhost", stream).await?;
    within("sending", stream.write_all(ASK.as_bytes())).await?;
    let answer = all(&mut stream).await?;
    assert!(answer.contains("x-forwarded-for: 192.0.2.7\nx-forwarded-proto: https\n"), "{answer}");
    Ok(())
}

/// A guest that reads bytes asks its socket.
#[test]
fn a_socket_has_the_peer_that_the_proxy_says() {
    let mut front = Front::default();
    front.proxy_protocol = true;
    let mut guest = Stage::new().publish("0:80").front(front).start();
    let listener = guest.listen(80);
    let mut client = connect(guest.address(0));
    std::io::Write::write_all(&mut client, b"PROXY TCP4 192.0.2.7 10.0.0.1 4711 80\r\nhello").expect("it listens");
    let fd = guest.accept(listener);
    let (slot, kind, port) = (guest.slot(4), guest.room(4), guest.room(4));
    guest.must("sock_getpeeraddr", &[fd, slot.at, kind, port]);
    assert_eq!((guest.peek(slot.buffer, 4), guest.word(port)), (vec![192, 0, 2, 7], 4711));
    assert_eq!(guest.recv(fd, 5).as_deref(), Ok(&b"hello"[..]));
}

/// Without the flag, what clients say is theirs to say; with it, it is ours.
#[tokio::test]
async fn forwarded_lines_are_of_one_source() -> Tested {
    let ask = "GET /headers HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX-Forwarded-For: 1.2.3.4\r\n\
               Forwarded: for=1.2.3.4\r\nX-Real-IP: 1.2.3.4\r\n\r\n";
    let answer = Service::start().send(ask).await?;
    assert_eq!(answer.matches("1.2.3.4").count(), 3, "{answer}");
    let answer = Service::with(|_, front| front.x_forwarded = true).send(ask).await?;
    assert_eq!(answer.matches("1.2.3.4").count(), 0, "{answer}");
    assert!(answer.contains("x-forwarded-for: 127.0.0.1\nx-forwarded-proto: http\n"), "{answer}");
    Ok(())
}
