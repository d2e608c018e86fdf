//! The sockets of `WasmEdge`, in the order of its `WasiModule` constructor: every shape since 0.8.2.
//!
//! `WasmEdge` chooses the first shape ("V1") or the second ("V2") of a name by the import's wasm type,
//! one import at a time, and so do we: real guests mix them. Where both shapes have one type, the
//! address decoder tells them apart by the buffer's length.

pub(super) mod address;
mod addrinfo;
mod option;
mod sock;

use wiggle::GuestError;

use super::hostcall::{Fault, Row, row, trap_on_bad_pointer};
use super::preview1::{poll, sock as preview1};
use crate::errno::Errno;

pub(crate) const ROWS: &[Row] = &[
    row!(async "epoll_oneoff"(subscriptions: u32, events: u32, nsubscriptions: u32, ro_nevents: u32) = poll::epoll_oneoff),
    row!("sock_open"(af_family: u32, sock_type: u32, ro_fd: u32) = sock::open),
    row!("sock_bind"(fd: u32, address: u32, port: u32) = sock::bind),
    row!("sock_listen"(fd: u32, backlog: u32) = sock::listen),
    row!(async "sock_accept"(fd: u32, ro_fd: u32) = sock::accept),
    row!(async "sock_connect"(fd: u32, address: u32, port: u32) = sock::connect),
    row!(async "sock_recv_from"(fd: u32, ri_data: u32, ri_data_len: u32, ro_address: u32, ri_flags: u32, ro_datalen: u32, ro_flags: u32) = sock::recv_from_v1),
    row!(async "sock_recv_from"(fd: u32, ri_data: u32, ri_data_len: u32, ro_address: u32, ri_flags: u32, ro_port: u32, ro_datalen: u32, ro_flags: u32) = sock::recv_from),
    row!(async "sock_send_to"(fd: u32, si_data: u32, si_data_len: u32, address: u32, port: u32, si_flags: u32, so_datalen: u32) = sock::send_to),
    row!("sock_getsockopt"(fd: u32, level: u32, name: u32, ro_value: u32, ro_len: u32) = option::get),
    row!("sock_setsockopt"(fd: u32, level: u32, name: u32, value: u32, value_len: u32) = option::set),
    row!("sock_getlocaladdr"(fd: u32, ro_address: u32, ro_type: u32, ro_port: u32) = sock::local_address_v1),
    row!("sock_getlocaladdr"(fd: u32, ro_address: u32, ro_port: u32) = sock::local_address),
    row!("sock_getpeeraddr"(fd: u32, ro_address: u32, ro_type: u32, ro_port: u32) = sock::peer_address_v1),
    row!("sock_getpeeraddr"(fd: u32, ro_address: u32, ro_port: u32) = sock::peer_address),
    row!(async "sock_getaddrinfo"(node: u32, node_len: u32, service: u32, service_len: u32, hints: u32, ro_res: u32, max_res_len: u32, ro_res_len: u32) = addrinfo::get),
    // The second shapes by their own names, as WasmEdge has had them since 0.12.
    row!("sock_bind_v2"(fd: u32, address: u32, port: u32) = sock::bind),
    row!("sock_open_v2"(af_family: u32, sock_type: u32, ro_fd: u32) = sock::open),
    row!("sock_listen_v2"(fd: u32, backlog: u32) = sock::listen),
    row!(async "sock_accept_v2"(fd: u32, flags: u32, ro_fd: u32) = preview1::accept),
    row!(async "sock_connect_v2"(fd: u32, address: u32, port: u32) = sock::connect),
    row!(async "sock_recv_v2"(fd: u32, ri_data: u32, ri_data_len: u32, ri_flags: u32, ro_datalen: u32, ro_flags: u32) = preview1::recv),
    row!(async "sock_recv_from_v2"(fd: u32, ri_data: u32, ri_data_len: u32, ro_address: u32, ri_flags: u32, ro_port: u32, ro_datalen: u32, ro_flags: u32) = sock::recv_from),
    row!(async "sock_send_v2"(fd: u32, si_data: u32, si_data_len: u32, si_flags: u32, so_datalen: u32) = preview1::send),
    row!(async "sock_send_to_v2"(fd: u32, si_data: u32, si_data_len: u32, address: u32, port: u32, si_flags: u32, so_datalen: u32) = sock::send_to),
    row!("sock_getlocaladdr_v2"(fd: u32, ro_address: u32, ro_port: u32) = sock::local_address),
    row!("sock_getpeeraddr_v2"(fd: u32, ro_address: u32, ro_port: u32) = sock::peer_address),
];

/// Whether a hostcall came with `WasmEdge` 0.10 or later: who imports it speaks the new enums.
pub(crate) fn is_since_0_10(name: &str, signature: &str) -> bool {
    match name {
        "epoll_oneoff" | "sock_recv_from" | "sock_send_to" => true,
        "sock_getlocaladdr" | "sock_getpeeraddr" => signature == "(iii)i",
        name => name.ends_with("_v2"),
    }
}

/// `WasmEdge`'s answer to a bad pointer is an errno: 4 when misaligned, 21 when outside of memory.
pub(super) fn errno_on_bad_pointer(error: GuestError) -> Fault {
    match error {
        GuestError::PtrNotAligned(..) => Fault::Errno(Errno::AddressNotAvailable),
        GuestError::PtrOverflow | GuestError::PtrOutOfBounds(_) => Fault::Errno(Errno::Fault),
        error => trap_on_bad_pointer(error),
    }
}
