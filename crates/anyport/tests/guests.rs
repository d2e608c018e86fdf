//! The committed guests are what their sources say: guests/MANIFEST, which guests/build.sh writes.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// Larger ones are built and not committed: every clone carries every version of them.
const WASM_BYTES_MAX: u64 = 1_500_000;

/// A line of MANIFEST: a guest, the digest of its sources, and a module built from them.
struct Line {
    guest: String,
    source: String,
    /// None for a module that is not committed.
    wasm: Option<String>,
    path: String,
}

#[test]
fn every_wasm_is_as_new_as_its_sources() {
    let mut digests = BTreeMap::new();
    for Line { guest, source, .. } in &manifest() {
        let now = digests.entry(guest.clone()).or_insert_with(|| source_digest(&guests().join(guest)));
        assert_eq!(now, source, "guests/{guest} has changed; run `just guests`");
    }
}

#[test]
fn every_wasm_is_the_one_that_was_recorded() {
    for Line { wasm, path, .. } in manifest() {
        let Some(wasm) = wasm else { continue };
        let bytes = fs::read(guests().join(&path)).unwrap_or_else(|error| panic!("guests/{path}: {error}"));
        assert_eq!(hex(Sha256::new().chain_update(bytes)), wasm, "guests/{path} has changed; run `just guests`");
    }
}

#[test]
fn every_wasm_is_recorded_and_small_enough_to_commit() {
    let manifest = manifest();
    for file in files_of(&guests()).iter().filter(|file| file.extension() == Some(OsStr::new("wasm"))) {
        let path = relative(file, &guests());
        let line = manifest.iter().find(|line| line.path == path);
        let line = line.unwrap_or_else(|| panic!("guests/{path} is not in guests/MANIFEST; run `just guests`"));
        let bytes = fs::metadata(file).expect("it was listed").len();
        assert!(
            line.wasm.is_none() || bytes <= WASM_BYTES_MAX,
            "guests/{path} has {bytes} bytes, of at most {WASM_BYTES_MAX}; make it smaller, or do not commit it",
        );
    }
}

#[test]
fn what_is_composed_has_the_parts_of_today() {
    let read = |path: &str| fs::read(guests().join("wasi-http-0.3").join(path)).expect("it is committed");
    let composed = read("middleware/server.wasm");
    for part in ["echo/server.wasm", "middleware/middleware.wasm"] {
        let bytes = read(part);
        let is_there = memchr::memmem::find(&composed, &bytes).is_some();
        assert!(is_there, "guests/wasi-http-0.3/{part} has changed; run `just guests`");
    }
}

fn guests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../guests")
}

fn manifest() -> Vec<Line> {
    let text = fs::read_to_string(guests().join("MANIFEST")).expect("guests/MANIFEST can be read");
    let lines: Vec<Line> = text.lines().map(line).collect();
    assert!(!lines.is_empty(), "guests/MANIFEST is empty; run `just guests`");
    lines
}

fn line(text: &str) -> Line {
    let words: Vec<&str> = text.split(' ').collect();
    let [guest, source, wasm, path] = words[..] else { panic!("guests/MANIFEST: `{text}` has not four words") };
    Line {
        guest: guest.to_owned(),
        source: source.to_owned(),
        wasm: (wasm != "-").then(|| wasm.to_owned()),
        path: path.to_owned(),
    }
}

/// As `source_digest` of guests/build.sh.
fn source_digest(guest: &Path) -> String {
    let mut sources: Vec<(String, PathBuf)> =
        files_of(guest).into_iter().filter(|file| is_source(file)).map(|file| (relative(&file, guest), file)).collect();
    sources.sort();
    let mut digest = Sha256::new();
    for (path, file) in sources {
        let bytes = fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        digest.update(format!("{path}\0{}\0", bytes.len()));
        digest.update(bytes);
    }
    hex(digest)
}

fn is_source(file: &Path) -> bool {
    let named = file.file_name().is_some_and(|name| ["Cargo.lock", "go.mod", "go.sum"].map(OsStr::new).contains(&name));
    named || file.extension().is_some_and(|end| ["rs", "c", "h", "go", "toml"].map(OsStr::new).contains(&end))
}

/// The files below a folder, but for what the toolchains of guests/build.sh left there.
fn files_of(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
        let path = entry.expect("a folder can be listed").path();
        let made = folder == guests() && (path.ends_with("target") || path.ends_with(".toolchain"));
        if path.is_dir() && !made {
            files.extend(files_of(&path));
        } else if path.is_file() {
            files.push(path);
        }
    }
    files
}

fn relative(file: &Path, folder: &Path) -> String {
    file.strip_prefix(folder).expect("it is below it").display().to_string()
}

fn hex(digest: Sha256) -> String {
    digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
