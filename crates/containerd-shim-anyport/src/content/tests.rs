//! Documents as registries have them, and a real containerd where one is.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use prost::Message;
use sha2::{Digest as _, Sha256};

use super::image::{Document, Manifest, Protocol, check_bytes, check_digest, parse, parse_config};
use super::*;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

fn parsed(media_type: &str, text: &str) -> Result<Kind, Error> {
    parse(&Document { media_type: media_type.to_owned(), bytes: text.as_bytes().to_vec() })
}

/// The platforms of an index in the order in which they are tried. A digest's front tells them apart.
fn choices(entries: &[&str]) -> Vec<String> {
    let digest = "a".repeat(64);
    let entry =
        |more: &&str| format!(r#"{{"mediaType":"{MANIFEST}","digest":"sha256:{digest}","size":{}{more}}}"#, more.len());
    let entries: Vec<String> = entries.iter().map(entry).collect();
    let Ok(Kind::Index(index)) = parsed(INDEX, &format!(r#"{{"manifests":[{}]}}"#, entries.join(","))) else {
        panic!("it is an index")
    };
    index.choices().iter().map(|entry| entry.size().to_string()).collect()
}

#[test]
fn webassembly_comes_first_then_this_machine_and_attestations_never() {
    let host = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let platform =
        |os: &str, architecture: &str| format!(r#","platform":{{"os":"{os}","architecture":"{architecture}"}}"#);
    let attestation =
        format!(r#"{},"annotations":{{"vnd.docker.reference.type":"attestation-manifest"}}"#, platform("wasi", "wasm"));
    let in_order = [
        platform("wasi", "wasm"),
        platform("wasi", "wasm32"),
        platform("Wasip1", "wasm"),
        platform("wasip2", "wasm"),
        platform("wasi-threads-1", "wasm"),
        platform("linux", host),
        String::from(r#","platform":null"#),
    ];
    let never = [attestation, platform("unknown", "unknown"), platform("linux", "s390x"), platform("windows", host)];
    let mut entries: Vec<&str> = in_order.iter().chain(&never).map(String::as_str).collect();
    entries.sort_unstable();
    // Sizes tell them apart: those of equal lengths are of different ranks, and told by their neighbours.
    let expected: Vec<String> = in_order.iter().map(|more| more.len().to_string()).collect();
    assert_eq!(choices(&entries), expected);
}

#[test]
fn a_document_is_one_thing_and_what_it_was_said_to_be() {
    let layer = format!(r#"{{"mediaType":"application/wasm","digest":"sha256:{}","size":9}}"#, "0".repeat(64));
    let config = format!(r#"{{"mediaType":"{CONFIG}","digest":"sha256:{}","size":2}}"#, "0".repeat(64));
    let whole = format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{layer}]}}"#);
    let Ok(Kind::Manifest(Manifest { layers, .. })) = parsed(MANIFEST, &whole) else { panic!("it is a manifest") };
    assert_eq!(layers[0].size, 9);
    for (said, text) in [
        (MANIFEST, format!(r#"{{"mediaType":"{INDEX}","config":{config},"layers":[]}}"#)),
        (MANIFEST, format!(r#"{{"config":{config},"layers":[],"manifests":[]}}"#)),
        (INDEX, format!(r#"{{"config":{config},"manifests":[]}}"#)),
        ("application/vnd.docker.distribution.manifest.v1+prettyjws", whole.clone()),
        (MANIFEST, whole.replace(r#""size":9"#, r#""size":-9"#)),
        (MANIFEST, whole.replace(r#""size":9"#, r#""size":99999999999999999999"#)),
        (MANIFEST, whole.replace("sha256:", "sha256:../../")),
        (MANIFEST, format!(r#"{{"config":{config},"layers":[{}]}}"#, vec![layer.as_str(); 1001].join(","))),
        (MANIFEST, format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000))),
        (MANIFEST, String::new()),
        (INDEX, String::from(r#"{"manifests":{}}"#)),
        (INDEX, String::from("[1]")),
    ] {
        let error = parsed(said, &text).err().unwrap_or_else(|| panic!("{said} {:.80}", text));
        assert_eq!(error.kind(), ErrorKind::NotRunnable, "{error}");
    }
}

#[test]
fn digests_are_checked_before_they_are_asked_for_and_bytes_after() {
    check_digest(&digest(b"")).expect("it is one");
    check_bytes(&digest(b"a"), b"a").expect("they are what it says");
    assert!(check_bytes(&digest(b"a"), b"b").is_err());
    let upper = digest(b"").to_uppercase();
    let long = "sha256:".to_owned() + &"0".repeat(65);
    let sha512 = "sha512:".to_owned() + &"0".repeat(128);
    for text in ["", "sha256:", "sha256:zz", &upper, &long, &sha512, "../../etc/passwd"] {
        assert!(check_digest(text).is_err(), "{text}");
    }
}

#[test]
fn a_config_says_how_to_run() {
    let text = r#"{"architecture":"wasm32","os":"wasi","config":{
        "Entrypoint":["/app.wasm"],"Cmd":null,"Env":["A=1"],"Labels":{"io.anyport.workers":"2"},
        "ExposedPorts":{"8080/tcp":{},"53/udp":{},"80":{},"0/tcp":{},"99999/tcp":{},"1/sctp":{},"a/tcp":{}}},
        "rootfs":{"type":"layers","diff_ids":[]}}"#;
    let config = parse_config(CONFIG, text.as_bytes()).expect("it can be read");
    assert_eq!(config.entrypoint, ["/app.wasm"]);
    assert!(config.cmd.is_empty());
    assert_eq!(config.env, ["A=1"]);
    assert_eq!(config.exposed_ports, [(53, Protocol::Udp), (80, Protocol::Tcp), (8080, Protocol::Tcp)]);
    assert_eq!(config.labels["io.anyport.workers"], "2");
    assert_eq!((config.os.as_str(), config.architecture.as_str()), ("wasi", "wasm32"));
    assert!(parse_config(CONFIG, b"[]").is_err());
    assert!(parse_config(CONFIG, br#"{"config":{"Env":"A=1"}}"#).is_err());

    let artifact = "application/vnd.wasm.config.v0+json";
    let text = br#"{"architecture":"wasm","os":"wasip2","layerDigests":["sha256:00"],"component":{"exports":[]}}"#;
    assert_eq!(parse_config(artifact, text).expect("it can be read").os, "wasip2");
    assert_eq!(parse_config(artifact, b"").expect("it may be empty"), Config::default());
}

#[test]
fn the_module_is_the_layer_that_is_called_so() {
    let layer = |media_type: &str| Layer { media_type: media_type.to_owned(), digest: digest(b""), size: 100 };
    let image = |types: &[&str]| Image {
        name: String::new(),
        manifest: String::new(),
        config: Config::default(),
        layers: types.iter().map(|media_type| layer(media_type)).collect(),
    };
    let tar = "application/vnd.oci.image.layer.v1.tar+gzip";
    for module in [
        "application/wasm",
        "application/vnd.wasm.content.layer.v1+wasm",
        "application/vnd.bytecodealliance.wasm.component.layer.v0+wasm",
    ] {
        assert_eq!(image(&[tar, module]).named_module().expect("there is one").media_type, module);
    }
    let odd = image(&[tar, "application/octet-stream"]);
    assert_eq!(odd.named_module(), None);
    assert_eq!(odd.unnamed_layers().count(), 1);
}

#[tokio::test(flavor = "current_thread")]
async fn a_containerd_that_is_not_there_is_told_of() {
    let content = Content::new(Path::new("/nonexistent/containerd.sock"), "moby");
    let error = content.container("c1").await.expect_err("nobody answers");
    let message = error.to_string();
    assert!(message.contains("/nonexistent/containerd.sock") && message.contains("No such file"), "{message}");
}

// --- with a containerd --------------------------------------------------------------------------------

/// The least that is a module.
const MODULE: &[u8] = b"\0asm\x01\0\0\0";

/// An OCI layout that grows blob by blob.
struct Layout {
    folder: tempfile::TempDir,
}

impl Layout {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder can be made");
        fs::create_dir_all(folder.path().join("blobs/sha256")).expect("a folder can be made");
        fs::write(folder.path().join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("it can be written");
        Self { folder }
    }

    /// Adds a blob, and gives its descriptor without the closing brace.
    fn blob(&self, media_type: &str, bytes: &[u8]) -> String {
        let digest = digest(bytes);
        let path = self.folder.path().join("blobs").join(digest.replace(':', "/"));
        fs::write(path, bytes).expect("it can be written");
        format!(r#"{{"mediaType":"{media_type}","digest":"{digest}","size":{}"#, bytes.len())
    }

    fn manifest(&self, config: (&str, &str), layer: (&str, &[u8])) -> String {
        let (config, layer) = (self.blob(config.0, config.1.as_bytes()), self.blob(layer.0, layer.1));
        let text =
            format!(r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","config":{config}}},"layers":[{layer}}}]}}"#);
        self.blob(MANIFEST, text.as_bytes())
    }

    /// Gives containerd all of it, as an image of this name.
    fn import(&self, ctr: &Ctr, target: &str, name: &str) {
        let annotations = format!(r#","annotations":{{"io.containerd.image.name":"{name}"}}}}"#);
        let index = format!(r#"{{"schemaVersion":2,"manifests":[{target}{annotations}]}}"#);
        fs::write(self.folder.path().join("index.json"), index).expect("it can be written");
        let archive = self.folder.path().join("image.tar");
        let files = ["oci-layout", "index.json", "blobs"];
        let packed =
            Command::new("tar").arg("-C").arg(self.folder.path()).arg("-cf").arg(&archive).args(files).status();
        assert!(packed.expect("there is `tar`").success());
        ctr.run(&["images", "import", "--no-unpack", "--all-platforms", &archive.display().to_string()]);
    }
}

/// The `ctr` of the containerd at `$ANYPORT_TEST_CONTAINERD`, in a namespace of the test's own.
struct Ctr {
    socket: PathBuf,
    namespace: String,
}

impl Ctr {
    fn new() -> Option<Self> {
        let Some(socket) = std::env::var_os("ANYPORT_TEST_CONTAINERD") else {
            eprintln!("skipped: `ANYPORT_TEST_CONTAINERD` names no socket of a containerd");
            return None;
        };
        let namespace = format!("anyport-test-{}", std::process::id());
        Some(Self { socket: PathBuf::from(socket), namespace })
    }

    fn run(&self, words: &[&str]) {
        let ctr = std::env::var_os("ANYPORT_TEST_CTR").unwrap_or_else(|| "ctr".into());
        let mut command = Command::new(ctr);
        command.arg("--address").arg(&self.socket).args(["--namespace", &self.namespace]).args(words);
        let output = command.output().expect("there is `ctr`");
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

/// A container's record as a client of containerd makes it.
#[derive(Clone, PartialEq, Message)]
struct NewContainer {
    #[prost(message, optional, tag = "1")]
    container: Option<NewRecord>,
}

#[derive(Clone, PartialEq, Message)]
struct NewRecord {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(map = "string, string", tag = "2")]
    labels: HashMap<String, String>,
    #[prost(string, tag = "3")]
    image: String,
    #[prost(message, optional, tag = "4")]
    runtime: Option<wire::GetContainer>,
    #[prost(message, optional, tag = "5")]
    spec: Option<Spec>,
}

#[derive(Clone, PartialEq, Message)]
struct Spec {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

#[tokio::test(flavor = "current_thread")]
async fn images_of_a_real_containerd_are_read() {
    let Some(ctr) = Ctr::new() else { return };
    let content = Content::new(&ctr.socket, &ctr.namespace);
    let layout = Layout::new();
    let config = r#"{"architecture":"wasm","os":"wasi","config":{"Entrypoint":["/app.wasm"],
        "ExposedPorts":{"8080/tcp":{}}},"rootfs":{"type":"layers","diff_ids":[]}}"#;
    let wasi = layout.manifest((CONFIG, config), ("application/wasm", MODULE));
    layout.import(&ctr, &wasi, "local/wasi:1");

    let image = content.image("local/wasi:1").await.expect("it is there");
    assert_eq!(image.config.entrypoint, ["/app.wasm"]);
    assert_eq!(image.config.exposed_ports, [(8080, Protocol::Tcp)]);
    let layer = content.module_layer(&image).await.expect("it can be asked").expect("there is a module");
    assert_eq!(content.read(&layer.digest, layer.size).await.expect("it can be read"), MODULE);
    let error = content.read(&layer.digest, 7).await.expect_err("it has 8 bytes");
    assert!(error.to_string().contains("more than 7 bytes"), "{error}");

    // An index with an attestation first, Linux second; the module's layer is called nothing special. It is
    // larger than what one message carries.
    let mut large = MODULE.to_vec();
    large.extend((0..5u32 << 18).flat_map(u32::to_le_bytes));
    let linux = layout.manifest((CONFIG, r#"{"architecture":"amd64","os":"linux"}"#), ("application/x", b"x"));
    let odd = layout.manifest((CONFIG, config), ("application/octet-stream", &large));
    let index = format!(
        r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[
        {linux},"platform":{{"os":"unknown","architecture":"unknown"}}}},
        {linux},"platform":{{"os":"linux","architecture":"amd64"}}}},
        {odd},"platform":{{"os":"wasi","architecture":"wasm32"}}}}]}}"#
    );
    let index = layout.blob(INDEX, index.as_bytes());
    layout.import(&ctr, &index, "local/index:1");
    let image = content.image("local/index:1").await.expect("it is there");
    assert_eq!(image.config.os, "wasi");
    assert_eq!(image.named_module(), None);
    let layer = content.module_layer(&image).await.expect("it can be asked").expect("there is a module");
    assert!(content.read(&layer.digest, layer.size).await.expect("it can be read") == large);

    let record = NewRecord {
        id: "c1".to_owned(),
        labels: [("a".to_owned(), "b".to_owned())].into(),
        image: "local/wasi:1".to_owned(),
        runtime: Some(wire::GetContainer { id: "io.containerd.anyport.v1".to_owned() }),
        spec: Some(Spec {
            type_url: "types.containerd.io/opencontainers/runtime-spec/1/Spec".to_owned(),
            value: b"{}".to_vec(),
        }),
    };
    let create = "/containerd.services.containers.v1.Containers/Create";
    let made = content.containerd.ask::<_, wire::GotContainer>(create, NewContainer { container: Some(record) });
    made.await.expect("it can be made");
    let container = content.container("c1").await.expect("it is there");
    assert_eq!((container.image.as_str(), container.labels["a"].as_str()), ("local/wasi:1", "b"));

    let error = content.image("local/none:1").await.expect_err("it is not there");
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    assert!(error.to_string().contains(&ctr.namespace), "{error}");
    let error = content.container("c2").await.expect_err("it is not there");
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    ctr.run(&["containers", "rm", "c1"]);
    ctr.run(&["images", "rm", "local/wasi:1", "local/index:1"]);
}
