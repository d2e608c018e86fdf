//! The documents of an image: which manifest of an index, what a config says, which layer is the module.
//!
//! All of it was written by whoever made the image.

use std::collections::{BTreeMap, HashMap};

use anyport::Error;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use sha2::{Digest as _, Sha256};

use super::{ENTRIES_MAX, Image, unusable};

const INDEXES: [&str; 2] =
    ["application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json"];
const MANIFESTS: [&str; 2] =
    ["application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json"];

/// Configs that say how to run an image. Those of artifacts say what is in them, if anything.
const CONFIGS: [&str; 2] =
    ["application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"];

/// What layers that are modules or components are called: by the CNCF's guidance, by Spin and wasm-to-oci,
/// by runwasi's older tools.
const MODULES: [&str; 3] = [
    "application/wasm",
    "application/vnd.wasm.content.layer.v1+wasm",
    "application/vnd.bytecodealliance.wasm.component.layer.v0+wasm",
];

/// The platforms that are WebAssembly, the likeliest first: the OCI's name, Docker's, those of artifacts.
const WASM_PLATFORMS: [(&str, &str); 4] =
    [("wasi", "wasm"), ("wasi", "wasm32"), ("wasip1", "wasm"), ("wasip2", "wasm")];

/// Without a media type to go by, so many layers are looked into.
const LAYERS_LOOKED_INTO: usize = 16;

/// How an image wants to be run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Config {
    pub(crate) architecture: String,
    pub(crate) os: String,
    pub(crate) entrypoint: Vec<String>,
    pub(crate) cmd: Vec<String>,
    pub(crate) env: Vec<String>,
    /// In ascending order.
    pub(crate) exposed_ports: Vec<(u16, Protocol)>,
    pub(crate) labels: BTreeMap<String, String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Protocol {
    Tcp,
    Udp,
}

/// One layer; its digest is one of SHA-256.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Layer {
    pub(crate) media_type: String,
    pub(crate) digest: String,
    pub(crate) size: u64,
}

impl Layer {
    /// Whether it is worth a look: not a part of a file system.
    fn could_be_module(&self) -> bool {
        !self.media_type.contains("tar") && self.size > 8
    }
}

/// A document and what it was said to be.
pub(super) struct Document {
    pub(super) media_type: String,
    pub(super) bytes: Vec<u8>,
}

pub(super) enum Kind {
    Index(Index),
    Manifest(Manifest),
}

/// Several manifests, one for each platform.
#[derive(Deserialize)]
pub(super) struct Index {
    #[serde(default, deserialize_with = "or_default")]
    manifests: Vec<Descriptor>,
}

/// One image.
pub(super) struct Manifest {
    pub(super) config: Descriptor,
    pub(super) layers: Vec<Layer>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Descriptor {
    #[serde(rename = "mediaType")]
    media_type: String,
    digest: String,
    size: i64,
    #[serde(default, deserialize_with = "or_default")]
    platform: Platform,
    #[serde(default, deserialize_with = "or_default")]
    annotations: HashMap<String, String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct Platform {
    #[serde(default, deserialize_with = "or_default")]
    os: String,
    #[serde(default, deserialize_with = "or_default")]
    architecture: String,
}

impl Descriptor {
    pub(super) fn new(media_type: String, digest: String, size: i64) -> Self {
        Self { media_type, digest, size, platform: Platform::default(), annotations: HashMap::new() }
    }

    pub(super) fn media_type(&self) -> &str {
        &self.media_type
    }

    pub(super) fn digest(&self) -> &str {
        &self.digest
    }

    pub(super) fn size(&self) -> i64 {
        self.size
    }

    /// What buildx says of an image stands beside it, for the platform `unknown/unknown`.
    fn is_attestation(&self) -> bool {
        self.annotations.contains_key("vnd.docker.reference.type") || self.platform.os == "unknown"
    }

    /// How well its platform suits, the best first; `None` if it does not.
    fn rank(&self) -> Option<usize> {
        let os = self.platform.os.to_lowercase();
        let (os, architecture) = (os.as_str(), self.platform.architecture.as_str());
        if let Some(rank) = WASM_PLATFORMS.iter().position(|platform| *platform == (os, architecture)) {
            return Some(rank);
        }
        let worse = WASM_PLATFORMS.len();
        match (os, architecture) {
            // wasip3, say.
            (_, "wasm" | "wasm32") => Some(worse),
            ("linux", architecture) if architecture == host_architecture() => Some(worse + 1),
            ("", _) => Some(worse + 2),
            _ => None,
        }
    }
}

impl Index {
    /// What could be run here, the best first.
    pub(super) fn choices(self) -> Vec<Descriptor> {
        let entries = self.manifests.into_iter().take(ENTRIES_MAX).filter(|entry| !entry.is_attestation());
        let mut ranked: Vec<_> = entries.filter_map(|entry| Some((entry.rank()?, entry))).collect();
        ranked.sort_by_key(|(rank, _)| *rank);
        ranked.into_iter().map(|(_, entry)| entry).collect()
    }
}

/// As the image specification calls it.
fn host_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Whether something is a digest that can be checked.
pub(super) fn check_digest(digest: &str) -> Result<(), Error> {
    let hex = digest.strip_prefix("sha256:").unwrap_or_default();
    if hex.len() == 64 && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
        return Ok(());
    }
    let shown: String = digest.chars().take(80).collect();
    Err(unusable(format!("{shown:?} is no digest of SHA-256")))
}

/// Whether these bytes are what a digest says.
pub(super) fn check_bytes(digest: &str, bytes: &[u8]) -> Result<(), Error> {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    if digest.strip_prefix("sha256:") == Some(hex.as_str()) {
        return Ok(());
    }
    let error = unusable(format!("the blob `{digest}` has been changed: its digest is `sha256:{hex}`"));
    Err(error.with_hint("remove the image and pull it again"))
}

/// An index or a manifest, as its media type says. A document that is both could be one thing for us and
/// another for who checked it: <https://nvd.nist.gov/vuln/detail/CVE-2021-41190>.
pub(super) fn parse(document: &Document) -> Result<Kind, Error> {
    #[derive(Deserialize)]
    struct Shape {
        #[serde(default, rename = "mediaType")]
        media_type: Option<String>,
        manifests: Option<serde::de::IgnoredAny>,
        layers: Option<serde::de::IgnoredAny>,
        config: Option<serde::de::IgnoredAny>,
    }
    let said = document.media_type.as_str();
    let shape: Shape = json(said, &document.bytes)?;
    if let Some(own) = shape.media_type.filter(|own| own != said) {
        return Err(unusable(format!("a document that was said to be {said:?} says that it is {own:?}")));
    }
    let both = shape.manifests.is_some() && (shape.layers.is_some() || shape.config.is_some());
    if both {
        return Err(unusable("a document is an index and a manifest at once"));
    }
    if INDEXES.contains(&said) {
        return Ok(Kind::Index(json(said, &document.bytes)?));
    }
    if MANIFESTS.contains(&said) {
        return manifest(said, &document.bytes).map(Kind::Manifest);
    }
    Err(unusable(format!("{said:?} is neither an index nor a manifest of an image")))
}

fn manifest(media_type: &str, bytes: &[u8]) -> Result<Manifest, Error> {
    #[derive(Deserialize)]
    struct Json {
        config: Descriptor,
        #[serde(default, deserialize_with = "or_default")]
        layers: Vec<Descriptor>,
    }
    let Json { config, layers } = json(media_type, bytes)?;
    if layers.len() > ENTRIES_MAX {
        return Err(unusable(format!("it has {} layers, of at most {ENTRIES_MAX}", layers.len())));
    }
    let layers = layers.into_iter().map(|layer| {
        check_digest(&layer.digest)?;
        let size = u64::try_from(layer.size);
        let size = size.map_err(|_| unusable(format!("a layer has a size of {} bytes", layer.size)))?;
        Ok(Layer { media_type: layer.media_type, digest: layer.digest, size })
    });
    Ok(Manifest { config, layers: layers.collect::<Result<_, Error>>()? })
}

/// The config of an image, or what an artifact's has of one: its platform at most.
pub(super) fn parse_config(media_type: &str, bytes: &[u8]) -> Result<Config, Error> {
    #[derive(Default, Deserialize)]
    struct Json {
        #[serde(default, deserialize_with = "or_default")]
        architecture: String,
        #[serde(default, deserialize_with = "or_default")]
        os: String,
        #[serde(default, deserialize_with = "or_default")]
        config: Run,
    }
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Run {
        #[serde(default, deserialize_with = "or_default")]
        entrypoint: Vec<String>,
        #[serde(default, deserialize_with = "or_default")]
        cmd: Vec<String>,
        #[serde(default, deserialize_with = "or_default")]
        env: Vec<String>,
        #[serde(default, deserialize_with = "or_default")]
        exposed_ports: HashMap<String, serde::de::IgnoredAny>,
        #[serde(default, deserialize_with = "or_default")]
        labels: BTreeMap<String, String>,
    }
    let parsed: Json = match json(media_type, bytes) {
        Ok(parsed) => parsed,
        Err(error) if CONFIGS.contains(&media_type) => return Err(error),
        // An artifact's may be empty, or anything.
        Err(_) => Json::default(),
    };
    let Run { entrypoint, cmd, env, exposed_ports, labels } = parsed.config;
    let mut exposed_ports: Vec<_> = exposed_ports.keys().filter_map(|text| port(text)).collect();
    exposed_ports.sort_unstable();
    exposed_ports.dedup();
    let (architecture, os) = (parsed.architecture, parsed.os);
    Ok(Config { architecture, os, entrypoint, cmd, env, exposed_ports, labels })
}

/// `8080/tcp`, `53/udp`, `80`. A guest has no other protocols.
fn port(text: &str) -> Option<(u16, Protocol)> {
    let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = match protocol {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        _ => return None,
    };
    Some((number.parse().ok().filter(|port| *port != 0)?, protocol))
}

fn json<T: DeserializeOwned>(media_type: &str, bytes: &[u8]) -> Result<T, Error> {
    // A list could be read as the members in their order, which they do not have for anybody else.
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        return Err(unusable(format!("its {media_type:?} is no JSON object")));
    }
    serde_json::from_slice(bytes).map_err(|error| unusable(format!("its {media_type:?} cannot be read: {error}")))
}

/// Go's encoders write `null` for what is empty.
fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

impl Image {
    /// The TCP ports that it exposes.
    pub(crate) fn exposed_tcp(&self) -> Vec<u16> {
        let ports = self.config.exposed_ports.iter();
        ports.filter(|(_, protocol)| *protocol == Protocol::Tcp).map(|(port, _)| *port).collect()
    }

    /// The layer whose media type says that it is a WebAssembly module or component: the first one, where
    /// there are several.
    pub(super) fn named_module(&self) -> Option<&Layer> {
        self.layers.iter().find(|layer| MODULES.contains(&layer.media_type.as_str()))
    }

    /// The layers that are looked into where none says what it is.
    pub(super) fn unnamed_layers(&self) -> impl Iterator<Item = &Layer> {
        self.layers.iter().filter(|layer| layer.could_be_module()).take(LAYERS_LOOKED_INTO)
    }
}
