//! `ip-name-lookup` of both versions.

use std::future::poll_fn;
use std::net::{IpAddr, Ipv6Addr};
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::vec;

use wasmtime::component::{Accessor, Resource};
use wasmtime_wasi::p2::bindings::sockets::ip_name_lookup::{self as lookup_02, ResolveAddressStream};
use wasmtime_wasi::p2::bindings::sockets::network::{ErrorCode, IpAddress};
use wasmtime_wasi::p2::{DynPollable, Network, Pollable, SocketResult, subscribe};
use wasmtime_wasi::p3::bindings::sockets::{ip_name_lookup as lookup_03, types};
use wasmtime_wasi_io::async_trait;

use super::code::{code, lookup_code_03};
use super::{Sockets, renamed};
use crate::errno::Errno;
use crate::guest::Guest;

/// A lookup that goes on, or what came of it.
enum Lookup {
    Asked(Pin<Box<dyn Future<Output = Result<Vec<IpAddr>, Errno>> + Send>>),
    Found(vec::IntoIter<IpAddr>),
    Failed(ErrorCode),
}

impl Lookup {
    /// Asks, if the guest may.
    fn ask(guest: &mut Guest, name: &str) -> Result<Self, ErrorCode> {
        Ok(Self::Asked(Box::pin(guest.begin_lookup(&host(name)?).map_err(code)?)))
    }

    /// Ready when it has come to an end.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<&mut vec::IntoIter<IpAddr>, ErrorCode>> {
        if let Self::Asked(asked) = self {
            *self = match ready!(asked.as_mut().poll(context)) {
                // IPv4 within IPv6 is no address of WASI.
                Ok(found) => Self::Found(found.iter().map(IpAddr::to_canonical).collect::<Vec<_>>().into_iter()),
                Err(errno) => Self::Failed(code(errno)),
            };
        }
        Poll::Ready(match self {
            Self::Found(addresses) => Ok(addresses),
            Self::Failed(code) => Err(*code),
            Self::Asked(_) => Err(ErrorCode::WouldBlock),
        })
    }
}

/// A name as it is looked up: in ASCII, or the number that it is.
fn host(name: &str) -> Result<String, ErrorCode> {
    if name.parse::<Ipv6Addr>().is_ok() {
        return Ok(name.to_owned());
    }
    match url::Host::parse(name) {
        Ok(url::Host::Domain(name)) => Ok(name),
        Ok(url::Host::Ipv4(address)) => Ok(address.to_string()),
        Ok(url::Host::Ipv6(address)) => Ok(address.to_string()),
        Err(_) => Err(ErrorCode::InvalidArgument),
    }
}

#[async_trait]
impl Pollable for Lookup {
    async fn ready(&mut self) {
        // Its outcome is kept.
        let _ = poll_fn(|context| self.poll(context).map(drop)).await;
    }
}

impl lookup_02::Host for Guest {
    fn resolve_addresses(
        &mut self, network: Resource<Network>, name: String,
    ) -> SocketResult<Resource<ResolveAddressStream>> {
        self.must_have(&network)?;
        let lookup = Lookup::ask(self, &name)?;
        Ok(renamed(&self.resources().push(lookup)?))
    }
}

impl lookup_02::HostResolveAddressStream for Guest {
    fn resolve_next_address(&mut self, stream: Resource<ResolveAddressStream>) -> SocketResult<Option<IpAddress>> {
        let lookup: &mut Lookup = self.resources().get_mut(&Resource::new_borrow(stream.rep()))?;
        match lookup.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Pending => Err(ErrorCode::WouldBlock.into()),
            Poll::Ready(found) => Ok(found?.next().map(IpAddress::from)),
        }
    }

    fn subscribe(&mut self, stream: Resource<ResolveAddressStream>) -> wasmtime::Result<Resource<DynPollable>> {
        subscribe(self.resources(), Resource::<Lookup>::new_borrow(stream.rep()))
    }

    fn drop(&mut self, stream: Resource<ResolveAddressStream>) -> wasmtime::Result<()> {
        self.release::<Lookup>(stream.rep())?;
        Ok(())
    }
}

impl lookup_03::Host for Guest {}

impl<T: 'static> lookup_03::HostWithStore<T> for Sockets {
    async fn resolve_addresses(
        store: &Accessor<T, Self>, name: String,
    ) -> wasmtime::Result<Result<Vec<types::IpAddress>, lookup_03::ErrorCode>> {
        let mut lookup = match store.with(|mut view| Lookup::ask(view.get(), &name)) {
            Ok(lookup) => lookup,
            Err(code) => return Ok(Err(lookup_code_03(code))),
        };
        Ok(poll_fn(|context| {
            lookup.poll(context).map(|found| match found {
                Ok(addresses) => Ok(addresses.map(types::IpAddress::from).collect()),
                Err(code) => Err(lookup_code_03(code)),
            })
        })
        .await)
    }
}
