//! The locks of `futexes.rs`, which a test has others for.

pub(super) use std::sync::{Arc, Mutex, MutexGuard};
