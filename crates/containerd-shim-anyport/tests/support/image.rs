//! Images, made without an engine: archives in the layout of the Open Container Initiative.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::guest;

pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// An image of one layer.
#[derive(Clone)]
pub struct Image {
    pub name: String,
    /// `architecture` and `os` of its platform.
    pub platform: (&'static str, &'static str),
    /// What the image says of a container: `Entrypoint`, `Env`, `ExposedPorts` …
    pub config: Value,
    pub files: Vec<(String, Vec<u8>)>,
    /// In place of a layer with files: the media type of a layer that is the module itself.
    pub artifact: Option<(&'static str, Vec<u8>)>,
}

impl Image {
    /// A module as the entrypoint, for `wasi/wasm32`.
    pub fn of(name: &str, module: Vec<u8>) -> Self {
        Self {
            name: name.to_owned(),
            platform: ("wasm32", "wasi"),
            config: json!({ "Entrypoint": ["/server.wasm"] }),
            files: vec![("server.wasm".to_owned(), module)],
            artifact: None,
        }
    }

    /// The server that the issue wants to run.
    pub fn hello() -> Self {
        Self::of("hello", guest("wasmedge/hello/server.wasm"))
    }

    /// A preview1 server, which is given its listener.
    pub fn axum() -> Self {
        Self::of("axum", guest("preview1/axum-fd3/server.wasm"))
    }

    /// A guest that does what its arguments say.
    pub fn command() -> Self {
        Self::of("command", guest("command/command.wasm"))
    }

    /// The same under another name, with this in its configuration.
    pub fn with(mut self, name: &str, key: &str, value: Value) -> Self {
        self.name = name.to_owned();
        self.config[key] = value;
        self
    }

    pub fn with_file(mut self, path: &str, bytes: &[u8]) -> Self {
        self.files.push((path.to_owned(), bytes.to_vec()));
        self
    }

    /// The name with the registry that Docker means when it names none.
    pub fn reference(&self) -> String {
        format!("docker.io/library/{}:latest", self.name)
    }

    /// A tar archive that `docker load` and `ctr images import` take.
    pub fn archive(&self) -> Vec<u8> {
        self.archive_as(&self.reference())
    }

    pub fn archive_as(&self, reference: &str) -> Vec<u8> {
        let (layer_type, layer) = match &self.artifact {
            Some((media_type, module)) => (*media_type, module.clone()),
            None => (LAYER, tar(self.files.iter().map(|(path, bytes)| (path.as_str(), bytes.as_slice())))),
        };
        // An engine counts only layers that it can unpack.
        let layers = if self.artifact.is_some() { vec![] } else { vec![digest(&layer)] };
        let (architecture, os) = self.platform;
        let config = json!({
            "architecture": architecture, "os": os, "config": self.config,
            "rootfs": { "type": "layers", "diff_ids": layers },
        });
        let config = config.to_string().into_bytes();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
            "layers": [descriptor(layer_type, &layer)],
        });
        let manifest = manifest.to_string().into_bytes();
        let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
        entry["platform"] = json!({ "architecture": architecture, "os": os });
        entry["annotations"] = json!({
            "io.containerd.image.name": reference,
            "org.opencontainers.image.ref.name": "latest",
        });
        let index = json!({ "schemaVersion": 2, "manifests": [entry] }).to_string().into_bytes();
        let blobs = [&layer, &config, &manifest].map(|blob| (digest(blob).replace("sha256:", "blobs/sha256/"), blob));
        let mut files =
            vec![("oci-layout", br#"{ "imageLayoutVersion": "1.0.0" }"#.as_slice()), ("index.json", &index)];
        files.extend(blobs.iter().map(|(path, blob)| (path.as_str(), blob.as_slice())));
        tar(files)
    }
}

fn descriptor(media_type: &str, blob: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": digest(blob), "size": blob.len() })
}

fn digest(blob: &[u8]) -> String {
    let hex: Vec<String> = Sha256::digest(blob).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{}", hex.concat())
}

/// An archive of these files, in the folders that they need.
fn tar<'a>(files: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Vec<u8> {
    let mut archive = Vec::new();
    let mut folders: Vec<String> = Vec::new();
    for (path, bytes) in files {
        for (at, _) in path.match_indices('/') {
            let folder = path[..=at].to_owned();
            if !folders.contains(&folder) {
                archive.extend(header(&folder, 0, b'5', 0o755));
                folders.push(folder);
            }
        }
        archive.extend(header(path, bytes.len(), b'0', 0o644));
        archive.extend(bytes);
        archive.resize(archive.len().next_multiple_of(512), 0);
    }
    archive.resize(archive.len() + 1024, 0);
    archive
}

/// A header of POSIX's ustar: fields at fixed places, numbers in octal, a sum over all with itself as blanks.
fn header(path: &str, length: usize, kind: u8, mode: u32) -> [u8; 512] {
    let mut header = [0; 512];
    let mut put = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, path);
    put(100, &format!("{mode:07o}"));
    put(108, "0000000");
    put(116, "0000000");
    put(124, &format!("{length:011o}"));
    put(136, "00000000000");
    put(148, "        ");
    put(257, "ustar\x0000");
    header[156] = kind;
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    header
}
