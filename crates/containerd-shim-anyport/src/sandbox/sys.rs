//! The system calls that rustix lacks, or calls unsafe.
//!
//! A module of its own since it is the only one of the sandbox that needs `unsafe`.
#![allow(unsafe_code, reason = "rustix has no mount_setattr, no seccomp and no ioctl of interfaces")]

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::thread::UnshareFlags;
use seccompiler::sock_filter;

/// An interface's flags have 16 bits, but libc's constants 32.
const IFF_UP: libc::c_short = 1;

/// What `mount_setattr` sets and clears: `MOUNT_ATTR_*`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Attributes {
    pub(super) set: u64,
    pub(super) clear: u64,
}

/// Gives the calling thread namespaces of its own. Flags are `CLONE_NEW*` only.
pub(super) fn unshare(flags: UnshareFlags) -> rustix::io::Result<()> {
    assert!(!flags.contains(UnshareFlags::FILES), "descriptors are never unshared");
    // SAFETY: only `CLONE_FILES` can make a descriptor of one thread mean something else in another.
    unsafe { rustix::thread::unshare_unsafe(flags) }
}

/// Changes the attributes of a mount, and with `recursive` of all that are below it. Linux 5.12.
pub(super) fn mount_setattr(mount: BorrowedFd<'_>, attributes: Attributes, recursive: bool) -> io::Result<()> {
    let attr = libc::mount_attr { attr_set: attributes.set, attr_clr: attributes.clear, propagation: 0, userns_fd: 0 };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a string that ends with zero, the attributes are as long as is said, and
    // the kernel keeps neither.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Puts the calling thread, and all that it will start, under a filter of system calls. The thread
/// must have `no_new_privs`, or the right to do without.
pub(super) fn install_filter(program: &[sock_filter], flags: libc::c_ulong) -> io::Result<()> {
    let len = u16::try_from(program.len()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    let program = libc::sock_fprog { len, filter: program.as_ptr().cast_mut().cast() };
    // SAFETY: seccompiler's `sock_filter` has the layout of the kernel's, `len` of them are read, and
    // none is written to or kept.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Brings up the loopback interface of the network namespace of the calling thread.
pub(super) fn bring_up_loopback() -> io::Result<()> {
    // SAFETY: it takes no pointer; the descriptor is nobody else's.
    let socket = unsafe {
        let fd = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(fd)
    };
    // SAFETY: it is plain data, for which all zeros are a value.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = from.cast_signed();
    }
    // SAFETY: both requests take an `ifreq` whose name ends with zero; the first fills in the flags,
    // so that they may be read.
    let result = unsafe {
        let mut result = libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS, &raw mut request);
        if result == 0 {
            request.ifr_ifru.ifru_flags |= IFF_UP;
            result = libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request);
        }
        result
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Calls the kernel with numbers, none of which is an address.
#[cfg(test)]
pub(super) fn call(number: libc::c_long, arguments: [libc::c_long; 3]) -> io::Result<libc::c_long> {
    let [first, second, third] = arguments;
    // SAFETY: what tests call either takes no address, or gets zero for it and fails.
    let result = unsafe { libc::syscall(number, first, second, third, 0, 0, 0) };
    if result >= 0 { Ok(result) } else { Err(io::Error::last_os_error()) }
}
