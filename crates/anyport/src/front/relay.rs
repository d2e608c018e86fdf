//! Letting connections in for guests that read bytes: whose they are, and without their TLS.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::ingress::{Connection, Ingress};
use crate::net::Endpoint;
use crate::net::published::{Port, Published};
use crate::net::queue::Arrival;
use crate::net::stream::Stream;

/// Bytes on their way in one direction: a record of TLS.
const BUFFER_BYTES: usize = 16 << 10;

/// Lets a connection in, and with TLS passes its bytes on until it ends.
pub(super) async fn admit(
    ingress: Arc<Ingress>, published: Arc<Published>, port: Arc<Port>, arrival: Arrival, stall: Duration,
) {
    let peer = arrival.peer;
    let admitted = async {
        if ingress.has_tls() {
            admit_secure(&ingress, &published, &port, arrival, stall).await
        } else {
            admit_plain(&ingress, &published, &port, arrival).await
        }
    };
    if let Err(error) = admitted.await {
        tracing::debug!("the connection of {peer} ended: {error}");
    }
}

async fn admit_plain(ingress: &Ingress, published: &Published, port: &Port, arrival: Arrival) -> io::Result<()> {
    let Arrival { stream, peer, permit, .. } = arrival;
    let peer = ingress.enter_plain(&stream, peer).await?;
    // Its poller was the front's.
    let stream = stream.renewed()?.unwrap_or(stream);
    published.admit(port, Arrival { stream, peer, permit, is_raw: false })
}

async fn admit_secure(
    ingress: &Ingress, published: &Published, port: &Port, arrival: Arrival, stall: Duration,
) -> io::Result<()> {
    // Until the guest's last bytes are with the client: a server that drains waits for that too.
    let _relayed = port.unassigned().permit();
    let Arrival { stream, peer, permit, .. } = arrival;
    let (connection, client) = ingress.enter(stream, peer, None).await?;
    let (ours, theirs) = Endpoint::pair()?;
    let watched = ours.renewed()?;
    published.admit(port, Arrival { stream: theirs, peer: client.peer, permit, is_raw: false })?;
    relay(connection, Stream::new(ours, None), watched, stall).await
}

/// Passes bytes on in both directions until both have ended, or the guest has closed its end.
async fn relay(client: Connection, guest: Stream, watched: Option<Endpoint>, stall: Duration) -> io::Result<()> {
    let (client_reads, client_writes) = tokio::io::split(client);
    let (guest_reads, guest_writes) = tokio::io::split(guest);
    let mut up = pin!(pass(client_reads, guest_writes, stall));
    let mut down = pin!(pass(guest_reads, client_writes, stall));
    tokio::select! {
        // The client says no more, or the guest has closed: the rest of the answer is still to come.
        outcome = &mut up => match outcome {
            Err(error) if error.kind() == io::ErrorKind::TimedOut => return Err(error),
            _ => return down.await,
        },
        outcome = &mut down => outcome?,
    }
    match watched {
        Some(watched) => tokio::select! {
            outcome = up => outcome,
            outcome = poll_fn(|context| watched.poll_hangup(context)) => outcome,
        },
        None => up.await,
    }
}

/// Passes bytes on in one direction, to its end; then the other side is told of that. A side that takes nothing
/// for too long has gone.
async fn pass(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, stall: Duration) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    let copied = loop {
        let length = match from.read(&mut buffer).await {
            Ok(0) => break Ok(()),
            Ok(length) => length,
            Err(error) => break Err(error),
        };
        within(stall, async {
            to.write_all(&buffer[..length]).await?;
            to.flush().await
        })
        .await?;
    };
    within(stall, to.shutdown()).await?;
    copied
}

async fn within(stall: Duration, sending: impl Future<Output = io::Result<()>>) -> io::Result<()> {
    tokio::time::timeout(stall, sending).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
