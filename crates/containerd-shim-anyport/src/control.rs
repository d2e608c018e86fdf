//! What the shim and the processes that it starts tell each other: packets of JSON over a socket pair,
//! with descriptors beside them.
//!
//! The socket is the child's stdin: a child is given no other descriptor without `unsafe`.

use std::collections::BTreeMap;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::os::unix::net::UnixDatagram as StdDatagram;
use tokio::io::Interest;
use tokio::net::UnixDatagram;

use anyport::Error;
use anyport::error::ErrorKind;

/// Bytes of a packet, at most: below what Linux takes by default (`net.core.wmem_default`).
const PACKET_BYTES: usize = 128 << 10;

/// Descriptors that come with a packet, at most.
const DESCRIPTORS: usize = 4;

/// The shim to the init process of a container.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ToInit {
    /// What it will be. With the guest's stdin.
    Become(Container),
    /// Its hooks have run, and its module is there: the compiled module comes with this.
    Prepared(Prepared),
    /// The guest may run.
    Start,
    /// What is the guest doing?
    Status,
    /// The container may have so much memory from now on, in bytes.
    Memory(Option<u64>),
}

/// The init process to the shim.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum FromInit {
    /// It is in the namespaces of its container.
    Namespaces,
    /// All is ready for [`ToInit::Start`].
    Created,
    /// The guest runs.
    Started,
    /// What the guest is doing, as [`anyport::server::Status`] has it.
    Status(serde_json::Value),
    /// The guest asked for more memory than it may have, and ended.
    OutOfMemory,
    /// It cannot go on.
    Failed(Failure),
}

/// A container, as all of its processes need it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Container {
    pub(crate) id: String,
    pub(crate) bundle: PathBuf,
}

/// The shim to the process that finds and compiles a module.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Prepare {
    pub(crate) container: Container,
    /// Of containerd.
    pub(crate) namespace: String,
    /// Where containerd's services are.
    pub(crate) address: PathBuf,
    /// The command line whose first word is the module.
    pub(crate) args: Vec<String>,
    /// The folder that the command line is relative to, in the container.
    pub(crate) cwd: PathBuf,
}

/// Its answer.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum FromPrepare {
    /// The compiled module comes with this.
    Prepared(Prepared),
    Failed(Failure),
}

/// A module that can be mapped and run, and what is known of its image.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Prepared {
    /// The guest's own name: the first word of its command line.
    pub(crate) name: String,
    /// Where the module was found, for people.
    pub(crate) origin: String,
    /// The `io.anyport.` labels of the image and the container, without that front.
    pub(crate) labels: BTreeMap<String, String>,
    /// TCP ports that the image exposes, in rising order.
    pub(crate) exposed: Vec<u16>,
    /// The most memory that the container may have, in bytes: of its own, or of what it is part of.
    pub(crate) memory_limit: Option<u64>,
}

/// The shim to a process of `docker exec`. With its stdin, and the folder of the container's
/// namespaces in `/proc`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Exec {
    pub(crate) container: Container,
    /// The OCI description of the process, as JSON.
    pub(crate) process: serde_json::Value,
    /// What the guest is doing, if that was asked for and it answered.
    pub(crate) status: Option<serde_json::Value>,
    /// The module that is run, if one is: compiled, it comes with this.
    pub(crate) prepared: Option<Prepared>,
    /// Why nothing can be run.
    pub(crate) failure: Option<Failure>,
}

/// An [`Error`] on its way to another process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Failure {
    message: String,
    hint: Option<String>,
    exit_code: u8,
}

impl From<&Error> for Failure {
    fn from(error: &Error) -> Self {
        Self { message: error.to_string(), hint: error.hint().map(str::to_owned), exit_code: error.kind().exit_code() }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        let kinds = [ErrorKind::NotRunnable, ErrorKind::NotFound];
        let kind = kinds.into_iter().find(|kind| kind.exit_code() == failure.exit_code).unwrap_or(ErrorKind::Host);
        let error = Self::new(kind, failure.message);
        match failure.hint {
            Some(hint) => error.with_hint(hint),
            None => error,
        }
    }
}

/// One end of the socket pair; its calls wait.
#[derive(Debug)]
pub(crate) struct Control(OwnedFd);

impl Control {
    /// Our end, and the one to start a child with.
    pub(crate) fn pair() -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok((Self(ours), theirs))
    }

    /// The end that this process was started with. It stays stdin too, until another takes its place.
    pub(crate) fn from_stdin() -> io::Result<Self> {
        Ok(Self(rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?))
    }

    /// Sends one packet, with descriptors.
    pub(crate) fn send(&self, message: &impl Serialize, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        send(self.0.as_fd(), message, descriptors)
    }

    /// The next packet; `UnexpectedEof` if the other side has gone.
    pub(crate) fn receive<T: DeserializeOwned>(&self) -> io::Result<(T, Vec<OwnedFd>)> {
        receive(self.0.as_fd())
    }

    /// The same, for a tokio program.
    pub(crate) fn into_async(self) -> io::Result<AsyncControl> {
        // tokio knows no sockets of packets in order, but waits for them as for others.
        let socket = StdDatagram::from(self.0);
        socket.set_nonblocking(true)?;
        Ok(AsyncControl(UnixDatagram::from_std(socket)?))
    }
}

fn send(socket: BorrowedFd<'_>, message: &impl Serialize, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let packet = serde_json::to_vec(message)?;
    if packet.len() > PACKET_BYTES {
        return Err(io::Error::other("the message is too long"));
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::other("too many descriptors"));
    }
    rustix::net::sendmsg(socket, &[IoSlice::new(&packet)], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

fn receive<T: DeserializeOwned>(socket: BorrowedFd<'_>) -> io::Result<(T, Vec<OwnedFd>)> {
    let mut packet = vec![0; PACKET_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let buffers = &mut [IoSliceMut::new(&mut packet)];
    let flags = RecvFlags::CMSG_CLOEXEC;
    let received = rustix::io::retry_on_intr(|| rustix::net::recvmsg(socket, buffers, &mut ancillary, flags))?;
    if received.bytes == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let mut descriptors = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            descriptors.extend(received);
        }
    }
    Ok((serde_json::from_slice(&packet[..received.bytes])?, descriptors))
}

/// One end of the socket pair; its calls wait without holding the thread.
#[derive(Debug)]
pub(crate) struct AsyncControl(UnixDatagram);

impl AsyncControl {
    pub(crate) async fn send(&self, message: &impl Serialize, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.0.async_io(Interest::WRITABLE, || send(self.0.as_fd(), message, descriptors)).await
    }

    pub(crate) async fn receive<T: DeserializeOwned>(&self) -> io::Result<(T, Vec<OwnedFd>)> {
        self.0.async_io(Interest::READABLE, || receive(self.0.as_fd())).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Seek, Write};

    #[test]
    fn a_packet_takes_descriptors_along() {
        let (ours, theirs) = Control::pair().expect("a socket pair");
        let theirs = Control(theirs);
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(b"text").expect("room");
        ours.send(&ToInit::Prepared(Prepared { name: "/app.wasm".to_owned(), ..Prepared::default() }), &[file.as_fd()])
            .expect("sent");
        let (message, mut descriptors) = theirs.receive::<ToInit>().expect("received");
        assert!(matches!(message, ToInit::Prepared(prepared) if prepared.name == "/app.wasm"));
        let mut received = std::fs::File::from(descriptors.pop().expect("the file"));
        let mut text = String::new();
        received.rewind().and_then(|()| received.read_to_string(&mut text)).expect("readable");
        assert_eq!(text, "text");
        drop(ours);
        assert_eq!(theirs.receive::<ToInit>().expect_err("gone").kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn an_error_keeps_its_words_and_its_code() {
        for kind in [ErrorKind::Host, ErrorKind::NotRunnable, ErrorKind::NotFound] {
            let error = Error::from(Failure::from(&Error::new(kind, "what").with_hint("how")));
            assert_eq!((error.kind(), error.to_string().as_str(), error.hint()), (kind, "what", Some("how")));
        }
    }
}
