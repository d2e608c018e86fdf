//! Instances that are made before the port is open, so that the first requests find them ready.

use std::future::poll_fn;
use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;
use wasmtime_wasi_http::p2::bindings::ProxyPre;

use super::call::Call;
use super::kept::Instance;
use super::{Site, reuse};
use crate::guest::Guest;
use crate::instance::{self, Neighbours, Outcome};
use crate::program::Handler;

/// Makes an instance, which waits for a request; or how it has ended.
pub(super) async fn make(site: &Arc<Site>, permit: OwnedSemaphorePermit) -> Result<(), Outcome> {
    match &site.requests.handler {
        Handler::Of02(handler) => make_02(site, handler, permit).await,
        Handler::Of03(handler) => reuse::make(site, handler, permit).await,
        // Each request has an instance with an environment of its own.
        Handler::Cgi(_) => Ok(()),
    }
}

/// Of 0.2: it is kept for one request, or for as many as each may have.
async fn make_02(site: &Arc<Site>, handler: &ProxyPre<Guest>, permit: OwnedSemaphorePermit) -> Result<(), Outcome> {
    let guest = site.guest(None).map_err(|error| Outcome::failed(error.to_string()))?;
    let pace = guest.busy.pace();
    let mut store = instance::store(&site.engine, guest, Neighbours::Always);
    let life = Box::pin({
        let (site, handler) = (Arc::clone(site), handler.clone());
        async move {
            match handler.instantiate_async(&mut store).await {
                Ok(proxy) => {
                    site.kept.put(Instance { store, proxy, used: 0, _permit: permit });
                    Outcome::Exited(0)
                }
                Err(error) => instance::outcome(&store, Err(error)),
            }
        }
    });
    let mut call = Call::new(life, pace, site);
    match poll_fn(|context| call.poll(context)).await {
        Outcome::Exited(0) => Ok(()),
        // A guest may exit as it is instantiated.
        ended => Err(ended),
    }
}
