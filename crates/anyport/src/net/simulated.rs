//! stub
use std::io::*; use std::net::SocketAddr; use std::sync::Arc; use std::task::*; use super::*; use crate::address::*;
#[derive(Debug)] pub struct Simulated; #[derive(Debug)] pub struct Endpoint;
impl Simulated { pub(super) fn open(self: &Arc<Self>, _f: Family, _t: Transport) -> Endpoint { Endpoint } }
impl Endpoint {
 pub(super) fn bind(&self,_:SocketAddr)->Result<()>{todo!()} pub(super) fn listen(&self,_:u32)->Result<()>{todo!()}
 pub(super) fn connect(&self,_:SocketAddr)->Result<()>{todo!()} pub(super) fn take_error(&self)->Result<()>{todo!()}
 pub(super) fn accept(&self)->Result<(Self,SocketAddr)>{todo!()} pub(super) fn receive(&self,_:&mut[IoSliceMut<'_>],_:ReceiveFlags)->Result<usize>{todo!()}
 pub(super) fn receive_from(&self,_:&mut[u8],_:ReceiveFlags)->Result<Datagram>{todo!()} pub(super) fn send(&self,_:&[IoSlice<'_>])->Result<usize>{todo!()}
 pub(super) fn send_to(&self,_:&[u8],_:SocketAddr)->Result<usize>{todo!()} pub(super) fn shutdown(&self,_:Shutdown)->Result<()>{todo!()}
 pub(super) fn local_address(&self)->Result<SocketAddr>{todo!()} pub(super) fn peer_address(&self)->Result<SocketAddr>{todo!()}
 pub(super) fn set_option(&self,_:SocketOption)->Result<()>{todo!()} pub(super) fn option(&self,_:OptionName)->Result<SocketOption>{todo!()}
 pub(super) fn poll_ready(&self,_:&mut Context<'_>,_:Interest)->Poll<Result<Ready>>{todo!()}
}
