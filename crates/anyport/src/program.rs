//! What an artifact becomes: something that can be instantiated, with what it takes to do so.

use std::sync::Arc;

use wasmtime::ResourcesRequired;
use wasmtime::component::Component;
use wasmtime::{Linker, Module, Store};
use wasmtime_wasi::{p2, p3};
use wasmtime_wasi_http::p2::bindings::ProxyPre;
use wasmtime_wasi_http::p3::bindings::ServicePre;

use crate::component::{self, Interfaces, World};
use crate::dialect::hostcall;
use crate::dialect::preview1::process::Exit;
use crate::engine::{Compiled, Engine, Loaded, Room};
use crate::error::{Error, printable};
use crate::guest::{Generation, Guest};
use crate::link::{self, Import};

/// A program that can be started.
pub(crate) enum Program {
    /// A core module.
    Module { module: Module, linker: Box<Linker<Guest>>, generation: Generation, takes_listeners: bool },
    /// A component that runs by itself, of WASI 0.2.
    Command02(p2::bindings::CommandPre<Guest>),
    /// The same of WASI 0.3.
    Command03(p3::bindings::CommandPre<Guest>),
    /// A component that is called with each request.
    Service(Service),
}

/// A component that serves requests, up to its pool of instances, whose size is not known before it starts.
pub(crate) struct Service {
    compiled: Compiled,
    needs: ResourcesRequired,
    pub(crate) world: World,
}

/// A component that can be instantiated for requests.
pub(crate) enum Handler {
    /// Of `wasi:http` 0.2.
    Of02(ProxyPre<Guest>),
    /// Of 0.3.
    Of03(ServicePre<Guest>),
}

impl Program {
    /// What was loaded, with its imports found.
    pub(crate) fn new(engine: &Engine, name: &str, compiled: Compiled, loaded: Loaded) -> Result<Self, Error> {
        match loaded {
            Loaded::Module(module) => {
                let imports = link::imports_of(&module);
                link::check(name, &imports)?;
                Self::of_module(engine, module, &imports)
            }
            Loaded::Component(component) => Self::of_component(engine, name, compiled, &component),
        }
    }

    fn of_module(engine: &Engine, module: Module, imports: &[Import]) -> Result<Self, Error> {
        let linker = hostcall::linker(&engine.wasmtime)
            .map_err(|error| Error::host(format!("the hostcalls cannot be defined: {error:#}")))?;
        Ok(Self::Module {
            module,
            linker: Box::new(linker),
            generation: link::generation_of(imports),
            takes_listeners: link::takes_listeners(imports),
        })
    }

    fn of_component(engine: &Engine, name: &str, compiled: Compiled, component: &Component) -> Result<Self, Error> {
        let interfaces = Interfaces::of(component);
        link::check(name, &interfaces.resolved())?;
        let world = interfaces.world().ok_or_else(|| component::not_a_server(name, &interfaces))?;
        if world.is_http() {
            let needs = component.resources_required().ok_or_else(|| mismatched(name, "it imports a module"))?;
            return Ok(Self::Service(Service { compiled, needs, world }));
        }
        let linker = component::linker(&engine.wasmtime, engine.kind)
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
            Self::Module { module, linker, .. } => {
                let instance = link::instantiate(linker, store, module).await?;
                store.data_mut().memory = instance.get_memory(&mut *store, "memory");
                let start = instance.get_typed_func::<(), ()>(&mut *store, "_start")?;
                return start.call_async(store, ()).await;
            }
            Self::Command02(command) => {
                let command = command.instantiate_async(&mut *store).await?;
                command.wasi_cli_run().call_run(store).await?
            }
            Self::Command03(command) => {
                let command = command.instantiate_async(&mut *store).await?;
                store.run_concurrent(async |store| command.wasi_cli_run().call_run(store).await).await??
            }
            Self::Service(_) => return Err(wasmtime::Error::msg("a service does not run by itself")),
        };
        // `wasi:cli/run`: a failure, without a number.
        ended.map_err(|()| Exit(1).into())
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
            Self::Service(_) => true,
            Self::Command02(_) | Self::Command03(_) => false,
        }
    }

    /// Whether it is called with each request.
    pub(crate) fn is_service(&self) -> bool {
        matches!(self, Self::Service(_))
    }
}

impl Service {
    /// Makes its pool: an engine, and what is instantiated there.
    pub(crate) fn pool(&self, plain: &Engine, name: &str, room: Room) -> Result<(Arc<Engine>, Handler), Error> {
        let engine = Engine::pooled(plain.kind, &self.needs, room).or_else(|error| {
            // A pool reserves 4 GiB of addresses for each memory, which is more than some processes may.
            tracing::warn!("instances are made one by one, which is slower: {error}");
            Engine::new(plain.kind)
        })?;
        let handler = || {
            let Loaded::Component(component) = engine.load(&self.compiled)? else {
                return Err(wasmtime::Error::msg("it is no component"));
            };
            let ready = component::linker(&engine.wasmtime, engine.kind)?.instantiate_pre(&component)?;
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
