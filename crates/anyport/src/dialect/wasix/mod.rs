//! WASIX, the system interface of Wasmer, with 32-bit pointers: what it has beside preview1, in the order of its
//! own list. <https://github.com/wasix-org/wasix-libc>
//!
//! What is named alike in preview1 is of that table, but for [`OTHERWISE`].

mod absent;
mod address;
mod event;
mod fork;
mod option;
mod process;
mod sock;
pub(crate) mod thread;

use self::absent::absent;
use super::hostcall::{Row, row};
use super::preview1;

/// What there is of preview1's names with a row of its own here.
pub(crate) const OTHERWISE: &[&str] = &["proc_raise", "sock_accept"];

/// What there is.
pub(crate) const ROWS: &[Row] = &[
    fork::ROW,
    row!(async "proc_join"(buf: u32, flags: u32, ro_stat: u32) = fork::join),
    row!("proc_signals_get"(buf: u32) = process::signals_get),
    row!("proc_signals_sizes_get"(ro_signal_count: u32) = process::signals_sizes_get),
    row!(silent "proc_exit2"(rval: u32) = preview1::process::define_exit),
    row!("proc_id"(ro_pid: u32) = process::id),
    row!("proc_parent"(pid: u32, ro_parent: u32) = process::parent),
    row!(async "proc_raise"(sig: u32) = process::raise),
    row!("proc_raise_interval"(sig: u32, interval: u64, repeat: u32) = process::raise_interval),
    row!(async "proc_signal"(pid: u32, sig: u32) = process::signal),
    row!(silent "callback_signal"(path: u32, path_len: u32) = process::define_callback),
    row!("getcwd"(buf: u32, so_datalen: u32) = process::getcwd),
    row!(async "chdir"(path: u32, path_len: u32) = process::chdir),
    row!("tty_get"(ro_stat: u32) = process::tty_get),
    row!("tty_set"(buf: u32) = process::tty_set),
    row!(async "thread_signal"(tid: u32, sig: u32) = thread::signal),
    row!("thread_spawn"(start_arg: u32, ro_tid: u32) = thread::spawn),
    row!("thread_spawn_v2"(start_arg: u32, ro_tid: u32) = thread::spawn),
    row!(async "thread_sleep"(duration: u64) = thread::sleep),
    row!("thread_id"(ro_tid: u32) = thread::id),
    row!(async "thread_join"(tid: u32) = thread::join),
    row!("thread_parallelism"(ro_parallelism: u32) = thread::parallelism),
    row!(silent "thread_exit"(rval: u32) = thread::define_exit),
    row!(async "futex_wait"(futex: u32, expected: u32, buf: u32, ro_stat: u32) = thread::futex_wait),
    row!("futex_wake"(futex: u32, ro_stat: u32) = thread::futex_wake),
    row!("futex_wake_all"(futex: u32, ro_stat: u32) = thread::futex_wake_all),
    row!(async "epoll_create"(ro_fd: u32) = event::epoll_create),
    row!("epoll_ctl"(fd: u32, op: u32, target: u32, buf: u32) = event::epoll_ctl),
    row!(async "epoll_wait"(fd: u32, buf: u32, maxevents: u32, timeout: u64, ro_nevents: u32) = event::epoll_wait),
    row!("fd_event"(initial: u64, flags: u32, ro_fd: u32) = event::fd_event),
    row!("fd_pipe"(ro_read_fd: u32, ro_write_fd: u32) = event::fd_pipe),
    row!("fd_dup"(fd: u32, ro_fd: u32) = event::fd_dup),
    row!("fd_dup2"(fd: u32, least: u32, cloexec: u32, ro_fd: u32) = event::fd_dup2),
    row!("fd_fdflags_get"(fd: u32, ro_flags: u32) = event::fdflags_get),
    row!("fd_fdflags_set"(fd: u32, flags: u32) = event::fdflags_set),
    row!(async "path_open2"(fd: u32, dirflags: u32, path: u32, path_len: u32, oflags: u32, fs_rights_base: u64, fs_rights_inheriting: u64, fdflags: u32, fdflagsext: u32, ro_fd: u32) = event::path_open2),
    row!("sock_open"(af_family: u32, sock_type: u32, protocol: u32, ro_fd: u32) = sock::open),
    row!("sock_pair"(af_family: u32, sock_type: u32, protocol: u32, ro_fd: u32, ro_other_fd: u32) = sock::pair),
    row!("sock_status"(fd: u32, ro_stat: u32) = sock::status),
    row!("sock_addr_local"(fd: u32, ro_stat: u32) = sock::address_local),
    row!("sock_addr_peer"(fd: u32, ro_stat: u32) = sock::address_peer),
    row!("sock_set_opt_flag"(fd: u32, option: u32, flag: u32) = option::set_flag),
    row!("sock_get_opt_flag"(fd: u32, option: u32, ro_stat: u32) = option::get_flag),
    row!("sock_set_opt_time"(fd: u32, option: u32, buf: u32) = option::set_time),
    row!("sock_get_opt_time"(fd: u32, option: u32, ro_stat: u32) = option::get_time),
    row!("sock_set_opt_size"(fd: u32, option: u32, size: u64) = option::set_size),
    row!("sock_get_opt_size"(fd: u32, option: u32, ro_newoffset: u32) = option::get_size),
    row!("sock_bind"(fd: u32, buf: u32) = sock::bind),
    row!("sock_listen"(fd: u32, backlog: u32) = sock::listen),
    row!(async "sock_accept"(fd: u32, flags: u32, ro_fd: u32, ro_stat: u32) = sock::accept),
    row!(async "sock_accept_v2"(fd: u32, flags: u32, ro_fd: u32, ro_stat: u32) = sock::accept),
    row!(async "sock_connect"(fd: u32, buf: u32) = sock::connect),
    row!(async "sock_recv_from"(fd: u32, ri_data: u32, ri_data_len: u32, ri_flags: u32, ro_datalen: u32, ro_flags: u32, ro_stat: u32) = sock::recv_from),
    row!(async "sock_send_to"(fd: u32, si_data: u32, si_data_len: u32, si_flags: u32, buf: u32, so_datalen: u32) = sock::send_to),
    row!(async "sock_send_file"(fd: u32, in_fd: u32, offset: u64, count: u64, ro_newoffset: u32) = sock::send_file),
    row!(async "resolve"(node: u32, node_len: u32, number: u32, buf: u32, most: u32, ro_naddrs: u32) = sock::resolve),
];

/// What links and is refused.
pub(crate) const ABSENT: &[Row] = absent! {
    "clock_time_set"(id: u32, time: u64);
    "proc_snapshot"();
    "call_dynamic"(function: u32, buf: u32, values: u32, results: u32, results_size: u32, strict: u32);
    "reflect_signature"(function: u32, buf: u32, arguments: u32, results: u32, results_size: u32, result: u32);
    "closure_prepare"(
        function: u32, closure: u32, arguments: u32, arguments_size: u32, results: u32, results_size: u32,
        environment: u32
    );
    "closure_allocate"(buf: u32);
    "closure_free"(closure: u32);
    "proc_fork_env"(buf: u32);
    "proc_exec3"(
        path: u32, path_len: u32, args: u32, args_size: u32, envs: u32, envs_size: u32, search: u32, buf: u32,
        buf_size: u32
    );
    "proc_exec4"(
        path: u32, path_len: u32, args: u32, args_size: u32, envs: u32, envs_size: u32, search: u32, buf: u32,
        buf_size: u32
    );
    "proc_spawn"(
        path: u32, path_len: u32, chroot: u32, args: u32, args_size: u32, preopen: u32, preopen_size: u32,
        stdin: u32, stdout: u32, stderr: u32, directory: u32, directory_size: u32, buf: u32
    );
    "proc_spawn2"(
        path: u32, path_len: u32, args: u32, args_size: u32, envs: u32, envs_size: u32, fd_ops: u32,
        fd_ops_size: u32, signals: u32, signals_size: u32, search: u32, directory: u32, directory_size: u32,
        buf: u32
    );
    "proc_spawn3"(
        path: u32, path_len: u32, args: u32, args_size: u32, envs: u32, envs_size: u32, fd_ops: u32,
        fd_ops_size: u32, signals: u32, signals_size: u32, search: u32, directory: u32, directory_size: u32,
        buf: u32
    );
    "dl_invalid_handle"(handle: u32);
    "dlopen"(
        path: u32, path_len: u32, flags: u32, error: u32, error_size: u32, library_path: u32,
        library_path_size: u32, buf: u32
    );
    "dlsym"(handle: u32, path: u32, path_len: u32, error: u32, error_size: u32, buf: u32);
    "stack_checkpoint"(buf: u32, result: u32);
    "context_create"(buf: u32, entrypoint: u32);
    "context_switch"(context: u64);
    "context_destroy"(context: u64);
    "port_bridge"(network: u32, network_size: u32, token: u32, token_size: u32, security: u32);
    "port_unbridge"();
    "port_dhcp_acquire"();
    "port_addr_add"(buf: u32);
    "port_addr_remove"(buf: u32);
    "port_addr_clear"();
    "port_addr_list"(buf: u32, count: u32);
    "port_mac"(buf: u32);
    "port_gateway_set"(buf: u32);
    "port_route_add"(buf: u32, router: u32, preferred_until: u32, expires_at: u32);
    "port_route_remove"(buf: u32);
    "port_route_clear"();
    "port_route_list"(buf: u32, count: u32);
    "sock_join_multicast_v4"(fd: u32, buf: u32, interface: u32);
    "sock_leave_multicast_v4"(fd: u32, buf: u32, interface: u32);
    "sock_join_multicast_v6"(fd: u32, buf: u32, interface: u32);
    "sock_leave_multicast_v6"(fd: u32, buf: u32, interface: u32);
};

/// The same without a result: a guest that gets there ends.
pub(crate) const ABSENT_ENDS: &[Row] = &[
    absent::ends(row!(silent "proc_exec"(path: u32, path_len: u32, args: u32, args_size: u32) =
        |linker, _, table, key| {
            linker.func_wrap(table.module, key, |_: u32, _: u32, _: u32, _: u32| absent::end("proc_exec"))?;
            Ok(())
        }
    )),
    absent::ends(row!(
        silent "proc_exec2"(path: u32, path_len: u32, args: u32, args_size: u32, envs: u32, envs_size: u32) =
        |linker, _, table, key| {
            linker.func_wrap(table.module, key, |_: u32, _: u32, _: u32, _: u32, _: u32, _: u32| {
                absent::end("proc_exec2")
            })?;
            Ok(())
        }
    )),
    absent::ends(row!(silent "stack_restore"(args: u32, value64: u64) = |linker, _, table, key| {
        linker.func_wrap(table.module, key, |_: u32, _: u64| absent::end("stack_restore"))?;
        Ok(())
    })),
];
