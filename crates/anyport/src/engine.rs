//! From bytes to machine code: wasmtime's settings, and the compile cache.
//!
//! `unsafe` here: machine code that is read from a file cannot be checked, so whoever
//! hands it over has to vouch for it.
#![allow(unsafe_code, reason = "loading machine code is unsafe; each block says why it may")]

use std::borrow::Cow;
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read, Seek, Write};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::Arc;

use object::read::elf::ElfFile64;
use object::{Endianness, Object, ObjectSection, ReadCache, ReadRef};
use rustix::fs::{MemfdFlags, SealFlags};
use wasmparser::{Validator, WasmFeatures};
use wasmtime::ResourcesRequired;
use wasmtime::component::Component;
use wasmtime::{Config, Enabled, InstanceAllocationStrategy, MemoryType, Module, PoolingAllocationConfig, Precompiled};

use crate::artifact::{Artifact, ArtifactKind};
use crate::cache::Cache;
use crate::error::Error;
use crate::globals;
use crate::machine;
use crate::ticker::Ticker;

/// What an engine runs. Its machine code fits the engines of its kind, pooled or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Core modules.
    Modules,
    /// Core modules with a memory that threads share.
    Threads,
    /// Components of one task: those of WASI 0.2 alone. What tasks need is left out, and a request is a quarter
    /// faster without.
    Sequential,
    /// Components whose tasks run at the same time: of WASI 0.3.
    Concurrent,
}

/// An engine.
pub(crate) struct Engine {
    pub(crate) kind: Kind,
    pub(crate) wasmtime: wasmtime::Engine,
    pub(crate) ticker: Arc<Ticker>,
}

/// What a pool of instances has room for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    /// Threads that make instances.
    pub(crate) workers: usize,
    /// Instances of a component at the same time.
    pub(crate) instances: u32,
    /// The most bytes of one memory.
    pub(crate) memory_bytes: usize,
    /// The most elements of one table.
    pub(crate) table_elements: usize,
}

/// Machine code that somebody vouched for.
#[derive(Debug)]
pub(crate) enum Compiled {
    /// It is in a file, from where it is mapped.
    File(File),
    /// It is in no file.
    Bytes(Vec<u8>),
}

/// Machine code from the cache.
pub(crate) struct Kept {
    pub(crate) compiled: Compiled,
    /// Where they were noted.
    pub(crate) needs: Option<Needs>,
}

/// What machine code was made of.
#[derive(Clone)]
pub(crate) enum Loaded {
    Module(Module),
    Component(Component),
}

/// Bytes of an instance's memory that stay mapped when it ends, for the next one in its place: what most
/// servers write to during a request. The rest is given back to the kernel.
const MEMORY_KEPT: usize = 2 << 20;

/// The same of its tables.
const TABLE_KEPT: usize = 64 << 10;

/// Bytes of a memory that is rather written anew as a whole, where there are several workers: an interpreter whose
/// memory was saved in the middle of its work writes here and there, to more places than wasmtime looks up, and what is
/// given back to the kernel interrupts the other workers, and costs page faults that they wait for. It stays mapped for
/// as many instances as were ever at work at once, so all of them together must be no more than a part of what there
/// is.
const MEMORY_REWRITTEN: usize = 32 << 20;

/// The part of a memory that is more than what any program is linked with: it was saved. One of so many.
const PART_SAVED: u64 = 2;

const WASM_PAGE: usize = 64 << 10;

/// The part of the machine's memory that they may be: one of so many.
const PART_REWRITTEN: u64 = 4;

/// Core instances that a component has at most. Those of an interpreter and its shared libraries have about
/// forty; each reserves nothing but its place in a list.
const CORE_INSTANCES: u32 = 256;

/// Heaps of a component, for exceptions and what else its languages have collected, each of which is a memory too: no
/// module says whether it has one, and an unused one is its place in a list.
const GC_HEAPS: u32 = 1;

/// Bytes of an instance's own, without its memories and tables: its functions and globals.
const INSTANCE_BYTES: usize = 64 << 20;

impl Engine {
    pub(crate) fn new(kind: Kind) -> Result<Self, Error> {
        Self::with(kind, config(kind))
    }

    /// An engine whose instances of one component come from a pool: each takes the place of another, whose memory
    /// is mapped already.
    pub(crate) fn pooled(kind: Kind, needs: &Needs, room: Room) -> Result<Self, Error> {
        let mut pool = PoolingAllocationConfig::new();
        let each = |count: u32| count.saturating_mul(room.instances);
        let rewritten = rewritten(needs, room, machine::memory_bytes);
        let needs = &needs.resources;
        let table = needs.max_initial_table_size.and_then(|size| usize::try_from(size).ok()).unwrap_or(0);
        pool.total_component_instances(room.instances)
            .total_core_instances(each(CORE_INSTANCES))
            .total_memories(each(needs.num_memories.saturating_add(GC_HEAPS)))
            .total_tables(each(needs.num_tables))
            .total_stacks(room.instances)
            .total_gc_heaps(each(GC_HEAPS))
            .max_memories_per_module(needs.num_memories.max(1))
            .max_tables_per_module(needs.num_tables.max(1))
            .max_component_instance_size(INSTANCE_BYTES)
            .max_core_instance_size(INSTANCE_BYTES)
            .max_memory_size(room.memory_bytes)
            .table_elements(table.max(TABLE_ELEMENTS).min(room.table_elements.max(table)))
            .linear_memory_keep_resident(rewritten.unwrap_or(MEMORY_KEPT))
            .table_keep_resident(TABLE_KEPT)
            .pagemap_scan(if rewritten.is_some() { Enabled::No } else { Enabled::Auto })
            .max_unused_warm_slots(room.instances);
        let mut config = config(kind);
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
        Self::with(kind, config)
    }

    fn with(kind: Kind, config: Config) -> Result<Self, Error> {
        let engine = wasmtime::Engine::new(&config)
            .map_err(|error| Error::host(format!("this machine cannot run WebAssembly: {error:#}")))?;
        let ticker = Ticker::new(engine.weak());
        Ok(Self { kind, wasmtime: engine, ticker })
    }

    /// The machine code of an artifact that was not in the cache, and the same loaded.
    pub(crate) fn compile(&self, artifact: &Artifact, cache: Option<&Cache>) -> Result<(Compiled, Loaded), Error> {
        let Some(cache) = cache else { return self.ready(artifact, Compiled::Bytes(self.precompile(artifact)?)) };
        let key = self.key(artifact);
        // Who waited for another to compile it finds it.
        let lock = cache.lock(&key);
        if let Some(kept) = lock.as_ref().and_then(|_| self.find(artifact, cache)).and_then(|kept| self.taken(kept)) {
            return Ok(kept);
        }
        let compiled = self.precompile(artifact)?;
        let compiled = match cache.store(&key, &compiled) {
            // Mapped from the file as at every later start, so that the compiler's memory is given back.
            Ok(file) => Compiled::File(file),
            Err(error) => {
                tracing::warn!("the compiled module is not kept: {error}");
                Compiled::Bytes(compiled)
            }
        };
        self.ready(artifact, compiled)
    }

    /// What the cache has of an artifact.
    pub(crate) fn find(&self, artifact: &Artifact, cache: &Cache) -> Option<Kept> {
        let found = cache.find(&self.key(artifact))?;
        tracing::debug!("`{artifact}` is taken from the cache");
        let needs = found.note.as_deref().and_then(Needs::noted);
        Some(Kept { compiled: Compiled::File(found.file), needs })
    }

    /// Machine code that was in the cache, and the same loaded, if it can be.
    pub(crate) fn taken(&self, kept: Kept) -> Option<(Compiled, Loaded)> {
        match self.load(&kept.compiled) {
            Ok(loaded) => Some((kept.compiled, loaded)),
            Err(error) => {
                tracing::debug!("a cache entry is not used: {error:#}");
                None
            }
        }
    }

    /// Has the cache say from now on what the instances of an artifact need: its pool can be made before it is loaded.
    pub(crate) fn note(&self, artifact: &Artifact, cache: &Cache, needs: &Needs) {
        if let Err(error) = cache.note(&self.key(artifact), &needs.note()) {
            tracing::debug!("what `{artifact}` needs is not kept: {error}");
        }
    }

    /// What was compiled just now, loaded.
    fn ready(&self, artifact: &Artifact, compiled: Compiled) -> Result<(Compiled, Loaded), Error> {
        let loaded = self.load(&compiled).map_err(|error| artifact.damaged(&format!("does not load: {error}")))?;
        Ok((compiled, loaded))
    }

    /// Machine code for this machine.
    pub(crate) fn precompile(&self, artifact: &Artifact) -> Result<Vec<u8>, Error> {
        tracing::debug!("`{artifact}` is compiled");
        let compiled = match self.kind {
            Kind::Modules => self.wasmtime.precompile_module(artifact.bytes()),
            Kind::Threads => {
                let bytes = globals::exported(artifact.bytes());
                if matches!(bytes, Cow::Owned(_)) {
                    // What is wrong is told of the file, and not of what became of it.
                    validate(artifact, Some(self.kind))?;
                }
                self.wasmtime.precompile_module(&bytes)
            }
            Kind::Sequential | Kind::Concurrent => self.wasmtime.precompile_component(artifact.bytes()),
        };
        compiled.map_err(|error| invalid(artifact, &error))
    }

    /// Machine code, ready to be run.
    pub(crate) fn load(&self, compiled: &Compiled) -> wasmtime::Result<Loaded> {
        match self.kind {
            Kind::Modules | Kind::Threads => self.load_module(compiled).map(Loaded::Module),
            Kind::Sequential | Kind::Concurrent => self.load_component(compiled).map(Loaded::Component),
        }
    }

    fn load_module(&self, compiled: &Compiled) -> wasmtime::Result<Module> {
        let module = self.deserialize_module(compiled)?;
        if shared_memory(&module).is_some() == (self.kind == Kind::Threads) {
            return Ok(module);
        }
        Err(wasmtime::Error::msg("it is for another kind of engine"))
    }

    fn deserialize_module(&self, compiled: &Compiled) -> wasmtime::Result<Module> {
        match compiled {
            Compiled::File(file) => {
                let file = file.try_clone()?;
                // SAFETY: who made the `Compiled` vouches for it; wasmtime checks that it is for this engine.
                unsafe { Module::deserialize_open_file(&self.wasmtime, file) }
            }
            // SAFETY: as above.
            Compiled::Bytes(bytes) => unsafe { Module::deserialize(&self.wasmtime, bytes) },
        }
    }

    /// Maps a component; reads it where `/proc` is not there.
    fn load_component(&self, compiled: &Compiled) -> wasmtime::Result<Component> {
        let file = match compiled {
            // SAFETY: who made the `Compiled` vouches for it; wasmtime checks that it is for this engine.
            Compiled::Bytes(bytes) => return unsafe { Component::deserialize(&self.wasmtime, bytes) },
            Compiled::File(file) => file,
        };
        match path_of(file) {
            // SAFETY: as above: it is the same file.
            Some(path) => unsafe { Component::deserialize_file(&self.wasmtime, path) },
            // SAFETY: as above: its bytes are those of the file.
            None => unsafe { Component::deserialize(&self.wasmtime, read(file)?) },
        }
    }

    fn key(&self, artifact: &Artifact) -> String {
        let mut hasher = DefaultHasher::new();
        self.wasmtime.precompile_compatibility_hash().hash(&mut hasher);
        if self.kind == Kind::Threads {
            globals::REVISION.hash(&mut hasher);
        }
        format!("{}-{:016x}", artifact.digest().to_hex(), hasher.finish())
    }
}

/// What a note of needs begins with: another word where they are counted in another way.
const NOTED: &str = "needs-1";

/// What the instances of a pool have.
pub(crate) struct Needs {
    pub(crate) resources: ResourcesRequired,
    /// Each memory that begins with many bytes has most of them written before any function of it is called.
    pub(crate) is_saved: bool,
}

impl Needs {
    /// Of one program, made of this machine code.
    pub(crate) fn new(resources: ResourcesRequired, compiled: &Compiled) -> Self {
        let first = resources.max_initial_memory_size.unwrap_or(0).saturating_mul(WASM_PAGE as u64);
        let is_small = first <= MEMORY_KEPT as u64;
        let is_saved = || compiled.data_bytes().is_some_and(|bytes| bytes >= first / PART_SAVED);
        Self { resources, is_saved: is_small || is_saved() }
    }

    /// As a line, which [`Needs::noted`] takes.
    fn note(&self) -> String {
        let ResourcesRequired { num_memories, max_initial_memory_size, num_tables, max_initial_table_size } =
            self.resources;
        let most = |size: Option<u64>| size.map_or_else(|| "-".to_owned(), |size| size.to_string());
        let (memory, table) = (most(max_initial_memory_size), most(max_initial_table_size));
        format!("{NOTED} {num_memories} {memory} {num_tables} {table} {}", self.is_saved)
    }

    /// From such a line, of this version of anyport or another that counted alike.
    fn noted(line: &str) -> Option<Self> {
        let words: Vec<&str> = line.strip_prefix(NOTED)?.split_whitespace().collect();
        let [num_memories, memory, num_tables, table, is_saved] = words[..] else { return None };
        let most = |word: &str| if word == "-" { Some(None) } else { word.parse().ok().map(Some) };
        let resources = ResourcesRequired {
            num_memories: num_memories.parse().ok()?,
            max_initial_memory_size: most(memory)?,
            num_tables: num_tables.parse().ok()?,
            max_initial_table_size: most(table)?,
        };
        Some(Self { resources, is_saved: is_saved.parse().ok()? })
    }

    /// Those of no program.
    pub(crate) fn none() -> Self {
        let resources = ResourcesRequired {
            num_memories: 0,
            max_initial_memory_size: None,
            num_tables: 0,
            max_initial_table_size: None,
        };
        Self { resources, is_saved: true }
    }

    /// And those of another, either of which may be the next one in a place.
    pub(crate) fn add(&mut self, other: &Self) {
        let (all, Self { resources: other, is_saved }) = (&mut self.resources, other);
        all.num_memories = all.num_memories.max(other.num_memories);
        all.num_tables = all.num_tables.max(other.num_tables);
        all.max_initial_memory_size = all.max_initial_memory_size.max(other.max_initial_memory_size);
        all.max_initial_table_size = all.max_initial_table_size.max(other.max_initial_table_size);
        self.is_saved &= is_saved;
    }
}

/// Bytes of each memory that are written anew when its instance ends; nothing where the places that were written to are
/// looked up.
/// Most have no need of the machine's bytes, which are asked for by reading files.
fn rewritten(needs: &Needs, room: Room, machine_bytes: impl FnOnce() -> u64) -> Option<usize> {
    let Needs { resources, is_saved } = needs;
    // In pages, of the size that nearly all have.
    let first = usize::try_from(resources.max_initial_memory_size?).ok()?.checked_mul(WASM_PAGE)?;
    let fits = *is_saved && first > MEMORY_KEPT && first <= MEMORY_REWRITTEN;
    let memories = u64::from(room.instances).saturating_mul(resources.num_memories.into());
    let all = (first as u64).saturating_mul(memories);
    (room.workers > 1 && fits && all <= machine_bytes() / PART_REWRITTEN).then_some(first)
}

/// The memory for threads that a module is to be given. One of its own would grow without a limit being asked.
pub(crate) fn shared_memory(module: &Module) -> Option<MemoryType> {
    module.imports().find_map(|import| import.ty().memory().filter(|kind| kind.is_shared()).cloned())
}

/// Elements of each table in a pool at least: wasmtime's own.
const TABLE_ELEMENTS: usize = 20_000;

/// What of WebAssembly runs: what wasmtime has by default, said here since who validates must say the same.
fn features(kind: Kind) -> WasmFeatures {
    let mut features = WasmFeatures::WASM3 | WasmFeatures::COMPONENT_MODEL;
    // Each thread would have one more memory, and no limit would count them all. No toolchain makes any.
    features.set(WasmFeatures::MULTI_MEMORY, kind != Kind::Threads);
    features.set(WasmFeatures::CM_ASYNC, kind == Kind::Concurrent);
    features
}

fn config(kind: Kind) -> Config {
    let mut config = Config::new();
    config.epoch_interruption(true);
    config.wasm_features(features(kind), true);
    config.wasm_features(!features(kind), false);
    config.shared_memory(kind == Kind::Threads);
    config.concurrency_support(kind == Kind::Concurrent);
    config
}

impl Compiled {
    /// An artifact that is machine code, which the person said to trust.
    pub(crate) fn trusted(artifact: &Artifact) -> Result<Self, Error> {
        if artifact.kind() != ArtifactKind::Precompiled {
            let what = format!("`{artifact}` is not what `anyport compile` makes, or it is damaged");
            return Err(Error::not_runnable(what).with_hint("compile it again, with `anyport compile`"));
        }
        Ok(Self::Bytes(artifact.bytes().to_vec()))
    }

    /// The kinds of engines that it may be for: the machine code of a component does not say which of them.
    pub(crate) fn kinds(&self) -> &'static [Kind] {
        match self.detect() {
            Some(Precompiled::Component) => &[Kind::Sequential, Kind::Concurrent],
            _ => &[Kind::Modules, Kind::Threads],
        }
    }

    fn detect(&self) -> Option<Precompiled> {
        let bytes = match self {
            Self::Bytes(bytes) => return wasmtime::Engine::detect_precompiled(bytes),
            Self::File(file) => match path_of(file) {
                Some(path) => return wasmtime::Engine::detect_precompiled_file(path).ok()?,
                None => read(file).ok()?,
            },
        };
        wasmtime::Engine::detect_precompiled(&bytes)
    }

    /// Bytes of the memories that are written at the start of an instance, as far as that can be told.
    fn data_bytes(&self) -> Option<u64> {
        /// Where wasmtime keeps them.
        /// <https://docs.rs/wasmtime-environ/48.0.8/wasmtime_environ/obj/constant.ELF_WASM_DATA.html>
        const SECTION: &str = ".rodata.wasm";
        fn size<'f>(bytes: impl ReadRef<'f>) -> Option<u64> {
            let file: ElfFile64<'f, Endianness, _> = ElfFile64::parse(bytes).ok()?;
            file.section_by_name(SECTION).map(|section| section.size())
        }
        match self {
            Self::Bytes(bytes) => size(&bytes[..]),
            Self::File(file) => size(&ReadCache::new(file)),
        }
    }

    /// A file of it: the one that it is in, or one without a name.
    pub(crate) fn into_file(self) -> io::Result<File> {
        match self {
            Self::File(file) => Ok(file),
            Self::Bytes(bytes) => in_memory(&bytes),
        }
    }
}

/// A path for an open file, where `/proc` is there.
fn path_of(file: &File) -> Option<PathBuf> {
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    path.exists().then_some(path)
}

fn read(file: &File) -> io::Result<Vec<u8>> {
    let (mut file, mut bytes) = (file.try_clone()?, Vec::new());
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A file without a name, which is no more when nobody has it open.
fn in_memory(bytes: &[u8]) -> io::Result<File> {
    let mut file = File::from(rustix::fs::memfd_create("anyport", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?);
    file.write_all(bytes)?;
    // Machine code that is mapped must stay as it is.
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(&file, seals)?;
    Ok(file)
}

/// Fails where an artifact would not compile, its functions' bodies included.
pub(crate) fn validate(artifact: &Artifact, kind: Option<Kind>) -> Result<(), Error> {
    let kind = kind.unwrap_or_else(|| match artifact.kind() {
        ArtifactKind::Component => Kind::Concurrent,
        _ => Kind::Modules,
    });
    let validated = Validator::new_with_features(features(kind)).validate_all(artifact.bytes());
    validated.map(drop).map_err(|error| invalid(artifact, &error.into()))
}

fn invalid(artifact: &Artifact, error: &wasmtime::Error) -> Error {
    let what = match artifact.kind() {
        ArtifactKind::Component => "component",
        _ => "module",
    };
    let why = error.root_cause().to_string();
    // The compiler has the offset in front, in decimal; the parser behind, in hexadecimal.
    let why = why
        .strip_prefix("Invalid input WebAssembly code at offset ")
        .and_then(|rest| rest.split_once(": "))
        .and_then(|(offset, message)| Some(format!("{message} (at offset {:#x})", offset.parse::<u64>().ok()?)))
        .unwrap_or(why);
    let error = artifact.damaged(&format!("is not a valid {what}: {why}"));
    if why.starts_with("legacy_exceptions") { error.with_hint(LEGACY) } else { error }
}

/// What compilers made of exceptions before WebAssembly had them, and some still do unless they are told.
const LEGACY: &str = "build it again with `-mllvm -wasm-use-legacy-eh=false`, or convert it with `wasm-opt \
                      --translate-to-exnref`: these exceptions are of before WebAssembly 3.0";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_says_what_is_needed() {
        for line in ["needs-1 2 128 3 - true", "needs-1 0 - 0 20000 false"] {
            assert_eq!(Needs::noted(line).map(|needs| needs.note()).as_deref(), Some(line));
        }
        for other in ["", "needs-1", "needs-2 2 128 3 - true", "needs-1 2 128 3 - true 1", "needs-1 2 -1 3 - true"] {
            assert!(Needs::noted(other).is_none(), "{other}");
        }
    }

    #[test]
    fn memories_are_written_anew_where_there_is_room_for_all_of_them() {
        let needs = |first| {
            let mut needs = Needs::none();
            needs.resources = ResourcesRequired { num_memories: 2, max_initial_memory_size: first, ..needs.resources };
            needs
        };
        let room = Room { workers: 2, instances: 100, memory_bytes: 1 << 30, table_elements: 0 };
        assert_eq!(rewritten(&needs(Some(128)), Room { workers: 1, ..room }, || u64::MAX), None);
        let rewritten = |first, machine_bytes| rewritten(&needs(first), room, || machine_bytes);
        assert_eq!(rewritten(Some(128), 6400 << 20), Some(8 << 20));
        assert_eq!(rewritten(Some(128), (6400 << 20) - 4), None);
        assert_eq!(rewritten(Some(32), u64::MAX), None);
        assert_eq!(rewritten(Some(513), u64::MAX), None);
        assert_eq!(rewritten(None, u64::MAX), None);
    }

    /// A program in C may have a large memory too, for its stack, and writes to a few places of it.
    #[test]
    fn memories_are_written_anew_that_were_saved() {
        let engine = Engine::new(Kind::Modules).expect("an engine");
        let needs = |data: usize| {
            let text = format!("(module (memory 64) (data (i32.const 0) \"{}\"))", "a".repeat(data));
            let artifact = Artifact::from_bytes("test", wat::parse_str(text).expect("it is valid"));
            let Ok(Loaded::Module(module)) = engine.compile(&artifact, None).map(|(_, loaded)| loaded) else {
                panic!("it is a module")
            };
            let compiled = Compiled::Bytes(engine.precompile(&artifact).expect("it is valid"));
            let in_file = Compiled::File(in_memory(&engine.precompile(&artifact).expect("it is valid")).expect("room"));
            [compiled, in_file].map(|compiled| Needs::new(module.resources_required(), &compiled))
        };
        let room = Room { workers: 2, instances: 100, memory_bytes: 1 << 30, table_elements: 0 };
        let rewritten = |needs: &Needs| rewritten(needs, room, || u64::MAX);
        let (saved, plain) = (needs(2 << 20), needs(1 << 20));
        assert_eq!(saved.each_ref().map(rewritten), [Some(4 << 20); 2]);
        assert_eq!(plain.each_ref().map(rewritten), [None; 2]);
        let [mut all, one] = saved;
        all.add(&one);
        assert_eq!(rewritten(&all), Some(4 << 20));
        all.add(&plain[0]);
        assert_eq!(rewritten(&all), None);
    }
}
