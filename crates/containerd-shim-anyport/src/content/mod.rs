//! What containerd knows of a container's image, and the bytes of its layers.

mod image;
mod wire;

use std::collections::BTreeMap;
use std::path::Path;

use anyport::Error;
use anyport::error::ErrorKind;
use tonic::Code;

pub(crate) use self::image::{Config, Layer};
use self::image::{Descriptor, Kind};

/// An index, a manifest, a config. Registries take none that are larger.
const DOCUMENT_BYTES_MAX: u64 = 4 << 20;

/// An index may name an index. Nobody nests deeper than two.
const INDEXES_MAX: usize = 4;

/// Entries of one index, or layers of one image, that are looked at.
const ENTRIES_MAX: usize = 1_000;

/// containerd, in one of its namespaces: `moby` is Docker's, `k8s.io` kubelet's. Clones share a connection,
/// which is made when it is needed.
#[derive(Clone, Debug)]
pub(crate) struct Content {
    containerd: wire::Containerd,
}

/// A container as it was created. What is not said is empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) image: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) snapshotter: String,
    pub(crate) snapshot_key: String,
}

/// An image, for the one of its platforms that is run here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Image {
    pub(crate) name: String,
    /// The digest of its manifest.
    pub(crate) manifest: String,
    pub(crate) config: Config,
    pub(crate) layers: Vec<Layer>,
}

impl Content {
    /// The containerd that listens at this socket. Needs a runtime of tokio with I/O and time.
    pub(crate) fn new(address: &Path, namespace: &str) -> Self {
        Self { containerd: wire::Containerd::new(address, namespace) }
    }

    pub(crate) async fn container(&self, id: &str) -> Result<Record, Error> {
        let request = wire::GetContainer { id: id.to_owned() };
        let path = "/containerd.services.containers.v1.Containers/Get";
        let reply: wire::GotContainer = self
            .containerd
            .ask(path, request)
            .await
            .map_err(|status| self.failed(&format!("the container `{id}`"), &status))?;
        let found = reply.container.unwrap_or_default();
        Ok(Record {
            image: found.image,
            labels: found.labels.into_iter().collect(),
            snapshotter: found.snapshotter,
            snapshot_key: found.snapshot_key,
        })
    }

    /// The image of this name, as a container's record has it.
    pub(crate) async fn image(&self, name: &str) -> Result<Image, Error> {
        let request = wire::GetImage { name: name.to_owned() };
        let path = "/containerd.services.images.v1.Images/Get";
        let reply: wire::GotImage = self
            .containerd
            .ask(path, request)
            .await
            .map_err(|status| self.failed(&format!("the image `{name}`"), &status))?;
        let target = reply.image.and_then(|image| image.target).unwrap_or_default();
        let target = Descriptor::new(target.media_type, target.digest, target.size);
        let in_image = |error: Error| {
            let told = Error::new(error.kind(), format!("the image `{name}` cannot be used: {error}"));
            match error.hint() {
                Some(hint) => told.with_hint(hint),
                None => told,
            }
        };
        let (manifest, digest) = self.manifest(target).await.map_err(in_image)?;
        let config = self.config(&manifest.config).await.map_err(in_image)?;
        Ok(Image { name: name.to_owned(), manifest: digest, config, layers: manifest.layers })
    }

    /// A blob, if it is what its digest says and has at most so many bytes.
    pub(crate) async fn read(&self, digest: &str, limit: u64) -> Result<Vec<u8>, Error> {
        image::check_digest(digest)?;
        let bytes = self
            .part(digest, 0, limit)
            .await?
            .map_err(|status| self.failed(&format!("the blob `{digest}`"), &status))?;
        image::check_bytes(digest, &bytes)?;
        Ok(bytes)
    }

    /// The layer that is a WebAssembly module: by its media type, or else by how it begins. Without one, the
    /// module is a file of the root file system.
    pub(crate) async fn module_layer(&self, image: &Image) -> Result<Option<Layer>, Error> {
        if let Some(layer) = image.named_module() {
            return Ok(Some(layer.clone()));
        }
        for layer in image.unnamed_layers() {
            if let Ok(front) = self.part(&layer.digest, 4, 4).await?
                && front == *b"\0asm"
            {
                return Ok(Some(layer.clone()));
            }
        }
        Ok(None)
    }

    /// The manifest that a descriptor leads to, and its digest.
    async fn manifest(&self, target: Descriptor) -> Result<(image::Manifest, String), Error> {
        let mut wanted = vec![target];
        for _ in 0..=INDEXES_MAX {
            let (document, digest) = self.first(&wanted).await?;
            match image::parse(&document)? {
                Kind::Manifest(manifest) => return Ok((manifest, digest)),
                Kind::Index(index) => wanted = index.choices(),
            }
            if wanted.is_empty() {
                let message = "its index has no manifest for WebAssembly, and none for this machine";
                return Err(unusable(message).with_hint("build it with `--platform wasi/wasm32`"));
            }
        }
        Err(unusable(format!("its indexes are nested deeper than {INDEXES_MAX}")))
    }

    /// The first of these documents that is here: of an index, often only one platform has been pulled.
    async fn first(&self, wanted: &[Descriptor]) -> Result<(image::Document, String), Error> {
        let mut missing = None;
        for descriptor in wanted {
            match self.document(descriptor).await {
                Ok(bytes) => {
                    let media_type = descriptor.media_type().to_owned();
                    return Ok((image::Document { media_type, bytes }, descriptor.digest().to_owned()));
                }
                Err(error) if error.kind() == ErrorKind::NotFound => missing = missing.or(Some(error)),
                Err(error) => return Err(error),
            }
        }
        Err(missing.unwrap_or_else(|| unusable("it leads nowhere")))
    }

    async fn config(&self, descriptor: &Descriptor) -> Result<Config, Error> {
        let bytes = self.document(descriptor).await?;
        image::parse_config(descriptor.media_type(), &bytes)
    }

    async fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>, Error> {
        let bytes = self.read(descriptor.digest(), DOCUMENT_BYTES_MAX).await?;
        let size = u64::try_from(descriptor.size()).ok();
        if size != u64::try_from(bytes.len()).ok() {
            let (digest, says) = (descriptor.digest(), descriptor.size());
            return Err(unusable(format!("`{digest}` has {} bytes, and should have {says}", bytes.len())));
        }
        Ok(bytes)
    }

    /// The front of a blob, or all of it: 0 asks for all.
    async fn part(&self, digest: &str, size: u64, limit: u64) -> Result<Result<Vec<u8>, tonic::Status>, Error> {
        let size = i64::try_from(size).unwrap_or(i64::MAX);
        let request = wire::ReadContent { digest: digest.to_owned(), offset: 0, size };
        let mut chunks = match self
            .containerd
            .stream::<_, wire::ContentPart>("/containerd.services.content.v1.Content/Read", request)
            .await
        {
            Ok(chunks) => chunks,
            Err(status) => return Ok(Err(status)),
        };
        let mut bytes = Vec::new();
        loop {
            match chunks.message().await {
                Ok(Some(chunk)) => bytes.extend_from_slice(&chunk.data),
                Ok(None) => return Ok(Ok(bytes)),
                Err(status) => return Ok(Err(status)),
            }
            if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > limit {
                return Err(unusable(format!("the blob `{digest}` has more than {limit} bytes")));
            }
        }
    }

    fn failed(&self, what: &str, status: &tonic::Status) -> Error {
        let (socket, namespace) = (self.containerd.address().display(), self.containerd.namespace());
        match status.code() {
            Code::NotFound => {
                let message = format!("containerd does not have {what} in its namespace `{namespace}`");
                Error::new(ErrorKind::NotFound, message).with_hint("pull the image again, for its platform")
            }
            Code::Unavailable => {
                let message = format!("containerd does not answer at `{socket}`: {}", status.message());
                Error::new(ErrorKind::Host, message)
            }
            code => {
                Error::new(ErrorKind::Host, format!("containerd does not give {what}: {code:?}: {}", status.message()))
            }
        }
    }
}

/// The image is at fault.
fn unusable(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::NotRunnable, message)
}

#[cfg(test)]
mod tests;
