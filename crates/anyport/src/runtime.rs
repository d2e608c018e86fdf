//! The door of the library: a runtime loads modules into servers.

use std::fs::File;
use std::sync::Arc;

use wasmtime::Module;

use crate::artifact::{Artifact, ArtifactKind};
use crate::cache::Cache;
use crate::engine::Engine;
use crate::error::Error;
use crate::inspect;
use crate::link;
use crate::server::Server;

/// Compiles and runs modules. Cheap to clone; one for a process is enough.
#[derive(Clone)]
pub struct Runtime {
    engine: Arc<Engine>,
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
    /// This machine is not supported, or has no thread left.
    pub fn build(self) -> Result<Runtime, Error> {
        Ok(Runtime { engine: Arc::new(Engine::new(self.cache)?) })
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
    /// It is not a module, not a valid one, or needs what no dialect has; the message says which.
    pub fn load(&self, artifact: &Artifact) -> Result<Server, Error> {
        inspect::must_run(artifact)?;
        let module = self.engine.compile(artifact)?;
        self.serve(artifact.name(), module)
    }

    /// A server from a file that [`Runtime::precompile`] made.
    ///
    /// Its machine code is run as it is: only for files that nobody else could have written.
    ///
    /// # Errors
    /// It was made by another version, or for another machine.
    pub fn load_precompiled(&self, artifact: &Artifact) -> Result<Server, Error> {
        let module = self.engine.load_trusted(artifact)?;
        self.serve(artifact.name(), module)
    }

    /// Machine code for [`Runtime::load_precompiled`] on this kind of machine.
    ///
    /// # Errors
    /// As [`Runtime::load`].
    pub fn precompile(&self, artifact: &Artifact) -> Result<Vec<u8>, Error> {
        match artifact.kind() {
            ArtifactKind::Precompiled => Err(Error::not_runnable(format!("`{artifact}` is compiled already"))),
            _ => {
                inspect::must_run(artifact)?;
                self.engine.precompile(artifact)
            }
        }
    }

    /// Compiles a module for another process of the same program and machine, which takes the file over
    /// and calls [`Runtime::load_compiled`]: one that may neither read the cache nor write to it.
    ///
    /// The file is open for reading alone. It is the cache's, if there is one and it can be written to; of
    /// processes that compile a module at the same time, one does so, and the others wait for it. Otherwise
    /// it has no name and is in memory.
    ///
    /// # Errors
    /// As [`Runtime::load`].
    pub fn compile(&self, artifact: &Artifact) -> Result<File, Error> {
        inspect::must_run(artifact)?;
        self.engine.compile_to_file(artifact)
    }

    /// A server from a file that [`Runtime::compile`] gave, under a name for messages: what [`Artifact::name`]
    /// was, since it is the guest's name for itself too. No path is opened.
    ///
    /// Its machine code is run as it is: only for files that nobody else could have written.
    ///
    /// # Errors
    /// It was compiled by another version, or for another machine.
    pub fn load_compiled(&self, file: File, name: &str) -> Result<Server, Error> {
        let module = self.engine.load_open(file, name)?;
        self.serve(name, module)
    }

    fn serve(&self, name: &str, module: Module) -> Result<Server, Error> {
        let imports = link::imports_of(&module);
        link::check(name, &imports)?;
        Ok(Server::new(Arc::clone(&self.engine), module, name, &imports))
    }
}
