//! What a server is doing.

/// What a server is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Serving,
    /// Takes no new connection, and ends those on which nothing is owed.
    Draining,
    Stopped,
}
