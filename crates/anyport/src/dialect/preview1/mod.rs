//! WASI preview1: its 46 functions, in the order of the witx.
//! <https://github.com/WebAssembly/WASI/blob/wasi-0.1/preview1/docs.md#modules>

pub(crate) mod clock;
pub(crate) mod fd;
pub(crate) mod host_files;
pub(crate) mod poll;
pub(crate) mod process;
pub(crate) mod sock;

use super::hostcall::{Row, row};

pub(crate) const ROWS: &[Row] = &[
    row!(async "args_get"(argv: u32, argv_buf: u32) = host_files::args_get),
    row!(async "args_sizes_get"(ro_argc: u32, ro_argv_buf_size: u32) = host_files::args_sizes_get),
    row!(async "environ_get"(environ: u32, environ_buf: u32) = host_files::environ_get),
    row!(async "environ_sizes_get"(ro_environc: u32, ro_environ_buf_size: u32) = host_files::environ_sizes_get),
    row!("clock_res_get"(id: u32, ro_resolution: u32) = clock::res_get),
    row!("clock_time_get"(id: u32, precision: u64, ro_timestamp: u32) = clock::time_get),
    row!(async "fd_advise"(fd: u32, offset: u64, len: u64, advice: u32) = host_files::fd_advise),
    row!(async "fd_allocate"(fd: u32, offset: u64, len: u64) = host_files::fd_allocate),
    row!(async "fd_close"(fd: u32) = fd::close),
    row!(async "fd_datasync"(fd: u32) = host_files::fd_datasync),
    row!(async "fd_fdstat_get"(fd: u32, ro_stat: u32) = fd::fdstat_get),
    row!(async "fd_fdstat_set_flags"(fd: u32, flags: u32) = fd::fdstat_set_flags),
    row!(async "fd_fdstat_set_rights"(fd: u32, fs_rights_base: u64, fs_rights_inheriting: u64) = host_files::fd_fdstat_set_rights),
    row!(async "fd_filestat_get"(fd: u32, ro_stat: u32) = fd::filestat_get),
    row!(async "fd_filestat_set_size"(fd: u32, size: u64) = host_files::fd_filestat_set_size),
    row!(async "fd_filestat_set_times"(fd: u32, atim: u64, mtim: u64, fst_flags: u32) = host_files::fd_filestat_set_times),
    row!(async "fd_pread"(fd: u32, iovs: u32, iovs_len: u32, offset: u64, ro_nread: u32) = host_files::fd_pread),
    row!(async "fd_prestat_get"(fd: u32, ro_prestat: u32) = fd::prestat_get),
    row!(async "fd_prestat_dir_name"(fd: u32, ro_path: u32, path_len: u32) = host_files::fd_prestat_dir_name),
    row!(async "fd_pwrite"(fd: u32, iovs: u32, iovs_len: u32, offset: u64, ro_nwritten: u32) = host_files::fd_pwrite),
    row!(async "fd_read"(fd: u32, iovs: u32, iovs_len: u32, ro_nread: u32) = fd::read),
    row!(async "fd_readdir"(fd: u32, buf: u32, buf_len: u32, cookie: u64, ro_bufused: u32) = host_files::fd_readdir),
    row!(async "fd_renumber"(fd: u32, to: u32) = fd::renumber),
    row!(async "fd_seek"(fd: u32, offset: u64, whence: u32, ro_newoffset: u32) = host_files::fd_seek),
    row!(async "fd_sync"(fd: u32) = host_files::fd_sync),
    row!(async "fd_tell"(fd: u32, ro_offset: u32) = host_files::fd_tell),
    row!(async "fd_write"(fd: u32, iovs: u32, iovs_len: u32, ro_nwritten: u32) = fd::write),
    row!(async "path_create_directory"(fd: u32, path: u32, path_len: u32) = host_files::path_create_directory),
    row!(async "path_filestat_get"(fd: u32, flags: u32, path: u32, path_len: u32, ro_stat: u32) = host_files::path_filestat_get),
    row!(async "path_filestat_set_times"(fd: u32, flags: u32, path: u32, path_len: u32, atim: u64, mtim: u64, fst_flags: u32) = host_files::path_filestat_set_times),
    row!(async "path_link"(old_fd: u32, old_flags: u32, old_path: u32, old_path_len: u32, new_fd: u32, new_path: u32, new_path_len: u32) = host_files::path_link),
    row!(async "path_open"(fd: u32, dirflags: u32, path: u32, path_len: u32, oflags: u32, fs_rights_base: u64, fs_rights_inheriting: u64, fdflags: u32, ro_fd: u32) = host_files::path_open),
    row!(async "path_readlink"(fd: u32, path: u32, path_len: u32, buf: u32, buf_len: u32, ro_bufused: u32) = host_files::path_readlink),
    row!(async "path_remove_directory"(fd: u32, path: u32, path_len: u32) = host_files::path_remove_directory),
    row!(async "path_rename"(fd: u32, old_path: u32, old_path_len: u32, new_fd: u32, new_path: u32, new_path_len: u32) = host_files::path_rename),
    row!(async "path_symlink"(old_path: u32, old_path_len: u32, fd: u32, new_path: u32, new_path_len: u32) = host_files::path_symlink),
    row!(async "path_unlink_file"(fd: u32, path: u32, path_len: u32) = host_files::path_unlink_file),
    row!(async "poll_oneoff"(subscriptions: u32, events: u32, nsubscriptions: u32, ro_nevents: u32) = poll::oneoff),
    row!(silent "proc_exit"(rval: u32) = process::define_exit),
    row!("proc_raise"(sig: u32) = process::raise),
    row!(async "sched_yield"() = process::sched_yield),
    row!("random_get"(buf: u32, buf_len: u32) = process::random_get),
    row!(async "sock_accept"(fd: u32, flags: u32, ro_fd: u32) = sock::accept),
    row!(async "sock_recv"(fd: u32, ri_data: u32, ri_data_len: u32, ri_flags: u32, ro_datalen: u32, ro_flags: u32) = sock::recv),
    row!(async "sock_send"(fd: u32, si_data: u32, si_data_len: u32, si_flags: u32, so_datalen: u32) = sock::send),
    row!("sock_shutdown"(fd: u32, how: u32) = sock::shutdown),
];

/// `fdflags.nonblock`.
pub(crate) const NONBLOCK: u32 = 1 << 2;
