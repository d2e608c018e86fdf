//! Stands in for `wasmedge_wasi_socket`, so that the blocking guest's own source builds natively.
use std::io;
use std::net::{self, SocketAddr, ToSocketAddrs};

pub use std::net::{Shutdown, TcpStream};

pub struct TcpListener(net::TcpListener);

impl TcpListener {
    pub fn bind(address: impl ToSocketAddrs, nonblocking: bool) -> io::Result<Self> {
        let listener = net::TcpListener::bind(address)?;
        listener.set_nonblocking(nonblocking)?;
        Ok(Self(listener))
    }

    pub fn accept(&self, nonblocking: bool) -> io::Result<(TcpStream, SocketAddr)> {
        let (stream, peer) = self.0.accept()?;
        if nonblocking {
            stream.set_nonblocking(true)?;
        }
        Ok((stream, peer))
    }
}
