//! Instances that answer several requests.

/// Instances that may.
#[derive(Debug, Default)]
pub(crate) struct Reusing {}
