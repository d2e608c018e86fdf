//! Files, directories, arguments and environment: wasmtime-wasi's, under our descriptor numbers.
//!
//! The one file that delegates. We write no file system: its sandbox is wasmtime's, with its fixes.
//! The functions are those of
//! <https://github.com/WebAssembly/WASI/blob/wasi-0.1/preview1/docs.md#functions>.

use wasmtime_wasi::p1::wasi_snapshot_preview1 as host;
use wiggle::{GuestError, GuestMemory};

use crate::descriptor::{Descriptor, Opened};
use crate::dialect::hostcall::{Fault, Hostcall};
use crate::errno::Errno;
use crate::guest::Guest;
use crate::guest::files::Held;
use crate::memory::{Memory, Own};

/// wasmtime-wasi, ready for one call, which may allocate so much and no more.
async fn files(guest: &mut Guest) -> Held<'_> {
    guest.files.hold(guest.limits.held_bytes).await
}

/// The number of a file or directory in wasmtime-wasi's table, or `otherwise` for a descriptor
/// that is neither.
fn host_number(guest: &Guest, fd: u32, otherwise: Errno) -> Result<i32, Errno> {
    match guest.descriptors.get(fd)? {
        Descriptor::Host(number) => Ok(number.cast_signed()),
        _ => Err(otherwise),
    }
}

fn outcome(result: wasmtime::Result<i32>) -> Hostcall {
    match result {
        Ok(0) => Ok(()),
        Ok(number) => Err(Errno::from_number(number).unwrap_or(Errno::Io).into()),
        Err(error) => Err(match error.downcast::<GuestError>() {
            Ok(error) => fault(error),
            Err(trap) => Fault::Trap(trap),
        }),
    }
}

/// What wiggle says of a parameter: flags that there are not are an errno, a bad pointer is a trap.
fn fault(error: GuestError) -> Fault {
    match error {
        GuestError::InFunc { err, .. } => fault(*err),
        GuestError::TryFromIntError(_) => Fault::Errno(Errno::Invalid),
        error => Fault::Memory(error),
    }
}

/// A parameter as wasmtime-wasi takes it.
trait Signed {
    type Wire;
    fn signed(self) -> Self::Wire;
}

impl Signed for u32 {
    type Wire = i32;
    fn signed(self) -> i32 {
        self.cast_signed()
    }
}

impl Signed for u64 {
    type Wire = i64;
    fn signed(self) -> i64 {
        self.cast_signed()
    }
}

/// A path for one call of wasmtime-wasi, below one of its directories.
struct Place {
    fd: i32,
    path: i32,
    length: i32,
    /// It is that directory itself, which wasmtime-wasi has no path of no bytes for.
    is_root: bool,
}

/// Bytes of a path that are looked at, as Linux has it.
const PATH_BYTES: u32 = 4096;

/// Where a path leads. Programs of WASIX pass those from the root as they are, with a preopen named `/`.
async fn place(guest: &mut Guest, memory: &Memory<'_>, fd: u32, path: u32, length: u32) -> Result<Place, Fault> {
    let fd = host_number(guest, fd, Errno::NotDirectory)?;
    let mut slashes = 0;
    if guest.is_wasix() {
        while slashes < length.min(PATH_BYTES) && memory.read::<u8>(path.saturating_add(slashes))? == b'/' {
            slashes += 1;
        }
    }
    if slashes > 0 && !is_named_root(guest, fd).await {
        slashes = 0;
    }
    let is_root = slashes > 0 && slashes == length;
    Ok(Place { fd, path: path.wrapping_add(slashes).signed(), length: (length - slashes).signed(), is_root })
}

impl Place {
    /// A copy of the path.
    fn path(&self, memory: &Memory<'_>) -> Result<Vec<u8>, Fault> {
        let (path, length) = (self.path.cast_unsigned(), self.length.cast_unsigned());
        match self {
            Self { is_root: true, .. } => Ok(b".".to_vec()),
            _ if length > PATH_BYTES => Err(Errno::NameTooLong.into()),
            _ => Ok(memory.bytes(path, length)?),
        }
    }
}

/// Whether a directory is the preopen named `/`, or `.`, which libc takes for the same.
async fn is_named_root(guest: &mut Guest, fd: i32) -> bool {
    let mut name = [0];
    let mut room = GuestMemory::Unshared(&mut name);
    let told = host::fd_prestat_dir_name(&mut *files(guest).await, &mut room, fd, 0, 1);
    matches!(told, Ok(0)) && matches!(&name, b"/" | b".")
}

/// Functions that take no descriptor.
macro_rules! plain {
    ($($name:ident($($param:ident),*);)*) => {$(
        pub(crate) async fn $name(guest: &mut Guest, memory: &mut Memory<'_>, $($param: u32),*) -> Hostcall {
            outcome(host::$name(&mut *files(guest).await, memory.wiggle(), $($param.signed()),*))
        }
    )*};
}

/// Functions on one descriptor, with what they answer for one that is no file.
macro_rules! on_file {
    ($($name:ident(fd $(, $param:ident: $kind:ty)*) else $otherwise:ident;)*) => {$(
        pub(crate) async fn $name(guest: &mut Guest, memory: &mut Memory<'_>, fd: u32 $(, $param: $kind)*) -> Hostcall {
            let fd = host_number(guest, fd, Errno::$otherwise)?;
            outcome(host::$name(&mut *files(guest).await, memory.wiggle(), fd $(, $param.signed())*))
        }
    )*};
}

/// The same for the functions that wait for the disk.
macro_rules! on_file_async {
    ($($name:ident(fd $(, $param:ident: $kind:ty)*) else $otherwise:ident;)*) => {$(
        pub(crate) async fn $name(guest: &mut Guest, memory: &mut Memory<'_>, fd: u32 $(, $param: $kind)*) -> Hostcall {
            let fd = host_number(guest, fd, Errno::$otherwise)?;
            $(let $param = $param.signed();)*
            outcome(host::$name(&mut *files(guest).await, memory.wiggle(), fd $(, $param)*).await)
        }
    )*};
}

/// The same for a path, with what they answer for the root itself where that is one of WASIX.
macro_rules! on_path {
    ($($name:ident(fd, path, path_len $(, $param:ident)*) else $otherwise:ident;)*) => {$(
        pub(crate) async fn $name(
            guest: &mut Guest, memory: &mut Memory<'_>, fd: u32, path: u32, path_len: u32 $(, $param: u32)*
        ) -> Hostcall {
            let Place { fd, path, length, is_root } = place(guest, memory, fd, path, path_len).await?;
            if is_root {
                return Err(Errno::$otherwise.into());
            }
            $(let $param = $param.signed();)*
            let mut files = files(guest).await;
            outcome(host::$name(&mut *files, memory.wiggle(), fd, path, length $(, $param)*).await)
        }
    )*};
}

/// The functions that move the bytes of files. wasmtime-wasi moves the first buffer of a call, and
/// refuses one that is larger than what it may hold, where every caller expects a short read or write:
/// for the time of the call that buffer is cut.
macro_rules! moving {
    ($($name:ident($($offset:ident)?) else $otherwise:ident;)*) => {$(
        pub(crate) async fn $name(
            guest: &mut Guest, memory: &mut Memory<'_>, fd: u32, iovs: u32, iovs_len: u32 $(, $offset: u64)?,
            ro_size: u32,
        ) -> Hostcall {
            let fd = host_number(guest, fd, Errno::$otherwise)?;
            let cut = memory.cut_first(iovs, iovs_len, most_moved(guest, iovs_len)?)?;
            let (iovs, count, size) = (iovs.signed(), iovs_len.signed(), ro_size.signed());
            $(let $offset = $offset.signed();)?
            let mut files = files(guest).await;
            let moved = host::$name(&mut *files, memory.wiggle(), fd, iovs, count $(, $offset)?, size).await;
            drop(files);
            memory.restore(cut)?;
            outcome(moved)
        }
    )*};
}

/// Bytes that one call with so many buffers moves: their list is charged too.
fn most_moved(guest: &Guest, count: u32) -> Result<u32, Errno> {
    if count > guest.limits.iovecs {
        return Err(Errno::Invalid);
    }
    let list = size_of::<u64>() * count as usize;
    let most = guest.limits.copy_bytes.min(guest.limits.held_bytes.saturating_sub(list));
    Ok(u32::try_from(most).unwrap_or(u32::MAX))
}

moving! {
    fd_pread(offset) else IllegalSeek;
    fd_pwrite(offset) else IllegalSeek;
    fd_read() else BadDescriptor;
    fd_write() else BadDescriptor;
}

plain! {
    args_get(argv, argv_buf);
    args_sizes_get(ro_argc, ro_argv_buf_size);
    environ_get(environ, environ_buf);
    environ_sizes_get(ro_environc, ro_environ_buf_size);
}

on_file! {
    fd_allocate(fd, offset: u64, len: u64) else IllegalSeek;
    fd_fdstat_set_rights(fd, base: u64, inheriting: u64) else NotSupported;
    fd_prestat_dir_name(fd, path: u32, path_len: u32) else BadDescriptor;
    fd_tell(fd, ro_offset: u32) else IllegalSeek;
    fd_prestat_get(fd, ro_prestat: u32) else BadDescriptor;
    fd_fdstat_set_flags(fd, flags: u32) else BadDescriptor;
}

on_file_async! {
    fd_advise(fd, offset: u64, len: u64, advice: u32) else IllegalSeek;
    fd_datasync(fd) else Invalid;
    fd_fdstat_get(fd, ro_stat: u32) else BadDescriptor;
    fd_filestat_get(fd, ro_stat: u32) else BadDescriptor;
    fd_filestat_set_size(fd, size: u64) else Invalid;
    fd_filestat_set_times(fd, atim: u64, mtim: u64, flags: u32) else Invalid;
    fd_readdir(fd, buf: u32, buf_len: u32, cookie: u64, ro_bufused: u32) else NotDirectory;
    fd_seek(fd, offset: u64, whence: u32, ro_newoffset: u32) else IllegalSeek;
    fd_sync(fd) else Invalid;
}

on_path! {
    path_create_directory(fd, path, path_len) else Exists;
    path_readlink(fd, path, path_len, buf, buf_len, ro_bufused) else Invalid;
    path_remove_directory(fd, path, path_len) else Busy;
    path_unlink_file(fd, path, path_len) else IsDirectory;
}

pub(crate) async fn path_filestat_get(
    guest: &mut Guest, memory: &mut Memory<'_>, fd: u32, flags: u32, path: u32, path_len: u32, ro_stat: u32,
) -> Hostcall {
    let place = place(guest, memory, fd, path, path_len).await?;
    if place.is_root {
        return fd_filestat_get(guest, memory, fd, ro_stat).await;
    }
    let (flags, stat) = (flags.signed(), ro_stat.signed());
    let mut files = files(guest).await;
    outcome(
        host::path_filestat_get(&mut *files, memory.wiggle(), place.fd, flags, place.path, place.length, stat).await,
    )
}

pub(crate) async fn path_filestat_set_times(
    guest: &mut Guest, memory: &mut Memory<'_>, fd: u32, flags: u32, path: u32, path_len: u32, atim: u64, mtim: u64,
    fst_flags: u32,
) -> Hostcall {
    let Place { fd: number, path, length, is_root } = place(guest, memory, fd, path, path_len).await?;
    if is_root {
        return fd_filestat_set_times(guest, memory, fd, atim, mtim, fst_flags).await;
    }
    let (flags, atim, mtim, which) = (flags.signed(), atim.signed(), mtim.signed(), fst_flags.signed());
    let mut files = files(guest).await;
    outcome(
        host::path_filestat_set_times(&mut *files, memory.wiggle(), number, flags, path, length, atim, mtim, which)
            .await,
    )
}

/// Closes what a descriptor was, once it is out of the table.
pub(crate) async fn close(guest: &mut Guest, memory: &mut Memory<'_>, descriptor: Descriptor) -> Hostcall {
    match descriptor {
        // It has another number yet.
        Descriptor::Host(number) if guest.is_wasix() && guest.descriptors.has_host(number) => Ok(()),
        Descriptor::Host(number) => {
            outcome(host::fd_close(&mut *files(guest).await, memory.wiggle(), number.cast_signed()).await)
        }
        // Closed when the last holder is done with it.
        _ => Ok(()),
    }
}

pub(crate) async fn path_link(
    guest: &mut Guest, memory: &mut Memory<'_>, old_fd: u32, old_flags: u32, old_path: u32, old_path_len: u32,
    new_fd: u32, new_path: u32, new_path_len: u32,
) -> Hostcall {
    let old = place(guest, memory, old_fd, old_path, old_path_len).await?;
    let new = place(guest, memory, new_fd, new_path, new_path_len).await?;
    let (flags, mut files) = (old_flags.signed(), files(guest).await);
    let linked = host::path_link(
        &mut *files,
        memory.wiggle(),
        old.fd,
        flags,
        old.path,
        old.length,
        new.fd,
        new.path,
        new.length,
    );
    outcome(linked.await)
}

pub(crate) async fn path_rename(
    guest: &mut Guest, memory: &mut Memory<'_>, old_fd: u32, old_path: u32, old_path_len: u32, new_fd: u32,
    new_path: u32, new_path_len: u32,
) -> Hostcall {
    let old = place(guest, memory, old_fd, old_path, old_path_len).await?;
    let new = place(guest, memory, new_fd, new_path, new_path_len).await?;
    let mut files = files(guest).await;
    let memory = memory.wiggle();
    outcome(host::path_rename(&mut *files, memory, old.fd, old.path, old.length, new.fd, new.path, new.length).await)
}

/// Makes a link, whose own words are the guest's to choose: they are looked at when it is followed.
pub(crate) async fn path_symlink(
    guest: &mut Guest, memory: &mut Memory<'_>, old_path: u32, old_path_len: u32, fd: u32, new_path: u32,
    new_path_len: u32,
) -> Hostcall {
    let new = place(guest, memory, fd, new_path, new_path_len).await?;
    let (old, length) = (old_path.signed(), old_path_len.signed());
    let mut files = files(guest).await;
    outcome(host::path_symlink(&mut *files, memory.wiggle(), old, length, new.fd, new.path, new.length).await)
}

/// Opens a path; the number that wasmtime-wasi gives is replaced by one of our table.
pub(crate) async fn path_open(
    guest: &mut Guest, memory: &mut Memory<'_>, fd: u32, dirflags: u32, path: u32, path_len: u32, oflags: u32,
    rights_base: u64, rights_inheriting: u64, fdflags: u32, ro_fd: u32,
) -> Hostcall {
    let place = place(guest, memory, fd, path, path_len).await?;
    if guest.descriptors.is_full() {
        return Err(Errno::TooManyOpen.into());
    }
    // A bad pointer is told before anything is opened.
    let _: u32 = memory.read(ro_fd)?;
    let path = place.path(memory)?;
    let mut own = Own::new(PATH_AT as usize + path.len());
    let mut own = own.memory();
    own.write_bytes(PATH_AT, &path)?;
    let (dir, at, length) = (place.fd, PATH_AT.signed(), u32::try_from(path.len()).map_err(|_| Errno::NameTooLong)?);
    let (flags, oflags, fdflags, length) = (dirflags.signed(), oflags.signed(), fdflags.signed(), length.signed());
    let (base, inheriting) = (rights_base.signed(), rights_inheriting.signed());
    let mut files = files(guest).await;
    let room = own.wiggle();
    let opened = host::path_open(&mut *files, room, dir, flags, at, length, oflags, base, inheriting, fdflags, 0).await;
    drop(files);
    outcome(opened)?;
    let opened = Opened::new(&guest.descriptors, Descriptor::Host(own.read(0)?))?;
    memory.write(ro_fd, opened.fd())?;
    opened.keep();
    Ok(())
}

/// Where the path is in memory of our own, behind the number that is opened.
const PATH_AT: u32 = 8;

/// Where the bytes of a file are in memory of our own, behind the list of one buffer and the number of those read.
const BYTES_AT: u32 = 16;

/// Bytes of a file from an offset on, in memory of our own that begins with the list of their one buffer.
pub(crate) async fn read_at(guest: &mut Guest, fd: u32, offset: u64, most: u32) -> Result<Own, Fault> {
    let fd = host_number(guest, fd, Errno::Invalid)?;
    let mut own = Own::new((BYTES_AT + most) as usize);
    let mut memory = own.memory();
    memory.write(0, BYTES_AT)?;
    memory.write(4, most)?;
    outcome(host::fd_pread(&mut *files(guest).await, memory.wiggle(), fd, 0, 1, offset.signed(), 8).await)?;
    let length: u32 = memory.read(8)?;
    memory.write(4, length)?;
    Ok(own)
}

/// Says where the next read of a file begins.
pub(crate) async fn seek_to(guest: &mut Guest, fd: u32, offset: u64) -> Hostcall {
    let fd = host_number(guest, fd, Errno::Invalid)?;
    let mut own = Own::new(8);
    outcome(host::fd_seek(&mut *files(guest).await, own.memory().wiggle(), fd, offset.signed(), FROM_START, 0).await)
}

/// `whence.set`.
const FROM_START: i32 = 0;
