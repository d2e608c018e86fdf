//! Calls to containerd's gRPC services: the few messages that are used of them, with the fields that are.
//!
//! Numbers are those of containerd's `api/services/*/v1/*.proto`, which has kept them since 1.0.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use prost::Message;
use tokio::net::UnixStream;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;
use tower_service::Service;

/// A containerd that is up answers within milliseconds; one whose disk is busy, within seconds.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Clone, PartialEq, Message)]
pub(super) struct GetContainer {
    #[prost(string, tag = "1")]
    pub(super) id: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct GotContainer {
    #[prost(message, optional, tag = "1")]
    pub(super) container: Option<Container>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Container {
    #[prost(string, tag = "1")]
    pub(super) id: String,
    #[prost(map = "string, string", tag = "2")]
    pub(super) labels: HashMap<String, String>,
    #[prost(string, tag = "3")]
    pub(super) image: String,
    #[prost(string, tag = "6")]
    pub(super) snapshotter: String,
    #[prost(string, tag = "7")]
    pub(super) snapshot_key: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct GetImage {
    #[prost(string, tag = "1")]
    pub(super) name: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct GotImage {
    #[prost(message, optional, tag = "1")]
    pub(super) image: Option<Image>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Image {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(message, optional, tag = "3")]
    pub(super) target: Option<Target>,
}

/// `containerd.types.Descriptor`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Target {
    #[prost(string, tag = "1")]
    pub(super) media_type: String,
    #[prost(string, tag = "2")]
    pub(super) digest: String,
    #[prost(int64, tag = "3")]
    pub(super) size: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ReadContent {
    #[prost(string, tag = "1")]
    pub(super) digest: String,
    #[prost(int64, tag = "2")]
    pub(super) offset: i64,
    #[prost(int64, tag = "3")]
    pub(super) size: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ContentPart {
    #[prost(int64, tag = "1")]
    pub(super) offset: i64,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) data: Vec<u8>,
}

/// One connection, and the namespace that its calls are about.
#[derive(Clone, Debug)]
pub(super) struct Containerd {
    channel: Channel,
    address: Arc<Path>,
    namespace: MetadataValue<Ascii>,
}

impl Containerd {
    pub(super) fn new(address: &Path, namespace: &str) -> Self {
        // Names are letters and digits. Of any other, containerd says that it is none.
        let namespace = MetadataValue::try_from(namespace).unwrap_or_else(|_| MetadataValue::from_static(""));
        let address: Arc<Path> = address.into();
        // Nobody resolves the name: the socket is where it leads.
        let endpoint = Endpoint::from_static("http://containerd").timeout(ANSWER_TIMEOUT);
        let channel = endpoint.connect_with_connector_lazy(Socket { path: address.to_path_buf() });
        Self { channel, address, namespace }
    }

    pub(super) fn address(&self) -> &Path {
        &self.address
    }

    pub(super) fn namespace(&self) -> &str {
        self.namespace.to_str().unwrap_or_default()
    }

    /// One question, one answer.
    pub(super) async fn ask<Q, A>(&self, path: &'static str, question: Q) -> Result<A, Status>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let mut client = self.client().await?;
        let answer = client.unary(self.request(question), of(path)?, ProstCodec::default()).await;
        answer.map(Response::into_inner)
    }

    /// One question, an answer in parts.
    pub(super) async fn stream<Q, A>(&self, path: &'static str, question: Q) -> Result<Streaming<A>, Status>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let mut client = self.client().await?;
        let answer = client.server_streaming(self.request(question), of(path)?, ProstCodec::default()).await;
        answer.map(Response::into_inner)
    }

    async fn client(&self) -> Result<tonic::client::Grpc<Channel>, Status> {
        let mut client = tonic::client::Grpc::new(self.channel.clone());
        client.ready().await.map_err(|error| Status::unavailable(innermost(&error)))?;
        Ok(client)
    }

    fn request<Q>(&self, question: Q) -> Request<Q> {
        let mut request = Request::new(question);
        request.metadata_mut().insert("containerd-namespace", self.namespace.clone());
        request
    }
}

/// The path of a call, whose type is that of a crate which we do not name.
fn of<P: std::str::FromStr>(path: &str) -> Result<P, Status> {
    path.parse().map_err(|_| Status::internal(format!("`{path}` is no path")))
}

/// What the system said, behind the layers that passed it on.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// Connects to a Unix socket, whatever it is asked for.
#[derive(Clone, Debug)]
struct Socket {
    path: PathBuf,
}

impl Service<Uri> for Socket {
    type Response = TokioIo<UnixStream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let path = self.path.clone();
        Box::pin(async move { UnixStream::connect(path).await.map(TokioIo::new) })
    }
}
