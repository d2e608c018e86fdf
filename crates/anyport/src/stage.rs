//! What a server is doing.

use tokio::sync::watch;

/// What a server is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    Serving,
    /// Takes no new connection, and ends those on which nothing is owed.
    Draining,
    /// The guests are told to end by themselves, those that can be: by a signal of this number.
    Leaving(u32),
    Stopped,
}

impl Stage {
    /// Whatever the signal.
    pub(crate) const LEAVING: Self = Self::Leaving(0);

    /// Waits until a server is at this stage, or past it, or is no more.
    pub(crate) async fn reached(self, stage: &mut watch::Receiver<Self>) {
        // What it gives is a lock, which must not outlive this statement.
        let _ = stage.wait_for(|now| *now >= self).await.map(drop);
    }
}
