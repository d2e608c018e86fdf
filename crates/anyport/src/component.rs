//! What a component is for, and what it needs: its imports and exports, by the names of their interfaces.

use wasmparser::{Chunk, Parser, Payload};
use wasmtime::component::{Component, Linker};

use crate::dialect::{self, Dialect};
use crate::engine::Kind;
use crate::error::{Error, printable};
use crate::guest::Guest;
use crate::link::{Import, ImportStatus};

/// What a component does when it is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum World {
    /// It runs by itself: `wasi:cli/run` 0.2.
    Command02,
    /// `wasi:cli/run` 0.3.
    Command03,
    /// It is called with each request: `wasi:http/incoming-handler` 0.2.
    Http02,
    /// `wasi:http/handler` 0.3.
    Http03,
}

impl World {
    /// Whether it is called with each request, and does not run by itself.
    pub(crate) fn is_http(self) -> bool {
        matches!(self, Self::Http02 | Self::Http03)
    }

    /// The interface that it exports for that.
    pub(crate) fn interface(self) -> &'static str {
        match self {
            Self::Command02 => "wasi:cli/run@0.2",
            Self::Command03 => "wasi:cli/run@0.3",
            Self::Http02 => "wasi:http/incoming-handler@0.2",
            Self::Http03 => "wasi:http/handler@0.3",
        }
    }
}

/// The names of what a component imports and exports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Interfaces {
    pub(crate) imports: Vec<String>,
    pub(crate) exports: Vec<String>,
}

/// What decides on a component's world, the first that it exports.
const WORLDS: &[(&str, &str, World)] = &[
    ("wasi:http/handler", "0.3", World::Http03),
    ("wasi:http/incoming-handler", "0.2", World::Http02),
    ("wasi:cli/run", "0.3", World::Command03),
    ("wasi:cli/run", "0.2", World::Command02),
];

impl Interfaces {
    /// Those of a component's bytes, whose validity is another matter. What is nested in it, which is nearly all of it,
    /// is not looked at.
    pub(crate) fn of_bytes(bytes: &[u8]) -> wasmparser::Result<Self> {
        let mut interfaces = Self::default();
        let (mut parser, mut rest) = (Parser::new(0), bytes);
        loop {
            // Nothing else is there once all bytes are.
            let Chunk::Parsed { consumed, payload } = parser.parse(rest, true)? else { return Ok(interfaces) };
            rest = rest.get(consumed..).unwrap_or_default();
            match payload {
                Payload::ModuleSection { parser: nested, unchecked_range }
                | Payload::ComponentSection { parser: nested, unchecked_range } => {
                    match bytes.get(unchecked_range.end..) {
                        Some(behind) => rest = behind,
                        // Its parser says where the bytes end.
                        None => parser = nested,
                    }
                }
                Payload::ComponentImportSection(section) => {
                    for import in section {
                        interfaces.imports.push(import?.name.name.to_owned());
                    }
                }
                Payload::ComponentExportSection(section) => {
                    for export in section {
                        interfaces.exports.push(export?.name.name.to_owned());
                    }
                }
                Payload::End(_) => return Ok(interfaces),
                _ => {}
            }
        }
    }

    /// Those of a compiled component.
    pub(crate) fn of(component: &Component) -> Self {
        let (kind, engine) = (component.component_type(), component.engine());
        Self {
            imports: kind.imports(engine).map(|(name, _)| name.to_owned()).collect(),
            exports: kind.exports(engine).map(|(name, _)| name.to_owned()).collect(),
        }
    }

    /// What the component does when it is run; none for a library.
    pub(crate) fn world(&self) -> Option<World> {
        let exports = |name: &str, version: &str| self.exports.iter().any(|export| is(export, name, version));
        WORLDS.iter().find(|(name, version, _)| exports(name, version)).map(|(_, _, world)| *world)
    }

    /// The engines that can run it.
    pub(crate) fn kind(&self) -> Kind {
        let is_concurrent = |name: &String| version_of(name).is_some_and(|version| version.starts_with("0.3."));
        if self.imports.iter().chain(&self.exports).any(is_concurrent) { Kind::Concurrent } else { Kind::Sequential }
    }

    /// Whether it imports an interface, of any version.
    pub(crate) fn imports(&self, interface: &str) -> bool {
        self.imports.iter().any(|import| without_version(import) == interface)
    }

    /// What it imports, each resolved.
    pub(crate) fn resolved(&self) -> Vec<Import> {
        self.imports.iter().map(|name| resolve(name)).collect()
    }
}

fn resolve(interface: &str) -> Import {
    let found = dialect::INTERFACES.iter().find(|(name, version, _)| is(interface, name, version));
    let status = match found {
        Some((_, _, dialect)) => ImportStatus::Found { dialect: *dialect },
        None => match other_versions(interface) {
            shapes if shapes.is_empty() => ImportStatus::Missing { owner: owner_of(interface).map(str::to_owned) },
            shapes => ImportStatus::OtherShape { shapes },
        },
    };
    Import { module: printable(interface), name: String::new(), signature: "instance".to_owned(), status }
}

/// The versions that there are of an interface.
fn other_versions(interface: &str) -> Vec<String> {
    let same = |(name, _, _): &&(&str, &str, Dialect)| *name == without_version(interface);
    let version = |version: &str| {
        if version.is_empty() { "one without a version".to_owned() } else { format!("version {version}") }
    };
    dialect::INTERFACES.iter().filter(same).map(|(_, known, _)| version(known)).collect()
}

/// Whether a name is of this interface, in a version that is compatible with this one: as semver has it, and
/// `0.2` fits every 0.2.x.
fn is(name: &str, interface: &str, version: &str) -> bool {
    if without_version(name) != interface {
        return false;
    }
    match version_of(name) {
        None => version.is_empty(),
        Some(found) => {
            let rest = found.strip_prefix(version);
            rest.is_some_and(|rest| rest.is_empty() || (version.matches('.').count() == 1 && rest.starts_with('.')))
        }
    }
}

fn without_version(name: &str) -> &str {
    name.split_once('@').map_or(name, |(interface, _)| interface)
}

fn version_of(name: &str) -> Option<&str> {
    name.split_once('@').map(|(_, version)| version)
}

/// A handler that calls the next one.
const MIDDLEWARE: &str = "use as middleware, in front of another handler";

/// Packages that are known from elsewhere, by their beginning, with whose they are.
const OWNERS: &[(&str, &str)] = &[
    ("wasi:http/handler@", MIDDLEWARE),
    ("wasi:http/incoming-handler@", MIDDLEWARE),
    ("wasi:config/", "an older draft of wasi:config, of which `wasi:config/store@0.2.0-rc.1` is here"),
    ("wasi:keyvalue/", "wasi:keyvalue, a store that Spin and wasmCloud have"),
    ("wasi:blobstore/", "wasi:blobstore, a store that wasmCloud has"),
    ("wasi:messaging/", "wasi:messaging, which wasmCloud has"),
    ("wasi:tls/", "wasi:tls, a draft that `wasmtime run -S tls` has"),
    ("wasi:nn/", "wasi:nn (Wasmtime and WasmEdge with a plugin)"),
    ("wasi:webgpu/", "wasi:webgpu, a draft"),
    ("wasi:gfx/", "wasi:gfx, a draft"),
    ("wasi:otel/", "wasi:otel, a draft that Spin has"),
    ("wasi:", "WASI, in a version or a draft that is not known here"),
    ("fermyon:spin/", "Spin 2 and 3"),
    ("spin:", "Spin"),
    ("fastly:", "Fastly Compute"),
    ("wasmcloud:", "wasmCloud"),
    ("golem:", "Golem"),
    ("componentize-js:", "ComponentizeJS"),
];

fn owner_of(interface: &str) -> Option<&'static str> {
    OWNERS.iter().find(|(owner, _)| interface.starts_with(owner)).map(|(_, whose)| *whose)
}

/// The error for a component that nothing calls.
pub(crate) fn not_a_server(name: &str, interfaces: &Interfaces) -> Error {
    let exports: Vec<String> =
        interfaces.exports.iter().take(4).map(|export| format!("`{}`", printable(export))).collect();
    let what = match exports.as_slice() {
        [] => "it exports nothing".to_owned(),
        exports => format!("it exports {}", exports.join(", ")),
    };
    Error::not_runnable(format!(
        "`{}` is a component that neither runs by itself nor serves HTTP: {what}",
        printable(name)
    ))
    .with_hint("build it for the world `wasi:cli/command`, `wasi:http/proxy` (0.2) or `wasi:http/service` (0.3)")
}

type Add = fn(&mut Linker<Guest>) -> wasmtime::Result<()>;

/// How the interfaces of each dialect are defined.
const ADDED: [(Dialect, Add); 8] = [
    (Dialect::Wasi02, dialect::wasi::add_02),
    (Dialect::WasiSockets02, dialect::wasi_sockets::add_02),
    (Dialect::WasiHttp02, dialect::wasi_http::add_02),
    (Dialect::WasiConfig, dialect::wasi_config::add),
    (Dialect::WasiLogging, dialect::wasi_logging::add),
    (Dialect::Wasi03, dialect::wasi::add_03),
    (Dialect::WasiSockets03, dialect::wasi_sockets::add_03),
    (Dialect::WasiHttp03, dialect::wasi_http::add_03),
];

/// All of the dialects that a component imports from: the others would cost its start time.
pub(crate) fn linker(component: &Component) -> wasmtime::Result<Linker<Guest>> {
    let imports = Interfaces::of(component).resolved();
    let mut linker = Linker::new(component.engine());
    for (dialect, add) in ADDED {
        if imports.iter().any(|import| import.dialect() == Some(dialect)) {
            add(&mut linker)?;
        }
    }
    Ok(linker)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_fits_its_compatible_versions() {
        for (name, version, fits) in [
            ("wasi:cli/run@0.2.0", "0.2", true),
            ("wasi:cli/run@0.2.12", "0.2", true),
            ("wasi:cli/run@0.3.2", "0.2", false),
            ("wasi:cli/run@0.20.0", "0.2", false),
            ("wasi:cli/run", "0.2", false),
            ("wasi:cli/run@0.2.0-rc-2023-12-05", "0.2", true),
        ] {
            assert_eq!(is(name, "wasi:cli/run", version), fits, "{name} {version}");
        }
        assert!(is("wasi:logging/logging", "wasi:logging/logging", ""));
        assert!(is("wasi:config/store@0.2.0-rc.1", "wasi:config/store", "0.2.0-rc.1"));
    }

    #[test]
    fn what_is_nested_is_passed_over() {
        let inner = "(component $inner (import \"a:b/inner@0.3.0\" (instance)))";
        let text = format!("(component (core module (func)) {inner} (import \"a:b/outer@0.2.0\" (instance)))");
        let bytes = wat::parse_str(text).expect("it is valid");
        let interfaces = Interfaces::of_bytes(&bytes).expect("it is valid");
        assert_eq!(interfaces.imports, ["a:b/outer@0.2.0"]);
        for cut in 9..bytes.len() {
            // Whole sections may be missing: then it is another component, and no more is known.
            let known = Interfaces::of_bytes(&bytes[..cut]);
            assert!(known.is_err() || known.is_ok_and(|known| known.imports.len() <= 1), "{cut}");
        }
        let within = bytes.windows(5).position(|name| name == b"inner").expect("it is there");
        assert!(Interfaces::of_bytes(&bytes[..within]).is_err());
    }

    #[test]
    fn the_first_of_what_it_exports_decides() {
        let world = |exports: &[&str]| {
            let exports = exports.iter().map(|&name| name.to_owned()).collect();
            Interfaces { exports, ..Interfaces::default() }.world()
        };
        assert_eq!(world(&["wasi:cli/run@0.2.3", "wasi:http/incoming-handler@0.2.3"]), Some(World::Http02));
        assert_eq!(world(&["wasi:http/handler@0.3.0"]), Some(World::Http03));
        assert_eq!(world(&["wasi:cli/run@0.3.2"]), Some(World::Command03));
        assert_eq!(world(&["run"]), None);
    }

    /// The list that messages and DIALECTS.md are made of, against what can be linked.
    #[test]
    fn every_interface_of_the_list_is_there() {
        for (interface, version, _) in dialect::INTERFACES {
            let full = match *version {
                "" => (*interface).to_owned(),
                "0.2" | "0.3" => format!("{interface}@{version}.0"),
                exact => format!("{interface}@{exact}"),
            };
            let engine = crate::engine::Engine::new(Kind::Concurrent).unwrap_or_else(|error| panic!("{error}"));
            let text = format!("(component (import \"{full}\" (instance)))");
            let bytes = wat::parse_str(&text).expect("it is valid");
            let component = Component::new(&engine.wasmtime, bytes).expect("it is valid");
            let linker = linker(&component).expect("no name is defined twice");
            linker.instantiate_pre(&component).unwrap_or_else(|error| panic!("{full}: {error:#}"));
        }
    }
}
