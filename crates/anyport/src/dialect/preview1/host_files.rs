//! Files, directories, arguments and environment: wasmtime-wasi's, under our descriptor numbers.
//!
//! The one file that delegates. We write no file system: its sandbox is wasmtime's, with its fixes.
//! The functions are those of
//! <https://github.com/WebAssembly/WASI/blob/wasi-0.1/preview1/docs.md#functions>.

use wasmtime::component::Resource;
use wasmtime_wasi::filesystem::{Descriptor as Entry, WasiFilesystemCtxView, WasiFilesystemView as _};
use wasmtime_wasi::p1::wasi_snapshot_preview1 as host;
use wasmtime_wasi::p2::bindings::filesystem::preopens;
use wasmtime_wasi::p2::bindings::filesystem::types::{DescriptorType, ErrorCode, HostDescriptor, PathFlags};
use wiggle::GuestError;

use crate::descriptor::{Descriptor, Descriptors, Opened};
use crate::dialect::hostcall::{Fault, Hostcall};
use crate::errno::Errno;
use crate::guest::Guest;
use crate::guest::files::Held;
use crate::memory::Memory;

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

/// The same of two directories.
async fn two_files(guest: &mut Guest, one: u32, other: u32) -> Result<(Held<'_>, [i32; 2]), Errno> {
    let Guest { files, descriptors, limits, .. } = guest;
    let held = files.hold(limits.held_bytes).await;
    let numbers = [one, other].map(|fd| number_of(descriptors, fd, Errno::NotDirectory));
    Ok((held, [numbers[0]?, numbers[1]?]))
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
    path_create_directory(fd, path: u32, path_len: u32) else NotDirectory;
    path_filestat_get(fd, flags: u32, path: u32, path_len: u32, ro_stat: u32) else NotDirectory;
    path_filestat_set_times(
        fd, flags: u32, path: u32, path_len: u32, atim: u64, mtim: u64, fst_flags: u32
    ) else NotDirectory;
    path_readlink(fd, path: u32, path_len: u32, buf: u32, buf_len: u32, ro_bufused: u32) else NotDirectory;
    path_remove_directory(fd, path: u32, path_len: u32) else NotDirectory;
    path_unlink_file(fd, path: u32, path_len: u32) else NotDirectory;
}

/// Closes what a descriptor was, once it is out of the table.
pub(crate) async fn close(guest: &mut Guest, memory: &mut Memory<'_>, descriptor: Descriptor) -> Hostcall {
    match descriptor {
        Descriptor::Host(number) => {
            outcome(host::fd_close(&mut *files(guest).await, memory.wiggle(), number.cast_signed()).await)
        }
        // Closed when the last holder is done with it.
        _ => Ok(()),
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
    let (mut files, [old_fd, new_fd]) = two_files(guest, old_fd, new_fd).await?;
    outcome(
        host::path_link(
            &mut *files,
            memory.wiggle(),
            old_fd,
            old_flags.signed(),
            old_path.signed(),
            old_path_len.signed(),
            new_fd,
            new_path.signed(),
            new_path_len.signed(),
        )
        .await,
    )
}

pub(crate) async fn path_rename(
    guest: &mut Guest, memory: &mut Memory<'_>, old_fd: u32, old_path: u32, old_path_len: u32, new_fd: u32,
    new_path: u32, new_path_len: u32,
) -> Hostcall {
    let (mut files, [old_fd, new_fd]) = two_files(guest, old_fd, new_fd).await?;
    outcome(
        host::path_rename(
            &mut *files,
            memory.wiggle(),
            old_fd,
            old_path.signed(),
            old_path_len.signed(),
            new_fd,
            new_path.signed(),
            new_path_len.signed(),
        )
        .await,
    )
}

pub(crate) async fn path_symlink(
    guest: &mut Guest, memory: &mut Memory<'_>, old_path: u32, old_path_len: u32, fd: u32, new_path: u32,
    new_path_len: u32,
) -> Hostcall {
    let (mut files, fd) = file(guest, fd, Errno::NotDirectory).await?;
    outcome(
        host::path_symlink(
            &mut *files,
            memory.wiggle(),
            old_path.signed(),
            old_path_len.signed(),
            fd,
            new_path.signed(),
            new_path_len.signed(),
        )
        .await,
    )
}

/// Opens a path; the number that wasmtime-wasi gives is replaced by one of our table.
pub(crate) async fn path_open(
    guest: &mut Guest, memory: &mut Memory<'_>, fd: u32, dirflags: u32, path: u32, path_len: u32, oflags: u32,
    rights_base: u64, rights_inheriting: u64, fdflags: u32, ro_fd: u32,
) -> Hostcall {
    if guest.descriptors.is_full() {
        return Err(Errno::TooManyOpen.into());
    }
    let (mut files, fd) = file(guest, fd, Errno::NotDirectory).await?;
    outcome(
        host::path_open(
            &mut *files,
            memory.wiggle(),
            fd,
            dirflags.signed(),
            path.signed(),
            path_len.signed(),
            oflags.signed(),
            rights_base.signed(),
            rights_inheriting.signed(),
            fdflags.signed(),
            ro_fd.signed(),
        )
        .await,
    )?;
    drop(files);
    let opened = Opened::new(&guest.descriptors, Descriptor::Host(memory.read(ro_fd)?))?;
    memory.write(ro_fd, opened.fd())?;
    opened.keep();
    Ok(())
}
