//! Datagrams.

use std::net::SocketAddr;

use wasip2::sockets::network::{ErrorCode, IpAddressFamily, Network};
use wasip2::sockets::udp::{
    IncomingDatagram, IncomingDatagramStream, OutgoingDatagram, OutgoingDatagramStream, UdpSocket,
};
use wasip2::sockets::udp_create_socket::create_udp_socket;

use crate::{Answer, done, family, native, say, wait, wasi};

pub fn alone(network: &Network) {
    let socket = match create_udp_socket(IpAddressFamily::Ipv4) {
        Ok(socket) => socket,
        Err(error) => return say("create a UDP socket", Err::<&str, _>(error)),
    };
    say("create a UDP socket", Ok("done"));
    say("UDP streams unbound", socket.stream(None).map(|_| "streams"));
    say("UDP local address unbound", socket.local_address().map(native));
    say("set a UDP hop limit of 0", done(socket.set_unicast_hop_limit(0)));
    say("UDP bind", done(bind(&socket, network, SocketAddr::from(([127, 0, 0, 1], 0)))));
    say("UDP bind again", done(bind(&socket, network, SocketAddr::from(([127, 0, 0, 1], 0)))));
    say("UDP local address", socket.local_address().map(|address| native(address).ip()));
    let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
    say("UDP connect to port 0", socket.stream(Some(wasi(nowhere))).map(|_| "streams"));
    let unconnected = socket.stream(None).and_then(|(_, outgoing)| send(&outgoing, b"probe".to_vec(), None));
    say("send to nobody", done(unconnected));
}

/// A datagram to `address`, and what it answers: from a socket that is not connected, and from one that is.
pub fn ask(network: &Network, address: SocketAddr) {
    for (how, connected) in [("unconnected", false), ("connected", true)] {
        let (to_stream, to_datagram) = if connected { (Some(address), None) } else { (None, Some(address)) };
        let answer = asked(network, address, to_stream, to_datagram);
        say(&format!("UDP answer, {how}"), answer);
    }
}

fn asked(
    network: &Network, address: SocketAddr, to_stream: Option<SocketAddr>, to_datagram: Option<SocketAddr>,
) -> Answer<String> {
    let socket = create_udp_socket(family(address))?;
    bind(&socket, network, if address.is_ipv4() { ([0; 4], 0).into() } else { ([0u16; 8], 0).into() })?;
    let (incoming, outgoing) = socket.stream(to_stream.map(wasi))?;
    send(&outgoing, b"probe".to_vec(), to_datagram)?;
    let datagram = receive(&incoming)?;
    let text = String::from_utf8_lossy(&datagram.data).into_owned();
    Ok(format!("{text:?} from {}", native(datagram.remote_address)))
}

/// Until a datagram says `end`.
pub fn echo(network: &Network, address: SocketAddr) -> Answer<&'static str> {
    let socket = create_udp_socket(family(address))?;
    bind(&socket, network, address)?;
    let (incoming, outgoing) = socket.stream(None)?;
    say("UDP echo at", socket.local_address().map(native));
    loop {
        let datagram = match receive(&incoming) {
            Err(ErrorCode::Timeout) => continue,
            received => received?,
        };
        if datagram.data == b"end" {
            return Ok("done");
        }
        send(&outgoing, datagram.data, Some(native(datagram.remote_address)))?;
    }
}

fn bind(socket: &UdpSocket, network: &Network, address: SocketAddr) -> Answer<()> {
    socket.start_bind(network, wasi(address))?;
    wait(|| socket.subscribe(), || socket.finish_bind())
}

fn send(outgoing: &OutgoingDatagramStream, data: Vec<u8>, to: Option<SocketAddr>) -> Answer<()> {
    // It may be asked for less than it permits, never for more.
    wait(
        || outgoing.subscribe(),
        || match outgoing.check_send() {
            Ok(0) => Err(ErrorCode::WouldBlock),
            permitted => permitted,
        },
    )?;
    match outgoing.send(&[OutgoingDatagram { data, remote_address: to.map(wasi) }])? {
        1 => Ok(()),
        _ => Err(ErrorCode::WouldBlock),
    }
}

fn receive(incoming: &IncomingDatagramStream) -> Answer<IncomingDatagram> {
    wait(|| incoming.subscribe(), || incoming.receive(1)?.pop().ok_or(ErrorCode::WouldBlock))
}
