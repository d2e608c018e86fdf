//! Datagrams: on both networks, which must answer alike.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::tests::*;
use super::*;

#[tokio::test]
async fn datagrams_keep_their_bounds() {
    on_both(async |network| {
        let (one, two) = (udp(&network), udp(&network));
        let (at_one, at_two) = (one.local_address().expect("bound"), two.local_address().expect("bound"));
        assert!(!is_ready(&two, Interest::Read));
        assert!(!ready(&one, Interest::Write).await.hangup);
        for bytes in [&b"longer"[..], b"", b"short"] {
            assert_eq!(until(&one, Interest::Write, || one.send_to(bytes, at_two)).await.expect("sent"), bytes.len());
        }
        let peek = ReceiveFlags { peek: true, ..ReceiveFlags::default() };
        let take = ReceiveFlags::default();
        let mut buffer = [0; 5];
        for (flags, length, truncated) in [(peek, 5, true), (take, 5, true), (take, 0, false), (take, 5, false)] {
            let datagram = until(&two, Interest::Read, || two.receive_from(&mut buffer, flags)).await.expect("there");
            assert_eq!(datagram, Datagram { length, truncated, from: at_one });
        }
        assert_eq!(&buffer, b"short");
        assert_eq!(errno(two.receive_from(&mut buffer, take)), Errno::AGAIN);
    })
    .await;
}

#[tokio::test]
async fn a_connected_datagram_socket_has_one_peer() {
    on_both(async |network| {
        let (one, two, other) = (udp(&network), udp(&network), udp(&network));
        let (at_one, at_two) = (one.local_address().expect("bound"), two.local_address().expect("bound"));
        let sending = until(&one, Interest::Write, || send(&one, b"x"));
        assert_eq!(errno(sending.await), Errno::DESTADDRREQ);
        assert_eq!(errno(one.peer_address()), Errno::NOTCONN);
        one.connect(at_two).expect("at once");
        assert_eq!(one.peer_address().expect("it is connected"), at_two);
        for (sender, text) in [(&other, &b"from another"[..]), (&two, b"from the peer")] {
            until(sender, Interest::Write, || sender.send_to(text, at_one)).await.expect("it is sent");
        }
        assert_eq!(received(&one).await.expect("it is there"), b"from the peer");
        assert_eq!(errno(receive(&one)), Errno::AGAIN);
        drop(two);
        sent(&one, b"to nobody").await;
        assert_eq!(errno(send(&one, b"x")), Errno::CONNREFUSED);
        sent(&one, b"to nobody").await;
        assert_eq!(errno(one.take_error()), Errno::CONNREFUSED);
        other.send_to(b"to nobody", at_two).expect("it is sent");
        other.take_error().expect("who is not connected does not hear of it");
    })
    .await;
}

#[tokio::test]
async fn datagram_sockets_refuse_what_they_cannot() {
    on_both(async |network| {
        let socket = udp(&network);
        let at = socket.local_address().expect("it is bound");
        let sending = until(&socket, Interest::Write, || socket.send_to(&[0; 65_508], at));
        assert_eq!(errno(sending.await), Errno::MSGSIZE);
        assert_eq!(errno(socket.send_to(b"x", (Ipv4Addr::LOCALHOST, 0).into())), Errno::INVAL);
        assert_eq!(errno(socket.send_to(b"x", (Ipv6Addr::LOCALHOST, 9).into())), Errno::AFNOSUPPORT);
        assert_eq!(errno(socket.shutdown(Shutdown::Both)), Errno::NOTCONN);
        hung_up(&socket).await;
        assert_eq!(errno(socket.send_to(b"x", at)), Errno::PIPE);
    })
    .await;
}

#[tokio::test]
async fn a_full_datagram_queue_drops_the_newest() {
    let network = simulated(Faults::none());
    let (one, two) = (udp(&network), udp(&network));
    let at = two.local_address().expect("bound");
    for number in 0..1000_u32 {
        one.send_to(&number.to_be_bytes(), at).expect("it is sent");
    }
    let mut expected = 0..1000_u32;
    let mut count = 0;
    while let Ok(bytes) = receive(&two) {
        assert_eq!(bytes, expected.next().expect("no more than sent").to_be_bytes());
        count += 1;
    }
    assert_eq!(count, 256);
}
