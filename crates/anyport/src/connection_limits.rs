//! The time limits of connections: who owes an answer, what is idle, what may end when a server drains.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::descriptor::{Descriptors, Last, Socket, SocketKind};
use crate::limits::Limits;
use crate::net::Shutdown;
use crate::spelling::option;
use crate::stage::Stage;

/// While a server drains, a connection that was quiet for as long and owes nothing is ended: between
/// two requests, or before the first. A response that comes in parts has shorter pauses. After as long
/// again, its guest will not close it.
const DRAIN_QUIET: Duration = Duration::from_secs(1);

/// How often is looked while a server drains.
const DRAIN_LOOK: Duration = Duration::from_millis(50);

/// The longest and shortest time between two looks otherwise.
const LOOK_MOST: Duration = Duration::from_secs(10);
const LOOK_LEAST: Duration = Duration::from_millis(5);

/// Looks after the accepted connections of one guest.
pub(crate) struct Watchman {
    descriptors: Arc<Descriptors>,
    timeout: Duration,
    idle_timeout: Duration,
    stage: watch::Receiver<Stage>,
    told: bool,
}

/// What becomes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Stays,
    /// The guest sees the end of the client's bytes, and may still send.
    LastWords,
    /// It is closed: nothing passes.
    Over,
    /// It is closed: the guest has not answered in time.
    TimedOut,
}

impl Watchman {
    pub(crate) fn new(descriptors: &Arc<Descriptors>, limits: &Limits, stage: watch::Receiver<Stage>) -> Self {
        Self {
            descriptors: Arc::clone(descriptors),
            timeout: limits.timeout,
            idle_timeout: limits.idle_timeout,
            stage,
            told: false,
        }
    }

    /// Looks again and again, for as long as the guest lives.
    pub(crate) async fn watch(mut self) {
        let shortest = self.timeout.min(self.idle_timeout);
        // Late by a tenth at most.
        let usual = (shortest / 10).clamp(LOOK_LEAST, LOOK_MOST);
        loop {
            let draining = *self.stage.borrow_and_update() != Stage::Serving;
            self.look(Instant::now(), draining);
            let pause = tokio::time::sleep(if draining { DRAIN_LOOK } else { usual });
            tokio::select! {
                () = pause => {}
                changed = self.stage.changed() => if changed.is_err() { return },
            }
        }
    }

    fn look(&mut self, now: Instant, draining: bool) {
        for socket in self.descriptors.public() {
            let (last, quiet) = socket.traffic.quiet(now);
            // What the guest has not read may be a request.
            let ends = draining && !socket.endpoint().unread().is_ok_and(|bytes| bytes > 0);
            match self.fate(last, quiet, ends) {
                Fate::Stays => {}
                Fate::LastWords => {
                    // As if the client had closed its side. It may have done so.
                    let _ = socket.endpoint().shutdown(Shutdown::Read);
                }
                Fate::Over => cut(&socket),
                Fate::TimedOut => {
                    self.tell();
                    cut(&socket);
                }
            }
        }
    }

    /// `ends` says that it may be ended as soon as nothing is owed.
    fn fate(&self, last: Last, quiet: Duration, ends: bool) -> Fate {
        let ends = ends && matches!(last, Last::Nothing | Last::Sent);
        if last == Last::Received && quiet >= self.timeout {
            Fate::TimedOut
        } else if (quiet >= self.idle_timeout && last != Last::Received)
            || (ends && quiet >= DRAIN_QUIET + DRAIN_QUIET / 2)
        {
            Fate::Over
        } else if ends && quiet >= DRAIN_QUIET {
            Fate::LastWords
        } else {
            Fate::Stays
        }
    }

    /// Once for each guest: a guest that hangs leaves many waiting.
    fn tell(&mut self) {
        if !std::mem::replace(&mut self.told, true) {
            let longer = option("timeout", format!("{}s", (self.timeout * 2).as_secs().max(1)));
            tracing::warn!(
                "a client was without an answer for {:?}, or the guest without the rest of its request, so the \
                 connection was closed; if that may take longer, add `{longer}`",
                self.timeout
            );
        }
    }
}

fn cut(socket: &Socket) {
    if let SocketKind::Tcp(tcp) = &socket.kind {
        tcp.cut();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fates() {
        let (_sender, stage) = watch::channel(Stage::Serving);
        let limits =
            Limits { timeout: Duration::from_secs(60), idle_timeout: Duration::from_secs(300), ..Limits::default() };
        let watchman = Watchman::new(&Descriptors::new(1), &limits, stage);
        for (last, seconds, ends, want) in [
            (Last::Nothing, 299, false, Fate::Stays),
            (Last::Nothing, 300, false, Fate::Over),
            (Last::Nothing, 1, true, Fate::LastWords),
            (Last::Received, 59, false, Fate::Stays),
            (Last::Received, 60, false, Fate::TimedOut),
            (Last::Received, 59, true, Fate::Stays),
            (Last::Received, 60, true, Fate::TimedOut),
            (Last::Sent, 60, false, Fate::Stays),
            (Last::Sent, 300, false, Fate::Over),
            (Last::Sent, 0, true, Fate::Stays),
            (Last::Sent, 1, true, Fate::LastWords),
            (Last::Sent, 2, true, Fate::Over),
            (Last::Stuck, 299, true, Fate::Stays),
            (Last::Stuck, 300, true, Fate::Over),
        ] {
            let fate = watchman.fate(last, Duration::from_secs(seconds), ends);
            assert_eq!(fate, want, "{last:?} for {seconds} s, ends: {ends}");
        }
    }
}
