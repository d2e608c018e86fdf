//! What an artifact becomes: something that can be instantiated, with what it takes to do so.

use std::sync::Arc;

use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use wasmtime::component::Component;
use wasmtime::{ExternType, InstancePre, MemoryType, Module, SharedMemory, Store};
use wasmtime_wasi::{p2, p3};
use wasmtime_wasi_http::p2::bindings::ProxyPre;
use wasmtime_wasi_http::p3::bindings::ServicePre;

use crate::cgi::Script;
use crate::component::{self, Interfaces, World};
use crate::dialect::preview1::process::Exit;
use crate::directory::Directory;
use crate::engine::{self, Compiled, Engine, Kind, Loaded, Needs, Room};
use crate::error::{Error, printable};
use crate::guest::{Abi, Generation, Guest, forking};
use crate::link::{self, Import, Links};
use crate::memory::Given;
use crate::spelling::option;

/// A program that can be started.
pub(crate) enum Program {
    /// A core module.
    Module { parts: Arc<Parts>, generation: Generation, takes_listeners: bool, has_no_sockets: bool },
    /// A component that runs by itself, of WASI 0.2.
    Command02(p2::bindings::CommandPre<Guest>),
    /// The same of WASI 0.3.
    Command03(p3::bindings::CommandPre<Guest>),
    /// A component that is called with each request.
    Service(Service),
    /// Modules that are run for each request.
    Scripts(Scripts),
}

/// What a core module is instantiated of.
pub(crate) struct Parts {
    module: Module,
    links: Links,
    pub(crate) abi: Abi,
    /// The function that its first thread begins with.
    entrypoint: String,
}

/// A component that serves requests, up to its pool of instances, whose size is not known before it starts.
pub(crate) struct Service {
    compiled: Compiled,
    pub(crate) needs: Needs,
    pub(crate) world: World,
}

/// Modules that answer requests by CGI, up to their pool of instances.
pub(crate) struct Scripts {
    all: Vec<Loose>,
    needs: Needs,
}

/// One of them.
struct Loose {
    name: String,
    script: Script,
    compiled: Compiled,
    abi: Abi,
    imports: Vec<Import>,
    kind: Kind,
}

/// What answers requests.
pub(crate) enum Handler {
    /// Of `wasi:http` 0.2.
    Of02(ProxyPre<Guest>),
    /// Of 0.3.
    Of03(ServicePre<Guest>),
    /// CGI.
    Cgi(Arc<Commands>),
}

/// Modules that can be instantiated for requests.
pub(crate) struct Commands {
    pub(crate) list: Vec<Command>,
    /// Where those run whose threads share a memory, if there is one.
    pub(crate) crews: Option<Crews>,
    /// Arguments behind a program's name.
    pub(crate) args: Vec<String>,
}

/// One of them, with all that its guests are given.
pub(crate) struct Command {
    pub(crate) name: String,
    pub(crate) script: Script,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) directories: Vec<Directory>,
    pub(crate) parts: Arc<Parts>,
    /// It runs on the engine for threads.
    pub(crate) shares_memory: bool,
}

/// An engine for threads, and what their sockets and timers are waited for with.
pub(crate) struct Crews {
    pub(crate) engine: Arc<Engine>,
    runtime: Option<Runtime>,
}

impl Program {
    /// What was loaded, with its imports found.
    pub(crate) fn new(name: &str, compiled: Compiled, loaded: Loaded) -> Result<Self, Error> {
        match loaded {
            Loaded::Module(module) => {
                let imports = link::imports_of(&module);
                link::check(name, &imports)?;
                Self::of_module(name, module, &imports)
            }
            Loaded::Component(component) => Self::of_component(name, compiled, &component),
        }
    }

    fn of_module(name: &str, module: Module, imports: &[Import]) -> Result<Self, Error> {
        let abi = abi_of(&module, imports);
        Ok(Self::Module {
            parts: Arc::new(Parts::new(name, module, imports, abi, "_start".to_owned())?),
            generation: link::generation_of(imports),
            takes_listeners: link::takes_listeners(imports),
            has_no_sockets: link::has_no_sockets(imports),
        })
    }

    /// A service whose needs are known: it is loaded once, where its pool is.
    pub(crate) fn of_service(
        name: &str, compiled: Compiled, needs: Needs, interfaces: &Interfaces,
    ) -> Result<Self, Error> {
        let world = Self::world(name, interfaces)?;
        Ok(Self::Service(Service { compiled, needs, world }))
    }

    /// What a component does, if all that it wants is there.
    fn world(name: &str, interfaces: &Interfaces) -> Result<World, Error> {
        link::check(name, &interfaces.resolved())?;
        interfaces.world().ok_or_else(|| component::not_a_server(name, interfaces))
    }

    fn of_component(name: &str, compiled: Compiled, component: &Component) -> Result<Self, Error> {
        let world = Self::world(name, &Interfaces::of(component))?;
        if world.is_http() {
            let needs = component.resources_required().ok_or_else(|| mismatched(name, "it imports a module"))?;
            let needs = Needs::new(needs, &compiled);
            return Ok(Self::Service(Service { compiled, needs, world }));
        }
        let linker = component::linker(component)
            .map_err(|error| Error::host(format!("the hostcalls cannot be defined: {error:#}")))?;
        let instantiate = || {
            let ready = linker.instantiate_pre(component)?;
            Ok(match world {
                World::Command03 => Self::Command03(p3::bindings::CommandPre::new(ready)?),
                _ => Self::Command02(p2::bindings::CommandPre::new(ready)?),
            })
        };
        instantiate().map_err(|error: wasmtime::Error| mismatched(name, format!("{error:#}")))
    }

    /// Runs it to its end.
    pub(crate) async fn run(&self, store: &mut Store<Guest>) -> wasmtime::Result<()> {
        let ended = match self {
            Self::Module { parts, .. } => return parts.run(store).await,
            Self::Command02(command) => {
                let command = command.instantiate_async(&mut *store).await?;
                command.wasi_cli_run().call_run(store).await?
            }
            Self::Command03(command) => {
                let command = command.instantiate_async(&mut *store).await?;
                store.run_concurrent(async |store| command.wasi_cli_run().call_run(store).await).await??
            }
            Self::Service(_) | Self::Scripts(_) => {
                return Err(wasmtime::Error::msg("a service does not run by itself"));
            }
        };
        // `wasi:cli/run`: a failure, without a number.
        ended.map_err(|()| Exit(1).into())
    }

    /// What the threads of a module with a memory that they share are made of.
    pub(crate) fn threads(&self) -> Option<&Arc<Parts>> {
        match self {
            Self::Module { parts, .. } if parts.abi.has_threads && engine::shared_memory(&parts.module).is_some() => {
                Some(parts)
            }
            _ => None,
        }
    }

    /// What a module's imports say beside their types.
    pub(crate) fn abi(&self) -> Abi {
        match self {
            Self::Module { parts, .. } => parts.abi,
            _ => Abi::default(),
        }
    }

    /// The memory that a guest is given where it brings none, of at most so many bytes.
    pub(crate) fn memory(&self, engine: &Engine, most: usize) -> Result<Given, Error> {
        match self {
            Self::Module { parts, .. } => parts.memory(engine, most),
            _ => Ok(Given::None),
        }
    }

    /// Which generation of `WasmEdge`'s sockets it speaks.
    pub(crate) fn generation(&self) -> Generation {
        match self {
            Self::Module { generation, .. } => *generation,
            _ => Generation::NotWasmEdge,
        }
    }

    /// Whether it waits for listeners to be handed to it.
    pub(crate) fn takes_listeners(&self) -> bool {
        match self {
            Self::Module { takes_listeners, .. } => *takes_listeners,
            Self::Service(_) | Self::Scripts(_) => true,
            Self::Command02(_) | Self::Command03(_) => false,
        }
    }

    /// Whether it is called with each request.
    pub(crate) fn is_service(&self) -> bool {
        matches!(self, Self::Service(_) | Self::Scripts(_))
    }

    /// Whether it can have no clients: it has no hostcall for it.
    pub(crate) fn has_no_sockets(&self) -> bool {
        matches!(self, Self::Module { has_no_sockets: true, .. })
    }

    /// Whether it is run for each request.
    pub(crate) fn is_cgi(&self) -> bool {
        matches!(self, Self::Scripts(_))
    }
}

/// What a module's imports and exports say beside their types.
fn abi_of(module: &Module, imports: &[Import]) -> Abi {
    let abi = link::abi_of(imports);
    let exports = |(name, parameters)| match module.get_export(name) {
        Some(ExternType::Func(kind)) => kind.params().len() == parameters && kind.results().len() == 0,
        _ => false,
    };
    let forks = abi.forks && engine::shared_memory(module).is_some() && forking::EXPORTS.into_iter().all(exports);
    // It lives as one with threads, whether it starts any or not: so do the processes that it forks.
    Abi { forks, has_threads: abi.has_threads || forks, ..abi }
}

impl Scripts {
    /// None yet.
    pub(crate) fn new() -> Self {
        Self { all: Vec::new(), needs: Needs::none() }
    }

    /// Adds a module whose imports are all there.
    pub(crate) fn add(&mut self, name: &str, script: Script, compiled: Compiled, module: &Module) -> Result<(), Error> {
        let shown = printable(name);
        if let Some(twin) = self.all.iter().find(|other| other.script.route == script.route) {
            let what = format!("`{}` and `{shown}` are both for `{}`", printable(&twin.name), script.route);
            return Err(Error::host(what).with_hint("give one of them another route"));
        }
        let imports = link::imports_of(module);
        link::check(name, &imports)?;
        if link::serves_by_itself(&imports) {
            tracing::warn!("`{shown}` serves a port by itself: if it is no CGI program, leave out `--cgi`");
        }
        let is_callable = matches!(module.get_export(&script.entrypoint), Some(ExternType::Func(kind))
            if kind.params().len() == 0 && kind.results().len() == 0);
        if !is_callable {
            let entrypoint = printable(&script.entrypoint);
            return Err(Error::not_runnable(format!(
                "`{shown}` exports no function `{entrypoint}` without parameters"
            ))
            .with_hint("build it as a command (a program with `main`) for `wasm32-wasip1`"));
        }
        let abi = abi_of(module, &imports);
        if engine::shared_memory(module).is_some() {
            if abi.blocks {
                return Err(Error::not_runnable(format!(
                    "`{shown}` waits for its threads by instructions of its own, which no time limit of a request ends"
                ))
                .with_hint("build it with the libc of WASIX, or without threads for `wasm32-wasip1`"));
            }
            // It lives as one that starts some, whether it does or not, and on threads of the host that are its own:
            // what its libc does not do, it may do itself, and who waits by an instruction is to hold up nobody else.
            let abi = Abi { has_threads: true, blocks: true, ..abi };
            self.all.push(Loose { name: name.to_owned(), script, compiled, abi, imports, kind: Kind::Threads });
            return Ok(());
        }
        self.needs.add(&Needs::new(module.resources_required(), &compiled));
        self.all.push(Loose { name: name.to_owned(), script, compiled, abi, imports, kind: Kind::Modules });
        Ok(())
    }

    /// Makes their pool: an engine, and what is instantiated there, with what the server gives all of them.
    pub(crate) fn pool(
        self, plain: &Engine, room: Room, args: &[String], env: &[(String, String)], directories: &[Directory],
    ) -> Result<(Arc<Engine>, Handler), Error> {
        let engine = Arc::new(pooled(plain, &self.needs, room)?);
        let crews = self.all.iter().any(|loose| loose.kind == Kind::Threads).then(Crews::new).transpose()?;
        let mut list = Vec::with_capacity(self.all.len());
        for Loose { name, script, compiled, abi, imports, kind } in self.all {
            let engine = match (kind, &crews) {
                (Kind::Threads, Some(crews)) => &crews.engine,
                _ => &engine,
            };
            let module = match engine.load(&compiled) {
                Ok(Loaded::Module(module)) => module,
                Ok(Loaded::Component(_)) => return Err(mismatched(&name, "it is no module")),
                Err(error) => return Err(mismatched(&name, format!("{error:#}"))),
            };
            // What is set for all, unless it is set for this one.
            let is_other = |(name, _): &&(String, String)| !script.env.iter().any(|(own, _)| own == name);
            let env = env.iter().filter(is_other).chain(&script.env).cloned().collect();
            let directories = directories.iter().chain(&script.directories).cloned().collect();
            let parts = Arc::new(Parts::new(&name, module, &imports, abi, script.entrypoint.clone())?);
            list.push(Command { name, script, env, directories, parts, shares_memory: kind == Kind::Threads });
        }
        let args = args.iter().skip(1).cloned().collect();
        Ok((engine, Handler::Cgi(Arc::new(Commands { list, crews, args }))))
    }
}

impl Crews {
    fn new() -> Result<Self, Error> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("anyport-guests")
            .enable_all()
            .build();
        let runtime =
            runtime.map_err(|error| Error::host(format!("the guests' threads cannot be started: {error}")))?;
        let engine = Arc::new(Engine::new(Kind::Threads)?);
        engine.ticker.start()?;
        Ok(Self { engine, runtime: Some(runtime) })
    }

    /// Begins the life of a guest there.
    pub(crate) fn spawn<T: Send + 'static>(
        &self, life: impl Future<Output = T> + Send + 'static,
    ) -> Option<JoinHandle<T>> {
        self.runtime.as_ref().map(|runtime| runtime.spawn(life))
    }
}

impl Drop for Crews {
    fn drop(&mut self) {
        // Wherever that is: it waits for nobody.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Commands {
    /// The one for this path, of those that could be it the one that says the most of it.
    pub(crate) fn find(&self, path: &str) -> Option<usize> {
        let fitting = self.list.iter().enumerate().filter(|(_, command)| command.script.route.has(path));
        fitting.max_by_key(|(_, command)| command.script.route.weight()).map(|(place, _)| place)
    }
}

/// An engine with a pool, where there is room for one.
fn pooled(plain: &Engine, needs: &Needs, room: Room) -> Result<Engine, Error> {
    Engine::pooled(plain.kind, needs, room).or_else(|error| {
        // A pool reserves 4 GiB of addresses for each memory, which is more than some processes may.
        tracing::warn!("instances are made one by one, which is slower: {error}");
        Engine::new(plain.kind)
    })
}

impl Parts {
    fn new(name: &str, module: Module, imports: &[Import], abi: Abi, entrypoint: String) -> Result<Self, Error> {
        let links = Links::new(&module, imports).map_err(|error| mismatched(name, format!("{error:#}")))?;
        Ok(Self { module, links, abi, entrypoint })
    }

    /// The memory that a guest is given where it brings none, of at most so many bytes.
    pub(crate) fn memory(&self, engine: &Engine, most: usize) -> Result<Given, Error> {
        let Some(kind) = engine::shared_memory(&self.module) else { return Ok(Given::None) };
        let fails = |why: String| Error::host(format!("the guest's memory cannot be made: {why}"));
        let (least, most) = (kind.minimum(), most as u64 / kind.page_size());
        if least > most {
            let more = option("memory", format!("{}m", (least * kind.page_size()).div_ceil(1 << 20)));
            return Err(
                fails(format!("it begins with {least} pages and may have {most}")).with_hint(format!("add `{more}`"))
            );
        }
        // No growth of a shared memory is asked for: its most is the limit.
        let most = kind.maximum().unwrap_or(most).min(most);
        let pages = |pages: u64| u32::try_from(pages).map_err(|_| fails("it is too large".to_owned()));
        let kind = MemoryType::shared(pages(least)?, pages(most)?);
        let memory = SharedMemory::new(&engine.wasmtime, kind).map_err(|error| fails(format!("{error:#}")))?;
        Ok(Given::Shared(Arc::new(memory)))
    }

    /// Runs it to the end.
    pub(crate) async fn run(&self, store: &mut Store<Guest>) -> wasmtime::Result<()> {
        let instance = self.links.instantiate(store, &self.module).await?;
        if matches!(store.data().memory, Given::None) {
            store.data_mut().memory = instance.get_memory(&mut *store, "memory").map_or(Given::None, Given::Own);
        }
        let start = instance.get_typed_func::<(), ()>(&mut *store, &self.entrypoint)?;
        start.call_async(store, ()).await
    }

    /// What each thread of a guest is instantiated of.
    pub(crate) fn ready(&self, first: &Store<Guest>) -> wasmtime::Result<InstancePre<Guest>> {
        self.links.ready(first, &self.module)
    }
}

impl Service {
    /// Makes its pool: an engine, and what is instantiated there.
    pub(crate) fn pool(&self, plain: &Engine, name: &str, room: Room) -> Result<(Arc<Engine>, Handler), Error> {
        let engine = pooled(plain, &self.needs, room)?;
        let handler = || {
            let Loaded::Component(component) = engine.load(&self.compiled)? else {
                return Err(wasmtime::Error::msg("it is no component"));
            };
            let ready = component::linker(&component)?.instantiate_pre(&component)?;
            Ok(match self.world {
                World::Http03 => Handler::Of03(ServicePre::new(ready)?),
                _ => Handler::Of02(ProxyPre::new(ready)?),
            })
        };
        let handler = handler().map_err(|error| mismatched(name, format!("{error:#}")))?;
        Ok((Arc::new(engine), handler))
    }
}

/// The error for a component whose imports have other types than those of their names.
fn mismatched(name: &str, why: impl AsRef<str>) -> Error {
    Error::not_runnable(format!("`{}` cannot be linked: {}", printable(name), printable(why.as_ref())))
        .with_hint("build it again with a current toolchain: it has interfaces that no release of WASI has")
}
