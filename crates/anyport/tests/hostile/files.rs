//! Files that pretend to be servers: what is said of them, and whether they are taken.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyport::error::ErrorKind;
use anyport::inspect::ArtifactKind;
use anyport::{Artifact, Error, Inspection, Server};
use fastrand::Rng;
use serde_json::Value;

use super::heap;
use super::modules::{self, hostile};
use crate::wat_support::runtime;

/// What may be held beside a file for each of its bytes: an import of four bytes is an `Import` with
/// three strings, and the validator knows of it too.
const HELD_PER_BYTE: usize = 200;

/// And besides: the validator makes room for as many things as a module says it has, a million at most.
const HELD_BESIDES: usize = 128 << 20;

/// The longest message, and its lines: those that name imports, and one in front and behind.
const MESSAGE_BYTES: usize = 32 << 10;
const MESSAGE_LINES: usize = 1 + 8 + 1;

/// Whoever makes a file chooses its name too.
const FILE_NAME: &str = "it's \x1b[2J\n\u{202e}.wasm";

/// Things in a crowd: a million are the most that a module may have.
const CROWD: u32 = 20_000;

/// Modules that are compiled: Cranelift without optimisation takes a second for 30 KB.
const COMPILED_BYTES: usize = 4 << 10;

/// A module as it was generated, which is mostly valid; whether it can be run.
pub(crate) fn generated(seed: u64) -> bool {
    judge(&modules::module(seed))
}

/// A file of the corpus, or a generated module, damaged in a few places; whether it can be run.
pub(crate) fn damaged(seed: u64) -> bool {
    let mut random = Rng::with_seed(seed);
    let mut bytes = pick(&mut random);
    for _ in 0..random.usize(1..6) {
        if random.bool() {
            mutate(&mut bytes, &mut random);
        } else {
            mutate_sections(&mut bytes, &mut random);
        }
    }
    judge(&bytes)
}

/// Modules of few bytes and very many things.
pub(crate) fn crowded() {
    for module in modules::crowds(CROWD) {
        judge(&module);
    }
}

/// What the validator knows and the engine does not run: nobody says of it that it can be run.
pub(crate) fn ahead_or_behind() {
    let assemble = |text: &str| wat::parse_str(text).unwrap_or_else(|error| panic!("{error}"));
    for module in ["(type $f (func)) (type (cont $f))", "(memory i64 1 1 (pagesize 1))"] {
        assert!(!judge(&assemble(&format!("(component (core module {module}))"))), "{module}");
        assert!(!judge(&assemble(&format!("(module {module} (func (export \"_start\")))"))), "{module}");
    }
    // `block nop end`, which the assembler knows, made `try catch_all end`, which it has forgotten.
    let mut legacy = assemble("(module (func (export \"_start\") block nop end))");
    let at = legacy.windows(4).position(|bytes| bytes == [0x02, 0x40, 0x01, 0x0b]).expect("it is in there");
    legacy[at..at + 4].copy_from_slice(&[0x06, 0x40, 0x19, 0x0b]);
    assert!(!judge(&legacy));
    let hint = Inspection::of(&Artifact::from_bytes(FILE_NAME, legacy)).hint.expect("there is something to do");
    assert!(hint.contains("wasm-opt --translate-to-exnref"), "{hint}");
}

/// Looks at a file, and loads it, or tries to; whether it can be run.
fn judge(bytes: &[u8]) -> bool {
    let artifact = Artifact::from_bytes(FILE_NAME, bytes);
    let (told, held) = heap::peak_of(|| Inspection::of(&artifact));
    assert!(held <= HELD_BESIDES + HELD_PER_BYTE * bytes.len(), "{held} bytes held for {}", bytes.len());
    assert_eq!(told.run.is_some(), told.problem.is_none());
    assert_eq!((told.kind, told.bytes), (artifact.kind(), bytes.len()));
    assert_printable(&told);
    if told.run.is_none() || bytes.len() <= COMPILED_BYTES {
        let (loaded, held) = heap::peak_of(|| runtime().load(&artifact));
        assert!(held <= HELD_BESIDES + HELD_PER_BYTE * bytes.len(), "{held} bytes held to load {}", bytes.len());
        assert_agrees(&told, loaded);
    }
    if artifact.kind() != ArtifactKind::Precompiled {
        // Nobody could vouch for machine code that was damaged.
        assert_refused(&runtime().load_precompiled(&artifact).err().expect("it is no machine code"));
    }
    told.run.is_some()
}

/// What is shown of a file neither moves a cursor nor forges a line, and is not without end.
fn assert_printable(told: &Inspection) {
    let json = serde_json::to_value(told).expect("it can be told");
    let mut texts = Vec::new();
    collect(&json, &mut texts);
    for text in texts {
        assert!(text.chars().all(is_harmless), "{text:?}");
    }
    for text in [&told.problem, &told.hint, &told.run].into_iter().flatten() {
        assert!(text.len() <= MESSAGE_BYTES, "{} bytes: {text:.100}", text.len());
    }
    for verdict in &told.runtimes {
        assert!(verdict.why.len() <= MESSAGE_BYTES, "{}: {} bytes", verdict.runtime, verdict.why.len());
    }
}

/// Whatever the CLI prints is a string in here.
fn collect<'j>(json: &'j Value, texts: &mut Vec<&'j str>) {
    match json {
        Value::String(text) => texts.push(text),
        Value::Array(values) => values.iter().for_each(|value| collect(value, texts)),
        Value::Object(values) => values.values().for_each(|value| collect(value, texts)),
        _ => {}
    }
}

/// Neither a control character, nor one that turns the order of others or hides among them.
fn is_harmless(c: char) -> bool {
    let hidden = matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}')
        || matches!(c, '\u{61c}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}');
    !c.is_control() && !hidden
}

/// What `inspect` says and what is done are one.
fn assert_agrees(told: &Inspection, loaded: Result<Server, Error>) {
    match (&told.problem, loaded) {
        (None, Ok(_)) => {}
        (None, Err(error)) => panic!("it can be run, says the inspection; but {error}"),
        (Some(problem), Ok(_)) => panic!("it is loaded, but {problem}"),
        (Some(problem), Err(error)) => {
            let first = error.to_string().lines().next().unwrap_or_default().trim_end_matches(':').to_owned();
            assert_eq!(*problem, first);
            assert_eq!(told.hint.as_deref(), error.hint());
            assert_refused(&error);
        }
    }
}

fn assert_refused(error: &Error) {
    assert_eq!(error.kind(), ErrorKind::NotRunnable, "{error}");
    let message = error.to_string();
    assert!(message.len() <= MESSAGE_BYTES, "{} bytes: {message:.100}", message.len());
    assert!(message.lines().count() <= MESSAGE_LINES, "{message}");
    let printable = message.chars().chain(error.hint().unwrap_or_default().chars());
    assert!(printable.filter(|c| *c != '\n').all(is_harmless), "{message:?}");
}

/// Every guest of the repository, and small files of every kind that is known.
fn pick(random: &mut Rng) -> Vec<u8> {
    static CORPUS: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    let corpus = CORPUS.get_or_init(corpus);
    match random.usize(..corpus.len() * 2) {
        at if at < corpus.len() => corpus[at].clone(),
        _ => modules::module(random.u64(..)),
    }
}

fn corpus() -> Vec<Vec<u8>> {
    let text = "(module (import \"wasi_snapshot_preview1\" \"sock_accept\" (func (param i32 i32) (result i32)))
        (import \"wasi_snapshot_preview1\" \"sock_accept\" (func (param i32 i32 i32) (result i32)))
        (import \"env\" \"table\" (table 1 funcref)) (import \"env\" \"tag\" (tag (param i32)))
        (memory (export \"memory\") 1) (global (export \"g\") (mut i64) (i64.const 1)) (data (i32.const 0) \"text\")
        (func (export \"_start\") (drop (call 0 (i32.const 1) (i32.const 2)))))";
    let component = "(component (core module (func (export \"f\"))) (component) (type (func)))";
    let [module, component] = [text, component].map(|text| wat::parse_str(text).expect("it is well-formed"));
    let command = wat::parse_str("(module (func (export \"_start\")))").expect("it is well-formed");
    let compiled = runtime().precompile(&Artifact::from_bytes("command", command)).expect("it can be run");
    let mut corpus = vec![Vec::new(), b"\0asm".to_vec(), b"#!/bin/sh\n".to_vec(), b"\x7fELF".to_vec()];
    corpus.extend([module, component, compiled]);
    let guests = guests(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../guests"));
    assert!(guests.len() > 5, "the guests are not where they were");
    corpus.extend(guests.iter().map(|path| fs::read(path).expect("it is there")));
    corpus
}

/// The modules below a folder that are small enough to be looked at a thousand times.
fn guests(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("it is there").map(|entry| entry.expect("it can be listed").path());
    let mut paths: Vec<PathBuf> = entries
        .flat_map(|path| match path.is_dir() {
            true => guests(&path),
            false => vec![path],
        })
        .filter(|path| path.extension().is_some_and(|end| end == "wasm"))
        .filter(|path| path.metadata().is_ok_and(|file| file.len() < 200_000))
        .collect();
    paths.sort();
    paths
}

fn mutate(bytes: &mut Vec<u8>, random: &mut Rng) {
    let at = random.usize(..=bytes.len());
    match random.u8(..8) {
        0 => bytes.truncate(at),
        1 => bytes.insert(at, random.u8(..)),
        2 => bytes.extend((0..at.min(64)).map(|_| random.u8(..)).collect::<Vec<_>>()),
        3 => {
            let copied: Vec<u8> = bytes.iter().skip(at).take(32).copied().collect();
            let to = random.usize(..=bytes.len());
            bytes.splice(to..to, copied);
        }
        4 if at < bytes.len() => {
            let end = (at + random.usize(..32)).min(bytes.len());
            bytes.drain(at..end);
        }
        // Where lengths and types are.
        5 if bytes.len() > 8 => {
            let at = 8 + at % (bytes.len() - 8).min(64);
            let at = at.min(bytes.len() - 1);
            bytes[at] = [0, 1, 0x7f, 0x80, 0xff][random.usize(..5)];
        }
        6 => {
            bytes.splice(at..(at + 1).min(bytes.len()), hostile(random));
        }
        _ => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << random.u8(..8);
            }
        }
    }
}

/// Moves sections about, doubles, drops and borrows them, or lies about the length of one.
fn mutate_sections(bytes: &mut Vec<u8>, random: &mut Rng) {
    let mut sections = sections(bytes);
    if sections.is_empty() {
        return;
    }
    let (one, other) = (random.usize(..sections.len()), random.usize(..sections.len()));
    match random.u8(..6) {
        0 => sections.swap(one, other),
        1 => sections.insert(one, sections[other].clone()),
        2 => drop(sections.remove(one)),
        3 => {
            let borrowed = self::sections(&pick(random));
            if let Some(section) = random.choice(borrowed) {
                sections.insert(one, section);
            }
        }
        4 => sections[one].0 = random.u8(..16),
        _ => {
            sections[one].1 = hostile(random);
        }
    }
    bytes.truncate(8);
    for (id, length, section) in sections {
        bytes.push(id);
        bytes.extend(length);
        bytes.extend(section);
    }
}

/// A section: its number, its length as it is written, its bytes.
type Section = (u8, Vec<u8>, Vec<u8>);

/// The sections of a module or component, as far as they are whole.
fn sections(bytes: &[u8]) -> Vec<Section> {
    let mut sections = Vec::new();
    let mut rest = bytes.get(8..).unwrap_or_default();
    while let Some((id, after)) = rest.split_first() {
        let length = after.iter().take(5).take_while(|byte| **byte >= 0x80).count() + 1;
        let Some((length, after)) = after.split_at_checked(length) else { break };
        let size = length.iter().rev().fold(0_usize, |size, byte| size << 7 | usize::from(byte & 0x7f));
        let Some((section, after)) = after.split_at_checked(size) else { break };
        sections.push((*id, length.to_vec(), section.to_vec()));
        rest = after;
    }
    sections
}
