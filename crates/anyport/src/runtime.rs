//! The door of the library: a runtime loads modules and components into servers.

use std::fs::File;
use std::sync::{Arc, Mutex};

use wasmtime::Module;

use crate::artifact::{Artifact, ArtifactKind};
use crate::cache::Cache;
use crate::cgi::Script;
use crate::component::Interfaces;
use crate::engine::{Compiled, Engine, Kept, Kind, Loaded};
use crate::error::{Error, printable};
use crate::inspect;
use crate::program::{Program, Scripts};
use crate::server::Server;

/// Compiles and runs modules and components. Cheap to clone; one for a process is enough.
#[derive(Clone)]
pub struct Runtime {
    cache: Option<Cache>,
    /// Made when something needs them.
    engines: Arc<Mutex<Vec<Arc<Engine>>>>,
}

/// Makes a [`Runtime`]. By default nothing is cached.
#[derive(Debug, Default)]
pub struct RuntimeBuilder {
    cache: Option<Cache>,
}

impl RuntimeBuilder {
    /// Keeps compiled modules in this cache, and takes them from there.
    #[must_use]
    pub fn cache(mut self, cache: Cache) -> Self {
        self.cache = Some(cache);
        self
    }

    /// Makes the runtime.
    ///
    /// # Errors
    /// None for now: what a machine cannot do is told when something is loaded.
    pub fn build(self) -> Result<Runtime, Error> {
        Ok(Runtime { cache: self.cache, engines: Arc::default() })
    }
}

impl Runtime {
    /// A builder with the defaults.
    pub fn builder() -> RuntimeBuilder {
        RuntimeBuilder::default()
    }

    /// A server from an artifact: compiled, or taken from the cache, and its imports found.
    ///
    /// # Errors
    /// It is neither a module nor a component, not a valid one, or needs what no dialect has; the message says which.
    pub fn load(&self, artifact: &Artifact) -> Result<Server, Error> {
        if let Some(server) = self.load_cached(artifact)? {
            return Ok(server);
        }
        let (engine, compiled, loaded) = self.compiled_anew(artifact)?;
        self.server(engine, artifact, compiled, loaded)
    }

    /// The same without compiling anything, which may take long: none where the artifact is not in the cache.
    ///
    /// # Errors
    /// As [`Runtime::load`].
    pub fn load_cached(&self, artifact: &Artifact) -> Result<Option<Server>, Error> {
        let Some(Cached { engine, kept, interfaces }) = self.cached(artifact)? else { return Ok(None) };
        if let Kept { compiled, needs: Some(needs) } = kept {
            // Noted of services alone, which have interfaces.
            let program = Program::of_service(artifact.name(), compiled, needs, &interfaces.unwrap_or_default())?;
            return Ok(Some(Server::new(engine, program, artifact.name())));
        }
        let Some((compiled, loaded)) = engine.taken(kept) else { return Ok(None) };
        self.server(engine, artifact, compiled, loaded).map(Some)
    }

    /// A server of what was loaded; what need not be loaded for the next time is noted.
    fn server(
        &self, engine: Arc<Engine>, artifact: &Artifact, compiled: Compiled, loaded: Loaded,
    ) -> Result<Server, Error> {
        let program = Program::new(artifact.name(), compiled, loaded)?;
        if let (Some(cache), Program::Service(service)) = (&self.cache, &program) {
            engine.note(artifact, cache, &service.needs);
        }
        Ok(Server::new(engine, program, artifact.name()))
    }

    /// A server that answers each HTTP request by running a module: CGI (RFC 3875). Of several modules each has a route
    /// of its own. `name` is the server's in messages.
    ///
    /// # Errors
    /// There is none, one is no module that [`Runtime::load`] would take for a command, or two have one route.
    pub fn load_cgi(&self, name: &str, programs: Vec<(Artifact, Script)>) -> Result<Server, Error> {
        let engine = self.engine(Kind::Modules)?;
        let mut scripts = Scripts::new();
        if programs.is_empty() {
            return Err(Error::host(format!("`{}` names no program", printable(name))));
        }
        for (artifact, script) in programs {
            let (compiled, module) = self.module(&artifact, script.is_precompiled)?;
            scripts.add(artifact.name(), script, compiled, &module)?;
        }
        Ok(Server::new(engine, Program::Scripts(scripts), name))
    }

    /// The module of an artifact; nothing else will do.
    fn module(&self, artifact: &Artifact, is_precompiled: bool) -> Result<(Compiled, Module), Error> {
        let (compiled, loaded) = if is_precompiled {
            let compiled = Compiled::trusted(artifact)?;
            let (_, loaded) = self.taken(&compiled).map_err(|error| compiled_elsewhere(artifact, &error))?;
            (compiled, loaded)
        } else {
            inspect::may_be_cgi(artifact)?;
            let (_, compiled, loaded) = self.compiled(artifact)?;
            (compiled, loaded)
        };
        match loaded {
            Loaded::Module(module) => Ok((compiled, module)),
            Loaded::Component(_) => Err(inspect::not_for_cgi(artifact.name())),
        }
    }

    /// A server from a file that [`Runtime::precompile`] made.
    ///
    /// Its machine code is run as it is: only for files that nobody else could have written.
    ///
    /// # Errors
    /// It was made by another version, or for another machine.
    pub fn load_precompiled(&self, artifact: &Artifact) -> Result<Server, Error> {
        let compiled = Compiled::trusted(artifact)?;
        self.serve(artifact.name(), compiled, |error| compiled_elsewhere(artifact, error))
    }

    /// Machine code for [`Runtime::load_precompiled`] on this kind of machine.
    ///
    /// # Errors
    /// As [`Runtime::load`].
    pub fn precompile(&self, artifact: &Artifact) -> Result<Vec<u8>, Error> {
        match artifact.kind() {
            ArtifactKind::Precompiled => Err(Error::not_runnable(format!("`{artifact}` is compiled already"))),
            _ => self.engine(inspect::must_run(artifact)?)?.precompile(artifact),
        }
    }

    /// Compiles an artifact for another process of the same program and machine, which takes the file over
    /// and calls [`Runtime::load_compiled`]: one that may neither read the cache nor write to it.
    ///
    /// The file is open for reading alone. It is the cache's, if there is one and it can be written to; of
    /// processes that compile a module at the same time, one does so, and the others wait for it. Otherwise
    /// it has no name and is in memory.
    ///
    /// # Errors
    /// As [`Runtime::load`].
    pub fn compile(&self, artifact: &Artifact) -> Result<File, Error> {
        let (_, compiled, _) = self.compiled(artifact)?;
        compiled
            .into_file()
            .map_err(|error| Error::host(format!("the compiled `{artifact}` cannot be kept in memory: {error}")))
    }

    /// A server from a file that [`Runtime::compile`] gave, under a name for messages: what [`Artifact::name`]
    /// was, since it is the guest's name for itself too. No path is opened but the file's own below `/proc`.
    ///
    /// Its machine code is run as it is: only for files that nobody else could have written.
    ///
    /// # Errors
    /// It was compiled by another version, or for another machine.
    pub fn load_compiled(&self, file: File, name: &str) -> Result<Server, Error> {
        self.serve(name, Compiled::File(file), |error| of_another_version(name, error))
    }

    /// The same of a module that answers requests by CGI, as [`Runtime::load_cgi`] has it, with a route for all.
    ///
    /// # Errors
    /// As [`Runtime::load_compiled`]; or it is no module for CGI.
    pub fn load_compiled_cgi(&self, file: File, name: &str) -> Result<Server, Error> {
        let compiled = Compiled::File(file);
        let (_, loaded) = self.taken(&compiled).map_err(|error| of_another_version(name, &error))?;
        let Loaded::Module(module) = loaded else { return Err(inspect::not_for_cgi(name)) };
        let mut scripts = Scripts::new();
        scripts.add(name, Script::default(), compiled, &module)?;
        Ok(Server::new(self.engine(Kind::Modules)?, Program::Scripts(scripts), name))
    }

    /// The machine code of an artifact, which is checked unless it is in the cache: then it was before.
    fn compiled(&self, artifact: &Artifact) -> Result<(Arc<Engine>, Compiled, Loaded), Error> {
        if let Some(Cached { engine, kept, .. }) = self.cached(artifact)?
            && let Some((compiled, loaded)) = engine.taken(kept)
        {
            return Ok((engine, compiled, loaded));
        }
        self.compiled_anew(artifact)
    }

    fn compiled_anew(&self, artifact: &Artifact) -> Result<(Arc<Engine>, Compiled, Loaded), Error> {
        let engine = self.engine(inspect::must_run(artifact)?)?;
        let (compiled, loaded) = engine.compile(artifact, self.cache.as_ref())?;
        Ok((engine, compiled, loaded))
    }

    /// What the cache has of an artifact.
    fn cached(&self, artifact: &Artifact) -> Result<Option<Cached>, Error> {
        let Some(cache) = &self.cache else { return Ok(None) };
        let Some((kind, interfaces)) = inspect::recognize(artifact) else { return Ok(None) };
        let engine = self.engine(kind)?;
        Ok(engine.find(artifact, cache).map(|kept| Cached { engine, kept, interfaces }))
    }

    /// A server of machine code that somebody vouched for.
    fn serve(
        &self, name: &str, compiled: Compiled, refuse: impl Fn(&wasmtime::Error) -> Error,
    ) -> Result<Server, Error> {
        let (engine, loaded) = self.taken(&compiled).map_err(|error| refuse(&error))?;
        Ok(Server::new(engine, Program::new(name, compiled, loaded)?, name))
    }

    /// The first engine that takes machine code, and the same loaded there.
    fn taken(&self, compiled: &Compiled) -> wasmtime::Result<(Arc<Engine>, Loaded)> {
        let mut refused = None;
        for kind in compiled.kinds() {
            let engine = self.engine(*kind).map_err(wasmtime::Error::msg)?;
            match engine.load(compiled) {
                Ok(loaded) => return Ok((engine, loaded)),
                Err(error) => refused = refused.or(Some(error)),
            }
        }
        Err(refused.unwrap_or_else(|| wasmtime::Error::msg("no engine takes it")))
    }

    fn engine(&self, kind: Kind) -> Result<Arc<Engine>, Error> {
        let mut engines = self.engines.lock().expect("no panic while held");
        if let Some(engine) = engines.iter().find(|engine| engine.kind == kind) {
            return Ok(Arc::clone(engine));
        }
        let engine = Arc::new(Engine::new(kind)?);
        engines.push(Arc::clone(&engine));
        Ok(engine)
    }
}

/// What the cache has of an artifact.
struct Cached {
    engine: Arc<Engine>,
    kept: Kept,
    /// Of a component.
    interfaces: Option<Interfaces>,
}

fn of_another_version(name: &str, error: &wasmtime::Error) -> Error {
    let name = printable(name);
    Error::not_runnable(format!("`{name}` was compiled by another version, or is damaged: {error:#}"))
}

fn compiled_elsewhere(artifact: &Artifact, error: &wasmtime::Error) -> Error {
    Error::not_runnable(format!("`{artifact}` was compiled for another engine or machine: {error:#}"))
        .with_hint("compile it here, with `anyport compile`")
}
