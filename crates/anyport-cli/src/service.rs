//! The service manager that started us: what it hands over, what it is told.

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::atomic::{AtomicUsize, Ordering};

use anyport::Error;
use anyport::error::ErrorKind;
use anyport::server::Listener;
use listenfd::ListenFd;

/// The service manager, if one started us with `NOTIFY_SOCKET`: `sd_notify(3)`.
pub(crate) struct Manager {
    ports: usize,
    listening: AtomicUsize,
}

impl Manager {
    pub(crate) fn new(ports: usize) -> Self {
        Self { ports, listening: AtomicUsize::new(0) }
    }

    /// One more port is served.
    pub(crate) fn one_listens(&self) {
        let listening = self.listening.fetch_add(1, Ordering::AcqRel) + 1;
        self.all_listen(listening);
    }

    /// Tells when this is all there is to serve.
    pub(crate) fn all_listen(&self, listening: usize) {
        if listening == self.ports {
            Self::tell("READY=1");
        }
    }

    pub(crate) fn is_serving(&self) -> bool {
        self.listening.load(Ordering::Acquire) > 0
    }

    /// The service is about to end.
    pub(crate) fn stops() {
        Self::tell("STOPPING=1");
    }

    fn tell(state: &str) {
        let Some(socket) = std::env::var_os("NOTIFY_SOCKET").filter(|socket| !socket.is_empty()) else { return };
        if let Err(error) = send(&socket, state) {
            tracing::debug!("the service manager cannot be told: {error}");
        }
    }
}

/// Sends to a socket by its path, or to an abstract one by its name behind an `@`.
fn send(socket: &OsStr, state: &str) -> io::Result<()> {
    let address = match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        path => SocketAddr::from_pathname(OsStr::from_bytes(path))?,
    };
    let ours = UnixDatagram::unbound()?;
    // A manager that does not listen must not hold a server up.
    ours.set_nonblocking(true)?;
    ours.send_to_addr(state.as_bytes(), &address)?;
    Ok(())
}

/// The sockets that a service manager started us with: `sd_listen_fds(3)`.
pub(crate) fn inherited_listeners() -> Result<Vec<Listener>, Error> {
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':');
    let mut inherited = ListenFd::from_env();
    let mut listeners = Vec::new();
    for index in 0..inherited.len() {
        let socket: Option<OwnedFd> = match inherited.take_tcp_listener(index) {
            Ok(listener) => listener.map(Into::into),
            Err(_) => inherited
                .take_unix_listener(index)
                .map_err(|error| {
                    let what = format!("descriptor {} of LISTEN_FDS is no stream listener: {error}", 3 + index);
                    Error::new(ErrorKind::Host, what)
                })?
                .map(Into::into),
        };
        let name = names.next().filter(|name| !name.is_empty()).unwrap_or("unknown");
        if let Some(socket) = socket {
            listeners.push(Listener::Inherited { socket, name: name.to_owned() });
        }
    }
    Ok(listeners)
}
