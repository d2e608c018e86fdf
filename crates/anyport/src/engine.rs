//! From bytes to machine code: wasmtime's settings, the compile cache, the epoch ticks.
//!
//! `unsafe` here: machine code that is read from a file cannot be checked, so whoever
//! hands it over has to vouch for it.
#![allow(unsafe_code, reason = "loading machine code is unsafe; each block says why it may")]

use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Weak};
use std::thread::{self, Thread};
use std::time::Duration;

use rustix::fs::{MemfdFlags, SealFlags};
use wasmtime::{Config, Linker, Module};

use crate::artifact::{Artifact, ArtifactKind};
use crate::cache::Cache;
use crate::dialect::{TABLES, hostcall};
use crate::error::{Error, printable};
use crate::guest::Guest;

/// How long a guest computes before the poller, its timers and its end get their turn.
const TICK: Duration = Duration::from_millis(10);

/// Ticks without any guest at work after which the ticking rests: an idle server uses no CPU.
const IDLE_TICKS: u32 = 10;

/// The engine, its hostcalls, and where compiled modules are kept.
pub(crate) struct Engine {
    pub(crate) wasmtime: wasmtime::Engine,
    pub(crate) linker: Linker<Guest>,
    cache: Option<Cache>,
    pub(crate) ticker: Arc<Ticker>,
}

/// What became of a module.
enum Compiled {
    /// It is in a file of the cache, from where it is mapped.
    Kept { file: File, module: Module },
    /// It is in no file.
    Loose(Vec<u8>),
}

impl Engine {
    pub(crate) fn new(cache: Option<Cache>) -> Result<Self, Error> {
        let mut config = Config::new();
        config.epoch_interruption(true);
        let engine = wasmtime::Engine::new(&config)
            .map_err(|error| Error::host(format!("this machine cannot run WebAssembly: {error:#}")))?;
        let linker = hostcall::linker(&engine, TABLES)
            .map_err(|error| Error::host(format!("the hostcalls cannot be defined: {error:#}")))?;
        let ticker = Ticker::start(engine.weak())?;
        Ok(Self { wasmtime: engine, linker, cache, ticker })
    }

    /// The module, compiled or from the cache.
    pub(crate) fn compile(&self, artifact: &Artifact) -> Result<Module, Error> {
        let Some(cache) = &self.cache else { return self.compile_anew(artifact) };
        match self.keep(cache, artifact)? {
            // Mapped from the file as at every later start, so that the compiler's memory is given back.
            Compiled::Kept { module, .. } => Ok(module),
            Compiled::Loose(compiled) => {
                // SAFETY: this engine made these bytes just now.
                unsafe { Module::deserialize(&self.wasmtime, &compiled) }.map_err(|error| invalid(artifact, &error))
            }
        }
    }

    /// The file of the compiled module, for [`Engine::load_open`]: of the cache, or one without a name.
    pub(crate) fn compile_to_file(&self, artifact: &Artifact) -> Result<File, Error> {
        let compiled = match &self.cache {
            Some(cache) => self.keep(cache, artifact)?,
            None => Compiled::Loose(self.precompile(artifact)?),
        };
        match compiled {
            Compiled::Kept { file, .. } => Ok(file),
            Compiled::Loose(compiled) => in_memory(&compiled)
                .map_err(|error| Error::host(format!("the compiled `{artifact}` cannot be kept in memory: {error}"))),
        }
    }

    /// Takes a module from the cache, where it is put if it is not there.
    fn keep(&self, cache: &Cache, artifact: &Artifact) -> Result<Compiled, Error> {
        let key = self.key(artifact);
        let found = || {
            let kept = cache.find(&key).and_then(|file| self.load_cached(file));
            kept.inspect(|_| tracing::debug!("`{artifact}` is taken from the cache"))
        };
        if let Some(kept) = found() {
            return Ok(kept);
        }
        // Who waited for another to compile it finds it.
        let lock = cache.lock(&key);
        if let Some(kept) = lock.as_ref().and_then(|_| found()) {
            return Ok(kept);
        }
        let compiled = self.precompile(artifact)?;
        let kept = match cache.store(&key, &compiled) {
            Ok(file) => self.load_cached(file),
            Err(error) => {
                tracing::warn!("the compiled module is not kept: {error}");
                None
            }
        };
        Ok(kept.unwrap_or(Compiled::Loose(compiled)))
    }

    /// Machine code for this machine, to be loaded with [`Engine::load_trusted`].
    pub(crate) fn precompile(&self, artifact: &Artifact) -> Result<Vec<u8>, Error> {
        tracing::debug!("`{artifact}` is compiled");
        self.wasmtime.precompile_module(artifact.bytes()).map_err(|error| invalid(artifact, &error))
    }

    /// An ahead-of-time artifact, which the person said to trust.
    pub(crate) fn load_trusted(&self, artifact: &Artifact) -> Result<Module, Error> {
        if artifact.kind() != ArtifactKind::Precompiled {
            let what = format!("`{artifact}` is not what `anyport compile` makes, or it is damaged");
            return Err(Error::not_runnable(what).with_hint("compile it again, with `anyport compile`"));
        }
        // SAFETY: the person vouched for this file by an explicit flag (`--allow-precompiled`);
        // wasmtime checks that it is for this engine and version.
        unsafe { Module::deserialize(&self.wasmtime, artifact.bytes()) }.map_err(|error| {
            Error::not_runnable(format!("`{artifact}` was compiled for another engine or machine: {error:#}"))
                .with_hint("compile it here, with `anyport compile`")
        })
    }

    /// A module that another process compiled into the file that it hands over.
    pub(crate) fn load_open(&self, file: File, name: &str) -> Result<Module, Error> {
        // SAFETY: who calls this vouches for the file; wasmtime checks that it is for this engine and version.
        unsafe { Module::deserialize_open_file(&self.wasmtime, file) }.map_err(|error| {
            let name = printable(name);
            Error::not_runnable(format!("`{name}` was compiled by another version, or is damaged: {error:#}"))
        })
    }

    fn load_cached(&self, file: File) -> Option<Compiled> {
        let mapped = file.try_clone().map_err(wasmtime::Error::from).and_then(|file| {
            // SAFETY: the file is in a folder that only this user can write to, and its content is what
            // this user's anyport wrote there: `Cache::find` compared its digest.
            unsafe { Module::deserialize_open_file(&self.wasmtime, file) }
        });
        match mapped {
            Ok(module) => Some(Compiled::Kept { file, module }),
            Err(error) => {
                tracing::debug!("a cache entry is not used: {error:#}");
                None
            }
        }
    }

    fn compile_anew(&self, artifact: &Artifact) -> Result<Module, Error> {
        tracing::debug!("`{artifact}` is compiled");
        Module::new(&self.wasmtime, artifact.bytes()).map_err(|error| invalid(artifact, &error))
    }

    fn key(&self, artifact: &Artifact) -> String {
        let mut hasher = DefaultHasher::new();
        self.wasmtime.precompile_compatibility_hash().hash(&mut hasher);
        format!("{}-{:016x}", artifact.digest().to_hex(), hasher.finish())
    }
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

/// Fails where a module would not compile, its functions' bodies included.
pub(crate) fn validate(artifact: &Artifact) -> Result<(), Error> {
    Module::validate(&wasmtime::Engine::default(), artifact.bytes()).map_err(|error| invalid(artifact, &error))
}

fn invalid(artifact: &Artifact, error: &wasmtime::Error) -> Error {
    let why = error.root_cause().to_string();
    // The compiler has the offset in front, in decimal; the parser behind, in hexadecimal.
    let why = why
        .strip_prefix("Invalid input WebAssembly code at offset ")
        .and_then(|rest| rest.split_once(": "))
        .and_then(|(offset, message)| Some(format!("{message} (at offset {:#x})", offset.parse::<u64>().ok()?)))
        .unwrap_or(why);
    artifact.damaged(&format!("is not a valid module: {why}"))
}

/// Advances the engine's epoch from a thread of its own, so that no guest can stall another, nor the
/// timers, nor its own end. Rests while no guest is at work.
pub(crate) struct Ticker {
    /// Guests that live, whatever they do.
    alive: AtomicUsize,
    /// Guests that are computing right now.
    running: AtomicUsize,
    /// Counts the times that a guest began to.
    resumed: AtomicU64,
    resting: AtomicBool,
    thread: Thread,
}

/// A guest is computing for as long as this is held.
pub(crate) struct Running<'a>(&'a Ticker);

/// A guest lives for as long as this is held.
pub(crate) struct Alive<'a>(&'a Ticker);

impl Ticker {
    fn start(engine: wasmtime::EngineWeak) -> Result<Arc<Self>, Error> {
        let (sender, receiver) = sync_channel::<Weak<Self>>(1);
        let thread = thread::Builder::new()
            .name("anyport-ticker".to_owned())
            .spawn(move || {
                if let Ok(ticker) = receiver.recv() {
                    tick(&engine, &ticker);
                }
            })
            .map_err(|error| Error::host(format!("the ticker thread cannot be started: {error}")))?;
        let ticker = Arc::new(Self {
            alive: AtomicUsize::new(0),
            running: AtomicUsize::new(0),
            resumed: AtomicU64::new(0),
            resting: AtomicBool::new(false),
            thread: thread.thread().clone(),
        });
        // The receiver is there until it has received.
        let _ = sender.send(Arc::downgrade(&ticker));
        Ok(ticker)
    }

    /// A guest begins its life.
    pub(crate) fn live(&self) -> Alive<'_> {
        self.alive.fetch_add(1, Ordering::Relaxed);
        Alive(self)
    }

    /// Whether a guest that lives is the only one.
    pub(crate) fn has_one_guest(&self) -> bool {
        self.alive.load(Ordering::Relaxed) == 1
    }

    /// A guest begins to compute.
    pub(crate) fn run(&self) -> Running<'_> {
        self.running.fetch_add(1, Ordering::SeqCst);
        self.resumed.fetch_add(1, Ordering::SeqCst);
        if self.resting.load(Ordering::SeqCst) {
            self.thread.unpark();
        }
        Running(self)
    }

    /// Whether nothing has computed since `seen`.
    fn is_idle_since(&self, seen: u64) -> bool {
        self.running.load(Ordering::SeqCst) == 0 && self.resumed.load(Ordering::SeqCst) == seen
    }
}

impl Drop for Alive<'_> {
    fn drop(&mut self) {
        self.0.alive.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.thread.unpark();
    }
}

/// Ticks until the ticker is dropped.
fn tick(engine: &wasmtime::EngineWeak, ticker: &Weak<Ticker>) {
    let mut seen = 0;
    let mut idle_ticks = 0;
    loop {
        thread::sleep(TICK);
        let (Some(engine), Some(ticker_now)) = (engine.upgrade(), ticker.upgrade()) else { return };
        engine.increment_epoch();
        if !ticker_now.is_idle_since(seen) {
            seen = ticker_now.resumed.load(Ordering::SeqCst);
            idle_ticks = 0;
            continue;
        }
        idle_ticks += 1;
        if idle_ticks < IDLE_TICKS {
            continue;
        }
        // Says so first and looks again after: whoever begins in between either is seen or wakes us.
        ticker_now.resting.store(true, Ordering::SeqCst);
        drop((engine, ticker_now));
        while ticker.upgrade().is_some_and(|ticker| ticker.is_idle_since(seen)) {
            thread::park();
        }
        let Some(ticker_now) = ticker.upgrade() else { return };
        ticker_now.resting.store(false, Ordering::SeqCst);
        idle_ticks = 0;
    }
}
