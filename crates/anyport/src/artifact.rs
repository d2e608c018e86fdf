//! What is to be run: its bytes, where they come from, and what they are at first sight.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::OnceLock;

use crate::error::{Error, ErrorKind, brief, printable};
use crate::limits::MODULE_BYTES;

/// A wasm file, with its name for messages.
#[derive(Clone, Debug)]
pub struct Artifact {
    name: String,
    bytes: Vec<u8>,
    digest: OnceLock<blake3::Hash>,
}

/// What the first bytes of a file say it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ArtifactKind {
    /// A core WebAssembly module.
    Module,
    /// A WebAssembly component.
    Component,
    /// A module that `anyport compile` or `wasmtime compile` made.
    Precompiled,
    /// Something that is not WebAssembly.
    NotWasm,
}

/// The magic number of every wasm binary.
const MAGIC: &[u8] = b"\0asm";
/// What follows it in a core module, and in a component.
const MODULE_VERSION: [u8; 4] = [1, 0, 0, 0];
const COMPONENT_VERSION: [u8; 4] = [0x0d, 0, 1, 0];

impl Artifact {
    /// Reads a file.
    ///
    /// # Errors
    /// There is no such file ([`ErrorKind::NotFound`]), or it cannot be read.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let outcome = read(path);
        let name = printable(&path.display().to_string());
        match outcome {
            Ok(bytes) => Ok(Self::from_bytes(path.display().to_string(), bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(Error::new(ErrorKind::NotFound, format!("there is no file `{name}`")))
            }
            Err(error) if error.kind() == io::ErrorKind::IsADirectory => {
                Err(Error::not_runnable(format!("`{name}` is a directory")).with_hint("name the .wasm file in it"))
            }
            Err(error) if error.kind() == io::ErrorKind::FileTooLarge => {
                Err(Error::not_runnable(format!("`{name}` is larger than a module can be: {} MiB", MODULE_BYTES >> 20)))
            }
            Err(error) => Err(Error::not_runnable(format!("`{name}` cannot be read: {error}"))),
        }
    }

    /// Bytes that are at hand already, under a name for messages.
    pub fn from_bytes(name: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Self {
        Self { name: name.into(), bytes: bytes.into(), digest: OnceLock::new() }
    }

    /// The name as it was given: the path, for a file.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The bytes as they were read.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The digest of the bytes: what the compile cache knows it by.
    pub(crate) fn digest(&self) -> &blake3::Hash {
        self.digest.get_or_init(|| blake3::hash(&self.bytes))
    }

    /// What it is, by its first bytes.
    pub fn kind(&self) -> ArtifactKind {
        if let Some(version) = self.bytes.strip_prefix(MAGIC).and_then(|rest| rest.first_chunk()) {
            match *version {
                MODULE_VERSION => return ArtifactKind::Module,
                COMPONENT_VERSION => return ArtifactKind::Component,
                _ => return ArtifactKind::NotWasm,
            }
        }
        match wasmtime::Engine::detect_precompiled(&self.bytes) {
            Some(_) => ArtifactKind::Precompiled,
            None => ArtifactKind::NotWasm,
        }
    }

    /// The error for a module that is not whole or not valid; `what` says how, and may have names of
    /// the module in it.
    pub(crate) fn damaged(&self, what: &str) -> Error {
        Error::not_runnable(format!("`{self}` {}", brief(&printable(what))))
            .with_hint("build or download it again: it is damaged, or uses a proposal that is not supported")
    }

    /// A sentence on a file that is not WebAssembly, with what to do about it.
    pub(crate) fn not_wasm(&self) -> Error {
        let (what, hint) = describe(&self.bytes);
        Error::not_runnable(format!("`{self}` is not a WebAssembly binary: {what}")).with_hint(hint)
    }
}

/// The name as a message has it: who makes a file chooses its name too.
impl fmt::Display for Artifact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&printable(&self.name))
    }
}

/// The whole file. A device may have no end, and a sparse file more bytes than there is memory.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    if metadata.file_type().is_char_device() || metadata.file_type().is_block_device() {
        return Err(io::Error::other("it is a device"));
    }
    let mut bytes = Vec::new();
    if metadata.len() <= MODULE_BYTES {
        bytes.reserve(usize::try_from(metadata.len()).unwrap_or(0));
        file.take(MODULE_BYTES + 1).read_to_end(&mut bytes)?;
    }
    if metadata.len().max(bytes.len() as u64) > MODULE_BYTES {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(bytes)
}

fn describe(bytes: &[u8]) -> (String, &'static str) {
    const REBUILD: &str = "build the server for WebAssembly, for example with `cargo build --target wasm32-wasip1`";
    let known: &[(&[u8], &str, &str)] = &[
        (b"\x7fELF", "it is a native Linux program (ELF)", REBUILD),
        (b"MZ", "it is a native Windows program", REBUILD),
        (b"\xcf\xfa\xed\xfe", "it is a native macOS program", REBUILD),
        (b"\x1f\x8b", "it is gzip-compressed", "unpack it first: `gunzip < FILE > NEW.wasm`"),
        (b"\x28\xb5\x2f\xfd", "it is zstd-compressed", "unpack it first, with `unzstd`"),
        (b"PK\x03\x04", "it is a zip archive", "unpack it first, with `unzip`"),
        (b"#!", "it is a script", "name the .wasm file that it runs"),
    ];
    if bytes.is_empty() {
        return ("the file is empty".to_owned(), "build it again: the build may have been interrupted");
    }
    if let Some(version) = bytes.strip_prefix(MAGIC) {
        return match version.first_chunk::<4>() {
            Some(version) => (
                format!("its version is {}, and modules have version 1", u32::from_le_bytes(*version)),
                "build it again with a current toolchain",
            ),
            None => ("it ends within its header".to_owned(), "build or download it again: it is cut off"),
        };
    }
    for (magic, what, hint) in known {
        if bytes.starts_with(magic) {
            return ((*what).to_owned(), hint);
        }
    }
    match std::str::from_utf8(&bytes[..bytes.len().min(512)]) {
        Ok(text) if text.trim_start().starts_with("(module") || text.trim_start().starts_with("(component") => {
            ("it is the text format".to_owned(), "make a binary of it, with `wat2wasm` or `wasm-tools parse`")
        }
        Ok(_) => ("it is text".to_owned(), "name the .wasm file"),
        Err(_) => ("its first bytes are not `\\0asm`".to_owned(), "name the .wasm file"),
    }
}
