//! Files, directories, arguments and environment: wasmtime-wasi's, under our descriptor numbers.
//!
//! The one file that delegates. We write no file system: its sandbox is wasmtime's, with its fixes.
//! The functions are those of
//! <https://github.com/WebAssembly/WASI/blob/wasi-0.1/preview1/docs.md#functions>.

use std::sync::Arc;

use wasmtime::component::Resource;
use wasmtime_wasi::filesystem::{Descriptor as Entry, WasiFilesystemCtxView, WasiFilesystemView as _};
use wasmtime_wasi::p1::wasi_snapshot_preview1 as host;
use wasmtime_wasi::p2::bindings::filesystem::preopens;
use wasmtime_wasi::p2::bindings::filesystem::types::{DescriptorType, ErrorCode, HostDescriptor, PathFlags};
use wiggle::{GuestError, GuestMemory};

use crate::descriptor::{Descriptor, Descriptors, Opened};
use crate::dialect::hostcall::{Fault, Hostcall};
use crate::errno::Errno;
use crate::guest::Guest;
use crate::guest::files::{Files, Held};
use crate::memory::{Memory, Own};

/// wasmtime-wasi, ready for one call, which may allocate so much and no more.
async fn files(guest: &mut Guest) -> Held<'_> {
    guest.files.hold(guest.limits.held_bytes).await
}

/// The same, with the number of a file: looked up while no other thread can close it.
async fn file(guest: &mut Guest, fd: u32, otherwise: Errno) -> Result<(Held<'_>, i32), Errno> {
    let Guest { files, descriptors, limits, .. } = guest;
    let held = files.hold(limits.held_bytes).await;
    let number = number_of(descriptors, fd, otherwise)?;
    Ok((held, number))
}

/// The number of a file or directory in wasmtime-wasi's table, or `otherwise` for a descriptor
/// that is neither.
fn number_of(descriptors: &Descriptors, fd: u32, otherwise: Errno) -> Result<i32, Errno> {
    match descriptors.get(fd)? {
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

/// wasmtime-wasi, ready for one call, and where a path leads.
async fn at<'g>(
    guest: &'g mut Guest, memory: &Memory<'_>, fd: u32, path: u32, length: u32,
) -> Result<(Held<'g>, Place), Fault> {
    let is_wasix = guest.is_wasix();
    let (mut files, fd) = file(guest, fd, Errno::NotDirectory).await?;
    let place = place(&mut files, is_wasix, memory, fd, [path, length])?;
    Ok((files, place))
}

/// The same of two paths: of each its directory, place and length.
async fn at_both<'g>(
    guest: &'g mut Guest, memory: &Memory<'_>, paths: [[u32; 3]; 2],
) -> Result<(Held<'g>, [Place; 2]), Fault> {
    let is_wasix = guest.is_wasix();
    let Guest { files, descriptors, limits, .. } = guest;
    let mut files = files.hold(limits.held_bytes).await;
    let mut find = |[fd, path, length]: [u32; 3]| {
        let number = number_of(descriptors, fd, Errno::NotDirectory)?;
        place(&mut files, is_wasix, memory, number, [path, length])
    };
    let places = [find(paths[0])?, find(paths[1])?];
    Ok((files, places))
}

/// Where a path leads. Programs of WASIX pass those from the root as they are, with a preopen named `/`.
fn place(
    files: &mut Held<'_>, is_wasix: bool, memory: &Memory<'_>, fd: i32, [path, length]: [u32; 2],
) -> Result<Place, Fault> {
    let mut slashes = 0;
    if is_wasix {
        while slashes < length.min(PATH_BYTES) && memory.read::<u8>(path.saturating_add(slashes))? == b'/' {
            slashes += 1;
        }
    }
    if slashes > 0 && !is_named_root(files, fd) {
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
fn is_named_root(files: &mut Held<'_>, fd: i32) -> bool {
    let mut name = [0];
    let mut room = GuestMemory::Unshared(&mut name);
    let told = host::fd_prestat_dir_name(&mut **files, &mut room, fd, 0, 1);
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
            let (mut files, fd) = file(guest, fd, Errno::$otherwise).await?;
            outcome(host::$name(&mut *files, memory.wiggle(), fd $(, $param.signed())*))
        }
    )*};
}

/// The same for the functions that wait for the disk.
macro_rules! on_file_async {
    ($($name:ident(fd $(, $param:ident: $kind:ty)*) else $otherwise:ident;)*) => {$(
        pub(crate) async fn $name(guest: &mut Guest, memory: &mut Memory<'_>, fd: u32 $(, $param: $kind)*) -> Hostcall {
            let (mut files, fd) = file(guest, fd, Errno::$otherwise).await?;
            $(let $param = $param.signed();)*
            outcome(host::$name(&mut *files, memory.wiggle(), fd $(, $param)*).await)
        }
    )*};
}

/// The same for a path, with what they answer for the root itself where that is one of WASIX.
macro_rules! on_path {
    ($($name:ident(fd, path, path_len $(, $param:ident)*) else $otherwise:ident;)*) => {$(
        pub(crate) async fn $name(
            guest: &mut Guest, memory: &mut Memory<'_>, fd: u32, path: u32, path_len: u32 $(, $param: u32)*
        ) -> Hostcall {
            let (mut files, Place { fd, path, length, is_root }) = at(guest, memory, fd, path, path_len).await?;
            if is_root {
                return Err(Errno::$otherwise.into());
            }
            $(let $param = $param.signed();)*
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
            // What is no file is told first.
            number_of(&guest.descriptors, fd, Errno::$otherwise)?;
            let cut = memory.cut_first(iovs, iovs_len, most_moved(guest, iovs_len)?)?;
            let (iovs, count, size) = (iovs.signed(), iovs_len.signed(), ro_size.signed());
            $(let $offset = $offset.signed();)?
            let moved = match file(guest, fd, Errno::$otherwise).await {
                Ok((mut files, fd)) => {
                    outcome(host::$name(&mut *files, memory.wiggle(), fd, iovs, count $(, $offset)?, size).await)
                }
                Err(errno) => Err(errno.into()),
            };
            memory.restore(cut)?;
            moved
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
    let (mut files, place) = at(guest, memory, fd, path, path_len).await?;
    if place.is_root {
        drop(files);
        return fd_filestat_get(guest, memory, fd, ro_stat).await;
    }
    let (flags, stat) = (flags.signed(), ro_stat.signed());
    outcome(
        host::path_filestat_get(&mut *files, memory.wiggle(), place.fd, flags, place.path, place.length, stat).await,
    )
}

pub(crate) async fn path_filestat_set_times(
    guest: &mut Guest, memory: &mut Memory<'_>, fd: u32, flags: u32, path: u32, path_len: u32, atim: u64, mtim: u64,
    fst_flags: u32,
) -> Hostcall {
    let (mut files, Place { fd: number, path, length, is_root }) = at(guest, memory, fd, path, path_len).await?;
    if is_root {
        drop(files);
        return fd_filestat_set_times(guest, memory, fd, atim, mtim, fst_flags).await;
    }
    let (flags, atim, mtim, which) = (flags.signed(), atim.signed(), mtim.signed(), fst_flags.signed());
    outcome(
        host::path_filestat_set_times(&mut *files, memory.wiggle(), number, flags, path, length, atim, mtim, which)
            .await,
    )
}

/// Takes what is at a number out of the table, and closes it. A file is taken out when it can be closed at once: whose
/// process is ended while it waits for that leaves none open which nobody knows of.
pub(crate) async fn close(
    guest: &mut Guest, memory: &mut Memory<'_>, fd: u32,
    take: impl FnOnce(&Descriptors) -> Result<Option<Descriptor>, Errno>,
) -> Hostcall {
    let Guest { files, descriptors, limits, .. } = guest;
    if matches!(descriptors.get(fd), Ok(Descriptor::Host(_))) {
        let mut files = files.hold(limits.held_bytes).await;
        return close_file(&mut files, memory, take(descriptors)?).await;
    }
    match take(descriptors)? {
        // Which another thread has opened meanwhile.
        file @ Some(Descriptor::Host(_)) => close_file(&mut files.hold(limits.held_bytes).await, memory, file).await,
        _ => Ok(()),
    }
}

/// What is no file is closed when the last holder is done with it.
async fn close_file(files: &mut Held<'_>, memory: &mut Memory<'_>, taken: Option<Descriptor>) -> Hostcall {
    let Some(Descriptor::Host(number)) = taken else { return Ok(()) };
    outcome(host::fd_close(&mut **files, memory.wiggle(), number.cast_signed()).await)
}

/// Closes files of a process that has ended.
pub(crate) async fn close_all(mut files: Files, numbers: Vec<u32>) {
    let mut files = files.hold(0).await;
    for number in numbers {
        // It is open: the table of descriptors said so.
        let _ = host::fd_close(&mut *files, &mut GuestMemory::Unshared(&mut []), number.cast_signed()).await;
    }
}

/// Fails unless a path from the root is one of a directory: within those that the guest was given, or one of them,
/// or a folder that one is in.
pub(crate) async fn must_be_directory(guest: &mut Guest, path: &str) -> Hostcall {
    let mut files = files(guest).await;
    let mut view = files.filesystem();
    let directories = preopens::Host::get_directories(&mut view).map_err(|_| Errno::Io)?;
    // Relative ones are seen from the root, where a guest begins.
    let names = directories.iter().map(|(_, name)| format!("/{}", name.trim_start_matches(['.', '/'])));
    let names: Vec<String> = names.collect();
    let around = names.iter().zip(&directories).filter_map(|(name, (at, _))| Some((inside(path, name)?, at)));
    let outcome = match around.min_by_key(|(rest, _)| rest.len()) {
        Some(("", _)) => Ok(()),
        Some((rest, at)) => is_directory(&mut view, at, rest.to_owned()).await,
        None if path == "/" || names.iter().any(|name| inside(name, path).is_some()) => Ok(()),
        None => Err(Errno::NoEntry),
    };
    for (directory, _) in directories {
        // What is not in the table any more takes no room there.
        let _ = HostDescriptor::drop(&mut view, directory);
    }
    Ok(outcome?)
}

/// What of a path is inside of a directory, if it is that one or in it.
fn inside<'p>(path: &'p str, directory: &str) -> Option<&'p str> {
    let rest = path.strip_prefix(directory.trim_end_matches('/'))?;
    (rest.is_empty() || rest.starts_with('/')).then(|| rest.trim_start_matches('/'))
}

async fn is_directory(
    view: &mut WasiFilesystemCtxView<'_>, directory: &Resource<Entry>, path: String,
) -> Result<(), Errno> {
    let directory = Resource::new_borrow(directory.rep());
    match view.stat_at(directory, PathFlags::SYMLINK_FOLLOW, path).await {
        Ok(found) if found.type_ == DescriptorType::Directory => Ok(()),
        Ok(_) => Err(Errno::NotDirectory),
        Err(error) => Err(match error.downcast() {
            Ok(ErrorCode::NoEntry) => Errno::NoEntry,
            Ok(ErrorCode::NotDirectory) => Errno::NotDirectory,
            Ok(ErrorCode::Access | ErrorCode::NotPermitted) => Errno::Access,
            Ok(ErrorCode::Loop) => Errno::Loop,
            _ => Errno::Io,
        }),
    }
}

pub(crate) async fn path_link(
    guest: &mut Guest, memory: &mut Memory<'_>, old_fd: u32, old_flags: u32, old_path: u32, old_path_len: u32,
    new_fd: u32, new_path: u32, new_path_len: u32,
) -> Hostcall {
    let paths = [[old_fd, old_path, old_path_len], [new_fd, new_path, new_path_len]];
    let (mut files, [old, new]) = at_both(guest, memory, paths).await?;
    let flags = old_flags.signed();
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
    let paths = [[old_fd, old_path, old_path_len], [new_fd, new_path, new_path_len]];
    let (mut files, [old, new]) = at_both(guest, memory, paths).await?;
    let memory = memory.wiggle();
    outcome(host::path_rename(&mut *files, memory, old.fd, old.path, old.length, new.fd, new.path, new.length).await)
}

/// Makes a link, whose own words are the guest's to choose: they are looked at when it is followed.
pub(crate) async fn path_symlink(
    guest: &mut Guest, memory: &mut Memory<'_>, old_path: u32, old_path_len: u32, fd: u32, new_path: u32,
    new_path_len: u32,
) -> Hostcall {
    let (mut files, new) = at(guest, memory, fd, new_path, new_path_len).await?;
    let (old, length) = (old_path.signed(), old_path_len.signed());
    outcome(host::path_symlink(&mut *files, memory.wiggle(), old, length, new.fd, new.path, new.length).await)
}

/// Opens a path; the number that wasmtime-wasi gives is replaced by one of our table.
pub(crate) async fn path_open(
    guest: &mut Guest, memory: &mut Memory<'_>, fd: u32, dirflags: u32, path: u32, path_len: u32, oflags: u32,
    rights_base: u64, rights_inheriting: u64, fdflags: u32, ro_fd: u32,
) -> Hostcall {
    if guest.descriptors.is_full() {
        return Err(Errno::TooManyOpen.into());
    }
    let descriptors = Arc::clone(&guest.descriptors);
    let (mut files, place) = at(guest, memory, fd, path, path_len).await?;
    // A bad pointer is told before anything is opened.
    let _: u32 = memory.read(ro_fd)?;
    let path = place.path(memory)?;
    let mut own = Own::new(PATH_AT as usize + path.len());
    let mut own = own.memory();
    own.write_bytes(PATH_AT, &path)?;
    let (dir, at, length) = (place.fd, PATH_AT.signed(), u32::try_from(path.len()).map_err(|_| Errno::NameTooLong)?);
    let (flags, oflags, fdflags, length) = (dirflags.signed(), oflags.signed(), fdflags.signed(), length.signed());
    let (base, inheriting) = (rights_base.signed(), rights_inheriting.signed());
    let room = own.wiggle();
    let opened = host::path_open(&mut *files, room, dir, flags, at, length, oflags, base, inheriting, fdflags, 0).await;
    outcome(opened)?;
    let opened = adopt(&descriptors, &mut files, &mut own).await?;
    memory.write(ro_fd, opened.fd())?;
    opened.keep();
    Ok(())
}

/// A number of our table for a file that was opened, whose own is in this memory. Where there is none, since another
/// process has had the last, the file is closed.
async fn adopt(descriptors: &Arc<Descriptors>, files: &mut Held<'_>, own: &mut Memory<'_>) -> Result<Opened, Fault> {
    let number: u32 = own.read(0)?;
    match Opened::new(descriptors, Descriptor::Host(number)) {
        Ok(opened) => Ok(opened),
        Err(errno) => {
            close_file(files, own, Some(Descriptor::Host(number))).await?;
            Err(errno.into())
        }
    }
}

/// Where the path is in memory of our own, behind the number that is opened.
const PATH_AT: u32 = 8;

/// Where the bytes of a file are in memory of our own, behind the list of one buffer and the number of those read.
const BYTES_AT: u32 = 16;

/// Bytes of a file from an offset on, in memory of our own that begins with the list of their one buffer.
pub(crate) async fn read_at(guest: &mut Guest, fd: u32, offset: u64, most: u32) -> Result<Own, Fault> {
    let (mut files, fd) = file(guest, fd, Errno::Invalid).await?;
    let mut own = Own::new((BYTES_AT + most) as usize);
    let mut memory = own.memory();
    memory.write(0, BYTES_AT)?;
    memory.write(4, most)?;
    outcome(host::fd_pread(&mut *files, memory.wiggle(), fd, 0, 1, offset.signed(), 8).await)?;
    let length: u32 = memory.read(8)?;
    memory.write(4, length)?;
    Ok(own)
}

/// Says where the next read of a file begins.
pub(crate) async fn seek_to(guest: &mut Guest, fd: u32, offset: u64) -> Hostcall {
    let (mut files, fd) = file(guest, fd, Errno::Invalid).await?;
    let mut own = Own::new(8);
    outcome(host::fd_seek(&mut *files, own.memory().wiggle(), fd, offset.signed(), FROM_START, 0).await)
}

/// `whence.set`.
const FROM_START: i32 = 0;
