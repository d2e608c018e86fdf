//! Where Linux can be asked, a test runs on both networks, which must answer alike.

use std::future::poll_fn;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::task::Waker;

use tokio::time::{sleep, timeout};

use super::*;
use crate::net::{Endpoint as Socket, Network};

pub(super) const ANY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

pub(super) async fn on_both(body: impl AsyncFn(Network)) {
    body(Network::Os).await;
    body(simulated(Faults::none())).await;
}

pub(super) fn simulated(faults: Faults) -> Network {
    Network::Simulated(Simulated::new(1, faults))
}

pub(super) fn tcp(network: &Network) -> Socket {
    network.open(Family::Inet4, Transport::Tcp).expect("sockets are to be had")
}

pub(super) fn udp(network: &Network) -> Socket {
    let socket = network.open(Family::Inet4, Transport::Udp).expect("sockets are to be had");
    socket.bind(ANY).expect("a free port");
    socket
}

pub(super) fn listening(network: &Network, backlog: u32) -> (Socket, SocketAddr) {
    let listener = tcp(network);
    listener.bind(ANY).expect("a free port");
    listener.listen(backlog).expect("it listens");
    let at = listener.local_address().expect("it is bound");
    (listener, at)
}

/// A socket on its way to this address.
pub(super) fn dialing(network: &Network, to: SocketAddr) -> Socket {
    let socket = tcp(network);
    assert_eq!(errno(socket.connect(to)), Errno::INPROGRESS);
    socket
}

/// Both sides of a connection: who connected, and who accepted.
pub(super) async fn pair(network: &Network) -> (Socket, Socket) {
    let (listener, at) = listening(network, 8);
    let client = dialing(network, at);
    ready(&client, Interest::Write).await;
    client.take_error().expect("it is connected");
    let (server, peer) = until(&listener, Interest::Read, || listener.accept()).await.expect("it is there");
    assert_eq!(peer, client.local_address().expect("it is connected"));
    (client, server)
}

pub(super) async fn ready(socket: &Socket, interest: Interest) -> Ready {
    timeout(PATIENCE, poll_fn(|context| socket.poll_ready(context, interest)))
        .await
        .expect("it becomes ready")
        .expect("no error")
}

/// Ready, and for good. The operating system's sockets learn of it when the runtime next asks.
pub(super) async fn hung_up(socket: &Socket) {
    let asking = async {
        while !ready(socket, Interest::Write).await.hangup {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, asking).await.expect("it hangs up");
    ready(socket, Interest::Read).await;
}

pub(super) fn is_ready(socket: &Socket, interest: Interest) -> bool {
    socket.poll_ready(&mut Context::from_waker(Waker::noop()), interest).is_ready()
}

pub(super) async fn until<R>(
    socket: &Socket, interest: Interest, mut call: impl FnMut() -> io::Result<R>,
) -> io::Result<R> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready(socket, interest).await,
            outcome => return outcome,
        };
    }
}

pub(super) fn errno<R: fmt::Debug>(outcome: io::Result<R>) -> Errno {
    let error = outcome.expect_err("it fails");
    Errno::from_io_error(&error).unwrap_or_else(|| {
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        Errno::AGAIN
    })
}

pub(super) fn receive(socket: &Socket) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; 100];
    let count = socket.receive(&mut [IoSliceMut::new(&mut bytes)], ReceiveFlags::default())?;
    bytes.truncate(count);
    Ok(bytes)
}

pub(super) async fn received(socket: &Socket) -> io::Result<Vec<u8>> {
    until(socket, Interest::Read, || receive(socket)).await
}

pub(super) fn send(socket: &Socket, bytes: &[u8]) -> io::Result<usize> {
    socket.send(&[IoSlice::new(bytes)], false)
}

pub(super) async fn sent(socket: &Socket, bytes: &[u8]) {
    let count = until(socket, Interest::Write, || send(socket, bytes)).await;
    assert_eq!(count.expect("it is sent"), bytes.len());
}

#[tokio::test]
async fn an_address_is_bound_once() {
    on_both(async |network| {
        let (one, two) = (tcp(&network), tcp(&network));
        assert_eq!(one.local_address().expect("an address"), Family::Inet4.unspecified());
        one.bind(ANY).expect("a free port");
        let at = one.local_address().expect("it is bound");
        assert_ne!(at.port(), 0);
        assert_eq!(errno(one.bind(ANY)), Errno::INVAL);
        assert_eq!(errno(two.bind(at)), Errno::ADDRINUSE);
        assert_eq!(errno(two.bind((Ipv4Addr::UNSPECIFIED, at.port()).into())), Errno::ADDRINUSE);
        assert_eq!(errno(two.bind((Ipv6Addr::LOCALHOST, 0).into())), Errno::AFNOSUPPORT);
        // UDP has ports of its own.
        let datagrams = network.open(Family::Inet4, Transport::Udp).expect("a socket");
        datagrams.bind(at).expect("a free address");
        drop(one);
        two.bind(at).expect("it is free again");
    })
    .await;
}

#[tokio::test]
async fn a_reused_address_has_one_listener() {
    on_both(async |network| {
        let sockets = [tcp(&network), tcp(&network), tcp(&network)];
        for socket in &sockets {
            socket.set_option(SocketOption::ReuseAddress(true)).expect("it is set");
        }
        sockets[0].bind(ANY).expect("a free port");
        let at = sockets[0].local_address().expect("it is bound");
        sockets[1].bind(at).expect("neither listens");
        sockets[0].listen(1).expect("nobody listens yet");
        sockets[0].listen(2).expect("once more changes the backlog");
        assert_eq!(errno(sockets[1].listen(1)), Errno::ADDRINUSE);
        assert_eq!(errno(sockets[2].bind(at)), Errno::ADDRINUSE);
    })
    .await;
}

#[tokio::test]
async fn both_families_meet_in_the_wildcard() {
    on_both(async |network| {
        let dual = network.open(Family::Inet6, Transport::Tcp).expect("a socket");
        assert_eq!(errno(dual.bind(ANY)), Errno::INVAL);
        dual.bind(Family::Inet6.unspecified()).expect("a free port");
        dual.listen(8).expect("it listens");
        let port = dual.local_address().expect("it is bound").port();
        assert_eq!(errno(tcp(&network).bind((Ipv4Addr::UNSPECIFIED, port).into())), Errno::ADDRINUSE);
        let client = dialing(&network, (Ipv4Addr::LOCALHOST, port).into());
        let (server, peer) = until(&dual, Interest::Read, || dual.accept()).await.expect("it is there");
        let mapped = |port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST.to_ipv6_mapped(), port));
        assert_eq!(peer, mapped(client.local_address().expect("it is bound").port()));
        assert_eq!(server.local_address().expect("it is connected"), mapped(port));
        let client = network.open(Family::Inet6, Transport::Tcp).expect("a socket");
        assert_eq!(errno(client.connect(ANY)), Errno::INVAL);
        assert_eq!(errno(client.connect((Ipv6Addr::UNSPECIFIED, port).into())), Errno::INPROGRESS);
        let (_, peer) = until(&dual, Interest::Read, || dual.accept()).await.expect("it is there");
        assert_eq!(peer, client.local_address().expect("it is bound"));
        assert_eq!(peer.ip(), Ipv6Addr::LOCALHOST);
    })
    .await;
}

#[tokio::test]
async fn nobody_listens() {
    on_both(async |network| {
        let at = tcp(&network);
        at.bind(ANY).expect("a free port");
        let client = dialing(&network, at.local_address().expect("it is bound"));
        hung_up(&client).await;
        assert_eq!(errno(client.peer_address()), Errno::NOTCONN);
        assert_eq!(errno(client.take_error()), Errno::CONNREFUSED);
        client.take_error().expect("only once");
        assert_eq!(receive(&client).expect("the end"), b"");
        assert_eq!(errno(send(&client, b"x")), Errno::PIPE);
        assert_eq!(errno(client.connect(ANY)), Errno::CONNABORTED);
        assert_eq!(errno(client.connect(ANY)), Errno::INPROGRESS);
        ready(&client, Interest::Write).await;
        assert_eq!(errno(client.connect(ANY)), Errno::CONNREFUSED);
    })
    .await;
}

#[tokio::test]
async fn a_listener_is_readable_while_something_is_pending() {
    on_both(async |network| {
        let (listener, at) = listening(&network, 8);
        assert_eq!(errno(listener.accept()), Errno::AGAIN);
        assert!(!is_ready(&listener, Interest::Read) && !is_ready(&listener, Interest::Write));
        let clients = [dialing(&network, at), dialing(&network, at)];
        for client in &clients {
            ready(client, Interest::Write).await;
            let (server, peer) = until(&listener, Interest::Read, || listener.accept()).await.expect("it is there");
            assert_eq!(peer, client.local_address().expect("it is bound"));
            assert_eq!(server.local_address().expect("it is connected"), at);
            assert_eq!(server.peer_address().expect("it is connected"), peer);
            assert_eq!(client.peer_address().expect("it is connected"), at);
            client.connect(at).expect("it tells of success once");
            assert_eq!(errno(client.connect(at)), Errno::ISCONN);
            assert_eq!(errno(server.connect(at)), Errno::ISCONN);
            assert_eq!(errno(server.listen(1)), Errno::INVAL);
        }
        assert_eq!(errno(listener.accept()), Errno::AGAIN);
        assert_eq!(errno(listener.connect(at)), Errno::ISCONN);
    })
    .await;
}

#[tokio::test]
async fn a_full_backlog_makes_clients_wait() {
    // Linux's clients try again after a second: too long to ask it each time.
    let network = simulated(Faults::none());
    let (listener, at) = listening(&network, 0);
    let clients = [dialing(&network, at), dialing(&network, at), dialing(&network, at)];
    assert!(is_ready(&clients[0], Interest::Write));
    assert!(!is_ready(&clients[1], Interest::Write));
    assert_eq!(errno(clients[1].connect(at)), Errno::ALREADY);
    assert_eq!(errno(send(&clients[1], b"x")), Errno::AGAIN);
    assert_eq!(errno(receive(&clients[1])), Errno::AGAIN);
    clients[1].take_error().expect("no outcome yet");
    clients[1].shutdown(Shutdown::Both).expect("it gives up");
    listener.accept().expect("it is there");
    assert!(is_ready(&clients[2], Interest::Write), "the one that gave up is passed over");
    clients[2].take_error().expect("it is connected");
    let (_server, peer) = listener.accept().expect("it is there");
    assert_eq!(peer, clients[2].local_address().expect("it is bound"));
    assert_eq!(errno(listener.accept()), Errno::AGAIN);
}

#[tokio::test]
async fn a_closed_listener_leaves_nobody_waiting() {
    on_both(async |network| {
        for close in [drop as fn(Socket), |listener| listener.shutdown(Shutdown::Both).expect("it ends")] {
            let (listener, at) = listening(&network, 8);
            let client = dialing(&network, at);
            ready(&client, Interest::Write).await;
            sent(&client, b"hello").await;
            close(listener);
            assert_eq!(errno(received(&client).await), Errno::CONNRESET);
        }
    })
    .await;
    let network = simulated(Faults::none());
    let (listener, at) = listening(&network, 0);
    let (_pending, waiting) = (dialing(&network, at), dialing(&network, at));
    drop(listener);
    assert_eq!(errno(waiting.take_error()), Errno::CONNREFUSED);
}

#[tokio::test]
async fn a_listener_that_was_shut_down_can_listen_again() {
    on_both(async |network| {
        let (listener, _) = listening(&network, 8);
        listener.shutdown(Shutdown::Write).expect("it does nothing");
        listener.shutdown(Shutdown::Read).expect("it ends");
        hung_up(&listener).await;
        assert_eq!(errno(listener.accept()), Errno::INVAL);
        listener.listen(8).expect("it is bound, or is bound again");
        let client = dialing(&network, listener.local_address().expect("it is bound"));
        ready(&client, Interest::Write).await;
        client.take_error().expect("it is connected");
    })
    .await;
}

#[tokio::test]
async fn bytes_go_both_ways_through_several_buffers() {
    on_both(async |network| {
        let (client, server) = pair(&network).await;
        let offered = [IoSlice::new(b"one "), IoSlice::new(b""), IoSlice::new(b"two")];
        assert_eq!(until(&client, Interest::Write, || client.send(&offered, false)).await.expect("it is sent"), 7);
        ready(&server, Interest::Read).await;
        let (mut head, mut tail) = ([0; 2], [0; 9]);
        let count = until(&server, Interest::Read, || {
            server.receive(&mut [IoSliceMut::new(&mut head), IoSliceMut::new(&mut tail)], ReceiveFlags::default())
        });
        assert_eq!(count.await.expect("it is there"), 7);
        assert_eq!((&head, &tail[..5]), (b"on", &b"e two"[..]));
        sent(&server, b"back").await;
        assert_eq!(received(&client).await.expect("it is there"), b"back");
        assert_eq!(errno(receive(&client)), Errno::AGAIN);
        assert!(!is_ready(&client, Interest::Read));
    })
    .await;
}

#[tokio::test]
async fn a_peek_leaves_the_bytes_and_readiness_stays() {
    on_both(async |network| {
        let (client, server) = pair(&network).await;
        sent(&client, b"abc").await;
        for _ in 0..2 {
            ready(&server, Interest::Read).await;
            let mut bytes = [0; 2];
            let flags = ReceiveFlags { peek: true, ..ReceiveFlags::default() };
            let count = until(&server, Interest::Read, || server.receive(&mut [IoSliceMut::new(&mut bytes)], flags));
            assert_eq!(count.await.expect("it is there"), 2);
            assert_eq!(&bytes, b"ab");
        }
        let nothing = || server.receive(&mut [], ReceiveFlags::default());
        assert_eq!(until(&server, Interest::Read, nothing).await.expect("nothing is wanted"), 0);
        assert_eq!(received(&server).await.expect("it is there"), b"abc");
        assert_eq!(errno(nothing()), Errno::AGAIN);
    })
    .await;
}

/// The number of arrivals, once it is another than this.
async fn arrivals_after(socket: &Socket, known: u64) -> u64 {
    let counted = poll_fn(|context| match socket.arrivals(context) {
        arrivals if arrivals == known => Poll::Pending,
        arrivals => Poll::Ready(arrivals),
    });
    timeout(PATIENCE, counted).await.expect("something arrives")
}

#[tokio::test]
async fn what_arrives_is_counted_read_or_not_and_is_ready_until_it_is_read() {
    on_both(async |network| {
        let (client, server) = pair(&network).await;
        let mut known = server.arrivals(&mut Context::from_waker(Waker::noop()));
        for _ in 0..3 {
            sent(&client, b"abc").await;
            known = arrivals_after(&server, known).await;
            assert!(is_ready(&server, Interest::Read));
        }
        let mut buffer = [0; 5];
        let filled = server.receive(&mut [IoSliceMut::new(&mut buffer)], ReceiveFlags::default());
        assert_eq!(filled.expect("it is there"), 5);
        assert!(is_ready(&server, Interest::Read));
        assert_eq!(receive(&server).expect("the rest is there"), b"cabc");
        assert!(!is_ready(&server, Interest::Read));
        assert_eq!(server.arrivals(&mut Context::from_waker(Waker::noop())), known);
        client.shutdown(Shutdown::Write).expect("it is connected");
        known = arrivals_after(&server, known).await;
        assert!(ready(&server, Interest::Read).await.ended);
        assert_eq!(receive(&server).expect("it has ended"), b"");
        assert_eq!(server.arrivals(&mut Context::from_waker(Waker::noop())), known);
    })
    .await;
}

#[tokio::test]
async fn half_a_close_lets_the_peer_read_the_rest_and_answer() {
    on_both(async |network| {
        let (client, server) = pair(&network).await;
        sent(&client, b"rest").await;
        client.shutdown(Shutdown::Write).expect("it is connected");
        client.shutdown(Shutdown::Write).expect("once more does nothing");
        assert_eq!(errno(send(&client, b"x")), Errno::PIPE);
        assert_eq!(received(&server).await.expect("it is there"), b"rest");
        assert_eq!(received(&server).await.expect("the end"), b"");
        assert!(!ready(&server, Interest::Read).await.hangup);
        assert!(!ready(&server, Interest::Write).await.hangup);
        sent(&server, b"answer").await;
        assert_eq!(received(&client).await.expect("it is there"), b"answer");
        server.shutdown(Shutdown::Write).expect("it is connected");
        assert_eq!(received(&client).await.expect("the end"), b"");
        hung_up(&server).await;
        hung_up(&client).await;
        assert_eq!(errno(server.shutdown(Shutdown::Write)), Errno::NOTCONN);
        assert_eq!(errno(server.peer_address()), Errno::NOTCONN);
        assert_eq!(receive(&server).expect("still the end"), b"");
    })
    .await;
}

#[tokio::test]
async fn shut_to_read_is_an_end_that_bytes_still_pass() {
    on_both(async |network| {
        let (client, server) = pair(&network).await;
        server.shutdown(Shutdown::Read).expect("it is connected");
        assert!(!ready(&server, Interest::Read).await.hangup);
        assert_eq!(received(&server).await.expect("the end"), b"");
        sent(&client, b"late").await;
        ready(&server, Interest::Read).await;
        assert_eq!(received(&server).await.expect("it is there"), b"late");
        assert_eq!(received(&server).await.expect("the end"), b"");
        server.shutdown(Shutdown::Write).expect("it is connected");
        hung_up(&server).await;
        assert_eq!(received(&client).await.expect("the end"), b"");
        assert!(!ready(&client, Interest::Write).await.hangup);
        // Now bytes can neither be read nor refused in peace.
        sent(&client, b"x").await;
        assert_eq!(errno(server.take_error()), Errno::CONNRESET);
        assert_eq!(errno(send(&client, b"x")), Errno::PIPE);
    })
    .await;
}

#[tokio::test]
async fn a_closed_peer_is_an_end_and_then_a_broken_pipe() {
    on_both(async |network| {
        let (client, server) = pair(&network).await;
        sent(&client, b"rest").await;
        drop(client);
        assert_eq!(received(&server).await.expect("it is there"), b"rest");
        assert_eq!(received(&server).await.expect("the end"), b"");
        sent(&server, b"taken, and answered with a reset").await;
        hung_up(&server).await;
        assert_eq!(errno(send(&server, b"x")), Errno::PIPE);
        assert_eq!(receive(&server).expect("still the end"), b"");
        assert_eq!(errno(server.shutdown(Shutdown::Both)), Errno::NOTCONN);
    })
    .await;
}

#[tokio::test]
async fn unread_bytes_make_a_close_a_reset() {
    on_both(async |network| {
        let (client, server) = pair(&network).await;
        sent(&client, b"never read").await;
        sent(&server, b"before").await;
        ready(&server, Interest::Read).await;
        drop(server);
        hung_up(&client).await;
        assert_eq!(received(&client).await.expect("it came before"), b"before");
        assert_eq!(errno(receive(&client)), Errno::CONNRESET);
        assert_eq!(receive(&client).expect("the end"), b"");
        assert_eq!(errno(send(&client, b"x")), Errno::PIPE);
        assert_eq!(errno(client.peer_address()), Errno::NOTCONN);
    })
    .await;
}

#[tokio::test]
async fn lingering_no_time_is_a_reset() {
    on_both(async |network| {
        for sends in [true, false] {
            let (client, server) = pair(&network).await;
            server.set_option(SocketOption::Linger(Some(Duration::ZERO))).expect("it is set");
            drop(server);
            hung_up(&client).await;
            let outcome = if sends { send(&client, b"x").map(|_| vec![]) } else { receive(&client) };
            assert_eq!(errno(outcome), Errno::CONNRESET);
            client.take_error().expect("it was taken");
            assert_eq!(errno(send(&client, b"x")), Errno::PIPE);
        }
    })
    .await;
}

#[tokio::test]
async fn a_full_buffer_stops_the_sender_until_it_is_read() {
    on_both(async |network| {
        let (client, server) = pair(&network).await;
        let block = [7; 10_000];
        let mut sent = 0;
        let filling = async {
            loop {
                sent += until(&client, Interest::Write, || send(&client, &block)).await.expect("it is sent");
            }
        };
        timeout(Duration::from_millis(50), filling).await.expect_err("it fills up");
        assert!(!is_ready(&client, Interest::Write));
        let mut read = 0;
        let reader = async {
            while read < sent {
                read += received(&server).await.expect("it is there").len();
            }
        };
        let writer = ready(&client, Interest::Write);
        tokio::join!(reader, writer);
        assert_eq!(read, sent);
    })
    .await;
}

#[tokio::test]
async fn a_fresh_stream_socket_refuses_what_needs_a_peer() {
    on_both(async |network| {
        let socket = tcp(&network);
        hung_up(&socket).await;
        assert_eq!(errno(received(&socket).await), Errno::NOTCONN);
        assert_eq!(errno(send(&socket, b"x")), Errno::PIPE);
        assert_eq!(errno(socket.peer_address()), Errno::NOTCONN);
        assert_eq!(errno(socket.accept()), Errno::INVAL);
        assert_eq!(errno(socket.connect((Ipv6Addr::LOCALHOST, 1).into())), Errno::AFNOSUPPORT);
        assert_eq!(errno(socket.shutdown(Shutdown::Both)), Errno::NOTCONN);
        let (listener, _) = listening(&network, 1);
        // The operating system's, which is never ready, is only asked every other time.
        let asked = [errno(receive(&listener)), errno(receive(&listener))];
        assert!(asked.contains(&Errno::NOTCONN));
        let asked = [errno(send(&listener, b"x")), errno(send(&listener, b"x"))];
        assert!(asked.contains(&Errno::PIPE));
    })
    .await;
}

#[tokio::test]
async fn options_are_remembered() {
    on_both(async |network| {
        let socket = tcp(&network);
        for option in [
            SocketOption::ReuseAddress(true),
            SocketOption::Broadcast(true),
            SocketOption::KeepAlive(true),
            SocketOption::OobInline(true),
            SocketOption::Linger(Some(Duration::from_secs(3))),
        ] {
            socket.set_option(option).expect("it is set");
            assert_eq!(socket.option(socket::name_of(&option)).expect("it is known"), option);
        }
        socket.set_option(SocketOption::ReceiveBuffer(10_000)).expect("it is set");
        let doubled = socket.option(OptionName::ReceiveBuffer).expect("it is known");
        assert_eq!(doubled, SocketOption::ReceiveBuffer(20_000));
        assert_eq!(tcp(&network).option(OptionName::Linger).expect("it is known"), SocketOption::Linger(None));
    })
    .await;
}

pub(super) const MEGABYTE: usize = 1 << 20;
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
