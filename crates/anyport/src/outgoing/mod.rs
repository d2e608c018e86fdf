//! A guest's own HTTP requests: what `wasi:http` sends goes out by here.

use wasmtime_wasi_http::{Error, RequestOptions, Result, WasiBody, WasiHttpHooks};

/// A guest's way out.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {}

/// Tells of what goes wrong with a body that is under way.
type Transfer = Box<dyn Future<Output = Result<()>> + Send>;

type Sent = Result<(http::Response<WasiBody>, Transfer)>;

impl WasiHttpHooks for Outgoing {
    fn send_request(
        &mut self, _request: http::Request<WasiBody>, _options: Option<RequestOptions>, _transfer: Transfer,
    ) -> Box<dyn Future<Output = Sent> + Send> {
        Box::new(async { Err(Error::HttpRequestDenied) })
    }
}
