//! The PROXY protocol: whose a connection is, as the proxy in front says before its first byte.
//!
//! <https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>. Not a byte behind the header is taken.

use std::future::poll_fn;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::task::{Poll, ready};

use proxy_header::{ParseConfig, Protocol, ProxyHeader};

use super::{Endpoint, Interest, ReceiveFlags};

/// What version 2 begins with. No header of version 1 is shorter.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// Version 2 up to its length, and that.
const FIXED: usize = 16;

/// The longest line of version 1.
const LINE_MOST: usize = 107;

/// The most behind the fixed part of version 2: addresses have 216 bytes at most, and proxies of the large clouds add
/// a few hundred.
const MORE_MOST: usize = 4096;

/// Reads the header: who the client is, or none where the proxy speaks for itself.
pub(crate) async fn source(endpoint: &Endpoint) -> io::Result<Option<SocketAddr>> {
    let mut header = vec![0; SIGNATURE.len()];
    fill(endpoint, &mut header).await?;
    if header == SIGNATURE {
        rest(endpoint, &mut header).await?;
    } else if header.starts_with(b"PROXY ") {
        line(endpoint, &mut header).await?;
    } else {
        return Err(refused("it does not begin with one"));
    }
    let config = ParseConfig { include_tlvs: false, ..ParseConfig::default() };
    match ProxyHeader::parse(&header, config) {
        Ok((parsed, length)) if length == header.len() => {
            let address = parsed.proxied_address().filter(|address| address.protocol == Protocol::Stream);
            Ok(address.map(|address| address.source))
        }
        _ => Err(refused("it is not right")),
    }
}

/// The rest of version 2.
async fn rest(endpoint: &Endpoint, header: &mut Vec<u8>) -> io::Result<()> {
    header.resize(FIXED, 0);
    fill(endpoint, &mut header[SIGNATURE.len()..]).await?;
    let more = usize::from(u16::from_be_bytes([header[FIXED - 2], header[FIXED - 1]]));
    if more > MORE_MOST {
        return Err(refused("it is too long"));
    }
    header.resize(FIXED + more, 0);
    fill(endpoint, &mut header[FIXED..]).await
}

/// The rest of the line that version 1 is: what follows it is looked at, and left.
async fn line(endpoint: &Endpoint, header: &mut Vec<u8>) -> io::Result<()> {
    loop {
        let mut ahead = [0; LINE_MOST];
        let room = &mut ahead[..LINE_MOST - header.len()];
        let peek = ReceiveFlags { peek: true, ..ReceiveFlags::default() };
        let seen = receive(endpoint, room, peek).await?;
        let end = room[..seen].iter().position(|byte| *byte == b'\n').map(|at| at + 1);
        let taken = &mut ahead[..end.unwrap_or(seen)];
        fill(endpoint, taken).await?;
        header.extend_from_slice(taken);
        if end.is_some() {
            return Ok(());
        }
        if header.len() >= LINE_MOST {
            return Err(refused("it is too long"));
        }
    }
}

async fn fill(endpoint: &Endpoint, mut buffer: &mut [u8]) -> io::Result<()> {
    while !buffer.is_empty() {
        let received = receive(endpoint, buffer, ReceiveFlags::default()).await?;
        buffer = &mut buffer[received..];
    }
    Ok(())
}

/// Some bytes; its end is an error.
async fn receive(endpoint: &Endpoint, buffer: &mut [u8], flags: ReceiveFlags) -> io::Result<usize> {
    let received = poll_fn(|context| {
        loop {
            match endpoint.receive(&mut [IoSliceMut::new(buffer)], flags) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(endpoint.poll_ready(context, Interest::Read))?;
                }
                outcome => return Poll::Ready(outcome),
            }
        }
    });
    match received.await? {
        0 => Err(refused("it ends before that")),
        received => Ok(received),
    }
}

fn refused(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("no header of the PROXY protocol: {why}"))
}
