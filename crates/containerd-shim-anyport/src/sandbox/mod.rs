//! Makes a container out of the calling process.
//!
//! A process that is to be a container calls, in this order and with a single thread:
//! [`enter_namespaces`], [`prepare_rootfs`], [`drop_privileges`]. One that is to be another process of
//! a container calls [`join`] and [`drop_privileges`]. Before that, the daemon has mounted the image
//! ([`mount_rootfs`]) and chosen the pid namespace ([`spawn_in`]).
//!
//! Needs Linux 5.6 (`openat2`), and 5.12 for recursive attributes of mounts.

mod capabilities;
mod cgroups;
mod copy;
mod devices;
mod image;
mod mounts;
mod namespaces;
mod options;
mod privileges;
mod procfs;
mod root;
mod rootfs;
mod seccomp;
mod sys;
mod syscalls;
mod sysctls;
#[cfg(test)]
#[path = "../../tests/sandbox/mod.rs"]
mod tests;

use std::fmt::Display;
use std::io;

use anyport::Error;
use anyport::error::ErrorKind;

pub(crate) use image::{RootfsMount, mount_rootfs, unmount_rootfs};
pub(crate) use namespaces::{PidNamespace, enter_namespaces, join, pid_namespace, spawn_in};
pub(crate) use privileges::drop_privileges;
pub(crate) use rootfs::prepare_rootfs;

type Result<T> = std::result::Result<T, Error>;

/// What is not done, on purpose.
fn refused(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Host, message)
}

/// What the kernel did not do.
fn failed(what: impl Display, error: impl Into<io::Error>) -> Error {
    let error = error.into();
    let is_old = error.raw_os_error() == Some(rustix::io::Errno::NOSYS.raw_os_error());
    let failure = Error::new(ErrorKind::Host, format!("{what}: {error}"));
    if is_old {
        return failure.with_hint("containers need Linux 5.6, and 5.12 for mounts that are recursively read-only");
    }
    failure
}
