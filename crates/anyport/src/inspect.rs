//! What a file is, what it needs, who can run it, and how it is run here.

use std::collections::BTreeSet;

use wasmparser::component_types::ComponentEntityType;
use wasmparser::types::{EntityType, Types, TypesRef};
use wasmparser::{BinaryReaderError, Parser, Payload, TypeRef, ValType, ValidPayload, Validator, WasmFeatures};

use crate::artifact::Artifact;
use crate::component::{self, Interfaces, World};
use crate::dialect::Dialect;
use crate::engine::{self, Kind};
use crate::error::{Error, brief, is_printable, printable};
use crate::guest::forking;
use crate::link;

pub use crate::artifact::ArtifactKind;
pub use crate::link::{Import, ImportStatus};

/// What can be said of a file without running it.
#[derive(Clone, Debug, serde::Serialize)]
#[non_exhaustive]
pub struct Inspection {
    /// The file's name, as it can be shown.
    pub name: String,
    /// Its size in bytes.
    pub bytes: usize,
    /// What it is.
    pub kind: ArtifactKind,
    /// The dialects that its imports are of.
    pub dialects: Vec<Dialect>,
    /// What it imports.
    pub imports: Vec<Import>,
    /// What it exports.
    pub exports: Vec<Export>,
    /// What a component is for: the interface that it exports for it.
    pub world: Option<String>,
    /// What it will want to do.
    pub wants: Vec<Want>,
    /// Which of today's runtimes can run it.
    pub runtimes: Vec<Verdict>,
    /// Functions that it imports, and whose calls fail here: nothing is behind them.
    pub not_supported: Vec<String>,
    /// The command to run it; none if it cannot be run.
    pub run: Option<String>,
    /// Why it cannot be run here, in one sentence.
    pub problem: Option<String>,
    /// What to do about it.
    pub hint: Option<String>,
}

/// An export of a module or component.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Export {
    /// Its name.
    pub name: String,
    /// Its type, as [`Import::signature`].
    pub signature: String,
}

/// Something that a module will want to do, as its imports tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Want {
    /// Listen on a port of its choice.
    Listen,
    /// Take connections of a listener that it is handed.
    AcceptPreopened,
    /// Connect to others.
    Connect,
    /// Look names up.
    LookUpNames,
    /// Exchange datagrams.
    Datagrams,
    /// Open files.
    Files,
    /// Answer HTTP requests that it is called with.
    AnswerRequests,
    /// Answer HTTP requests that it is run for: CGI.
    AnswerByCgi,
    /// Send HTTP requests.
    SendRequests,
}

/// Whether a runtime of today can run a module.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Verdict {
    /// Name and version.
    pub runtime: &'static str,
    /// Whether it can.
    pub runs: bool,
    /// Why, or why not.
    pub why: String,
}

impl Inspection {
    /// Looks at an artifact.
    pub fn of(artifact: &Artifact) -> Self {
        let (contents, problem) = match read(artifact) {
            Ok(contents) => {
                let problem =
                    contents.check(artifact).and_then(|()| engine::validate(artifact, kind_of(artifact))).err();
                (contents, problem)
            }
            Err(problem) => (Contents::default(), Some(problem)),
        };
        let mut dialects: Vec<Dialect> = contents.imports.iter().filter_map(Import::dialect).collect();
        dialects.sort();
        dialects.dedup();
        let wants = contents.wants();
        // A file that is damaged is so for every runtime.
        let judged = (contents.is_command() || contents.world.is_some())
            && (problem.is_none() || contents.imports.iter().any(|import| import.dialect().is_none()));
        Self {
            name: artifact.to_string(),
            bytes: artifact.bytes().len(),
            kind: artifact.kind(),
            runtimes: if judged { contents.verdicts(problem.is_none()) } else { Vec::new() },
            run: problem.is_none().then(|| run_line(artifact, &wants)),
            hint: problem.as_ref().and_then(|problem| problem.hint().map(str::to_owned)),
            // One sentence: the imports that follow it are listed already.
            problem: problem.map(|problem| {
                let text = problem.to_string();
                text.lines().next().unwrap_or_default().trim_end_matches(':').to_owned()
            }),
            world: contents.world.map(|world| world.interface().to_owned()),
            not_supported: contents.not_supported(),
            imports: contents.imports,
            exports: contents.exports,
            dialects,
            wants,
        }
    }
}

/// Fails with a sentence where an artifact cannot be run; cheap, before it is compiled. Else for which engines it is.
pub(crate) fn must_run(artifact: &Artifact) -> Result<Kind, Error> {
    read(artifact)?.check(artifact)?;
    kind_of(artifact).ok_or_else(|| artifact.not_wasm())
}

/// For which engines an artifact is, if it can be run at all.
pub(crate) fn kind_of(artifact: &Artifact) -> Option<Kind> {
    recognize(artifact).map(|(kind, _)| kind)
}

/// The same, and the interfaces of a component.
pub(crate) fn recognize(artifact: &Artifact) -> Option<(Kind, Option<Interfaces>)> {
    match artifact.kind() {
        ArtifactKind::Module if imports_shared_memory(artifact.bytes()) => Some((Kind::Threads, None)),
        ArtifactKind::Module => Some((Kind::Modules, None)),
        ArtifactKind::Component => {
            let interfaces = Interfaces::of_bytes(artifact.bytes()).ok()?;
            Some((interfaces.kind(), Some(interfaces)))
        }
        ArtifactKind::NotWasm | ArtifactKind::Precompiled => None,
    }
}

/// Whether a module is given its memory, for threads: the sections behind the imports are not looked at.
fn imports_shared_memory(bytes: &[u8]) -> bool {
    let mut sections = Parser::new(0).parse_all(bytes).map_while(Result::ok);
    let imports = sections.find_map(|payload| match payload {
        Payload::ImportSection(imports) => Some(imports),
        _ => None,
    });
    let mut imports = imports.into_iter().flat_map(|section| section.into_imports()).map_while(Result::ok);
    imports.any(|import| matches!(import.ty, TypeRef::Memory(memory) if memory.shared))
}

/// What the sections of a module or component say.
#[derive(Default)]
struct Contents {
    imports: Vec<Import>,
    exports: Vec<Export>,
    /// Of a component.
    interfaces: Option<Interfaces>,
    world: Option<World>,
    /// It says of itself that it is a CGI program.
    is_cgi: bool,
}

fn read(artifact: &Artifact) -> Result<Contents, Error> {
    match artifact.kind() {
        ArtifactKind::Module => parse(artifact),
        ArtifactKind::NotWasm => Err(artifact.not_wasm()),
        ArtifactKind::Component => parse_component(artifact),
        ArtifactKind::Precompiled => Err(Error::not_runnable(format!(
            "`{artifact}` is machine code, compiled ahead of time, which cannot be checked"
        ))
        .with_hint(format!(
            "if you made it with `anyport compile`, say so: `anyport run --allow-precompiled {artifact}`"
        ))),
    }
}

fn parse(artifact: &Artifact) -> Result<Contents, Error> {
    types_of(artifact.bytes())
        .map(|types| {
            let is_cgi = cgi_dialect(artifact.bytes()).as_deref() == Some("rfc-3875");
            Contents { is_cgi, ..Contents::of(types.as_ref()) }
        })
        .map_err(|error| damaged(artifact, &error, "module"))
}

/// Fails where an artifact says that it is no CGI program of RFC 3875. Whether it runs at all is another matter.
pub(crate) fn may_be_cgi(artifact: &Artifact) -> Result<(), Error> {
    match kind_of(artifact) {
        Some(Kind::Modules | Kind::Threads) | None => {}
        Some(Kind::Sequential | Kind::Concurrent) => return Err(not_for_cgi(artifact.name())),
    }
    match cgi_dialect(artifact.bytes()).as_deref() {
        None | Some("rfc-3875") => Ok(()),
        Some(other) => {
            let other = brief(&printable(other));
            Err(Error::not_runnable(format!(
                "`{artifact}` is a CGI program of the dialect `{other}`, and not of RFC 3875"
            ))
            .with_hint("build it for the dialect `rfc-3875`"))
        }
    }
}

/// CGI is for modules.
pub(crate) fn not_for_cgi(name: &str) -> Error {
    Error::not_runnable(format!("`{}` is a component, and CGI is for modules", printable(name)))
        .with_hint("leave out `--cgi`: `anyport inspect` says how it is run")
}

/// What a module says of itself, as those for Wasmer's first WCGI did. `wcgi` passes requests as JSON in a variable,
/// which no server has done for long.
fn cgi_dialect(bytes: &[u8]) -> Option<String> {
    let mut sections = Parser::new(0).parse_all(bytes).map_while(Result::ok);
    sections.find_map(|payload| match payload {
        Payload::CustomSection(section) if section.name() == "cgi-dialect" => {
            Some(String::from_utf8_lossy(section.data()).into_owned())
        }
        _ => None,
    })
}

fn parse_component(artifact: &Artifact) -> Result<Contents, Error> {
    let bytes = artifact.bytes();
    let contents = types_of(bytes).and_then(|types| {
        let interfaces = Interfaces::of_bytes(bytes)?;
        Ok(Contents::of_component(types.as_ref(), interfaces))
    });
    contents.map_err(|error| damaged(artifact, &error, "component"))
}

fn damaged(artifact: &Artifact, error: &BinaryReaderError, what: &str) -> Error {
    if error.message().contains("unexpected end") {
        artifact.damaged(&format!("is cut off: it ends within a section, at byte {}", artifact.bytes().len()))
    } else {
        artifact.damaged(&format!("is not a valid {what}: {error}"))
    }
}

/// Checks all but the functions' bodies: those are checked when they are compiled.
fn types_of(bytes: &[u8]) -> wasmparser::Result<Types> {
    let mut validator = Validator::new_with_features(WasmFeatures::all());
    let mut depth = 0_usize;
    for payload in Parser::new(0).parse_all(bytes) {
        let payload = payload?;
        let nested = depth;
        match &payload {
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            _ => {}
        }
        if let ValidPayload::End(types) = validator.payload(&payload)?
            && nested == 0
        {
            return Ok(types);
        }
    }
    unreachable!("the parser ends with `End` or with an error")
}

impl Contents {
    fn of(types: TypesRef<'_>) -> Self {
        let imports = types
            .core_imports()
            .into_iter()
            .flatten()
            .map(|(module, name, kind)| Import::resolve(module, name, describe(types, &kind)));
        let exports = types
            .core_exports()
            .into_iter()
            .flatten()
            .map(|(name, kind)| Export { name: printable(name), signature: describe(types, &kind) });
        Self { imports: imports.collect(), exports: exports.collect(), ..Self::default() }
    }

    fn of_component(types: TypesRef<'_>, interfaces: Interfaces) -> Self {
        let export = |name: &String| {
            let kind = types.component_item_for_export(name).map_or("?", |item| describe_item(&item.ty));
            Export { name: printable(name), signature: kind.to_owned() }
        };
        Self {
            imports: interfaces.resolved(),
            exports: interfaces.exports.iter().map(export).collect(),
            world: interfaces.world(),
            interfaces: Some(interfaces),
            is_cgi: false,
        }
    }

    fn exports(&self, name: &str, signature: &str) -> bool {
        self.exports.iter().any(|export| export.name == name && export.signature == signature)
    }

    fn imports(&self, name: &str) -> bool {
        self.imports.iter().any(|import| import.name == name)
    }

    /// Functions that it imports, and whose calls fail.
    fn not_supported(&self) -> Vec<String> {
        let is_given = self.imports.iter().any(|import| import.signature == link::SHARED_MEMORY);
        let has = |(name, parameters): (&str, usize)| self.exports(name, if parameters == 1 { "(i)" } else { "()" });
        let forks = is_given && forking::EXPORTS.into_iter().all(has);
        let fails = |import: &&Import| import.is_absent() || (import.is_fork() && !forks);
        self.imports.iter().filter(fails).map(|import| import.name.clone()).collect()
    }

    fn is_command(&self) -> bool {
        self.exports("_start", "()")
    }

    /// Fails with the first reason for which it cannot be run.
    fn check(&self, artifact: &Artifact) -> Result<(), Error> {
        link::check(artifact.name(), &self.imports)?;
        if let Some(interfaces) = &self.interfaces {
            let served = self.world.is_some();
            return if served { Ok(()) } else { Err(component::not_a_server(artifact.name(), interfaces)) };
        }
        if !self.is_command() {
            return Err(self.not_a_command(artifact));
        }
        let passes_pointers = |import: &Import| !POINTERLESS.contains(&import.name.as_str());
        let is_given = self.imports.iter().any(|import| import.signature == link::SHARED_MEMORY);
        let has_memory = self.exports("memory", "memory") || is_given;
        if self.imports.iter().any(passes_pointers) && !has_memory {
            return Err(Error::not_runnable(format!("`{artifact}` calls the host but exports no memory"))
                .with_hint("export its memory under the name `memory`, as every toolchain does"));
        }
        Ok(())
    }

    fn not_a_command(&self, artifact: &Artifact) -> Error {
        if self.exports.iter().any(|export| export.name.starts_with("__wbindgen")) {
            return Error::not_runnable(format!("`{artifact}` is a wasm-bindgen module, for browsers"))
                .with_hint("rebuild it for `wasm32-wasip1`");
        }
        let (what, hint) = if self.exports("_initialize", "()") {
            (
                "is a reactor: it has functions to call and nothing that runs by itself",
                "build it as a command (a program with `main`)",
            )
        } else if let Some(start) = self.exports.iter().find(|export| export.name == "_start") {
            return Error::not_runnable(format!(
                "`{artifact}` exports a `_start` that cannot be called: it is {}",
                start.signature
            ))
            .with_hint("build it as a command (a program with `main`) for `wasm32-wasip1`");
        } else if self.exports.is_empty() {
            ("is empty: it exports nothing", "build it as a command (a program with `main`)")
        } else {
            (
                "is a library: it exports no `_start`",
                "build it as a command (a program with `main`) for `wasm32-wasip1`",
            )
        };
        Error::not_runnable(format!("`{artifact}` {what}")).with_hint(hint)
    }

    fn wants(&self) -> Vec<Want> {
        if let Some(interfaces) = &self.interfaces {
            return self.wants_of_component(interfaces);
        }
        let mut wants = Vec::new();
        let mut want = |wanted: bool, want: Want| {
            if wanted {
                wants.push(want)
            }
        };
        want(self.is_cgi, Want::AnswerByCgi);
        want(self.imports("sock_listen"), Want::Listen);
        want(link::takes_listeners(&self.imports), Want::AcceptPreopened);
        want(self.imports("sock_connect"), Want::Connect);
        want(self.imports("sock_getaddrinfo"), Want::LookUpNames);
        want(self.imports("sock_send_to") || self.imports("sock_recv_from"), Want::Datagrams);
        want(self.imports("path_open"), Want::Files);
        wants
    }

    fn wants_of_component(&self, interfaces: &Interfaces) -> Vec<Want> {
        let any = |names: &[&str]| names.iter().any(|name| interfaces.imports(name));
        // Of 0.2 and 0.3.
        let sockets = &["wasi:sockets/tcp", "wasi:sockets/types"];
        let is_service = self.world.is_some_and(World::is_http);
        [
            (is_service, Want::AnswerRequests),
            (any(&["wasi:http/outgoing-handler", "wasi:http/client"]), Want::SendRequests),
            (!is_service && any(sockets), Want::Listen),
            (any(sockets), Want::Connect),
            (any(&["wasi:sockets/ip-name-lookup"]), Want::LookUpNames),
            (any(&["wasi:sockets/udp", "wasi:sockets/types"]), Want::Datagrams),
            (any(&["wasi:filesystem/types"]), Want::Files),
        ]
        .into_iter()
        .filter_map(|(wanted, want)| wanted.then_some(want))
        .collect()
    }

    /// Which of today's runtimes have what it imports.
    fn verdicts(&self, here: bool) -> Vec<Verdict> {
        match (&self.interfaces, self.world) {
            (Some(interfaces), Some(world)) => component_verdicts(interfaces, world, here),
            _ => self.module_verdicts(here),
        }
    }

    fn module_verdicts(&self, here: bool) -> Vec<Verdict> {
        let sockets = self.imports.iter().any(|import| import.dialect() == Some(Dialect::WasmEdge));
        let accepts = link::takes_listeners(&self.imports);
        let no = |runtime, why: String| Verdict { runtime, runs: false, why };
        let yes = |runtime, why: &str| Verdict { runtime, runs: true, why: why.to_owned() };
        let preview1 = |runtime, more: &[&str], listeners: Result<&str, &str>| match self.lacks(more) {
            Some(import) => no(runtime, format!("has no {import}")),
            None if sockets => no(runtime, "has no WasmEdge sockets".to_owned()),
            None if accepts => match listeners {
                Ok(how) => yes(runtime, how),
                Err(why) => no(runtime, why.to_owned()),
            },
            None => match self.lacks(&[]) {
                Some(import) if import.module == PREVIEW0 => yes(runtime, "has preview0 too"),
                Some(import) if import.is_of_threads() => yes(runtime, "has threads"),
                Some(_) => yes(runtime, "has WASIX"),
                None => yes(runtime, "needs preview1 alone"),
            },
        };
        let wasmedge = match self.lacks(&[]) {
            Some(import) => no("WasmEdge 0.17", format!("has no {import}")),
            None if accepts => no("WasmEdge 0.17", "hands over no listeners".to_owned()),
            None => yes("WasmEdge 0.17", "has every import"),
        };
        vec![
            if here { yes("anyport", "has every import") } else { no("anyport", "see the problem".to_owned()) },
            preview1("Wasmtime 47 and later", &[PREVIEW0], Err("dropped listeners (`--tcplisten`)")),
            preview1("Wasmtime 36 to 46", &[PREVIEW0, THREADS], Ok("with `-S preview2=n -S tcplisten=ADDR`")),
            wasmedge,
            preview1("Wasmer 7", &["wasix_", PREVIEW0, THREADS], Err("hands over no listeners")),
        ]
    }

    /// The first import that is neither of preview1 or `WasmEdge`, nor one of these: modules by the beginning of
    /// their name, or [`THREADS`].
    fn lacks(&self, others: &[&str]) -> Option<&Import> {
        self.imports.iter().find(|import| {
            let has = |other: &&str| match *other {
                THREADS => import.is_of_threads(),
                module => import.module.starts_with(module),
            };
            let is_elsewhere = matches!(import.dialect(), None | Some(Dialect::Wasix | Dialect::Threads));
            is_elsewhere && !others.iter().any(has)
        })
    }
}

fn component_verdicts(interfaces: &Interfaces, world: World, here: bool) -> Vec<Verdict> {
    let verdict = |runtime, runs, why: &str| Verdict { runtime, runs, why: why.to_owned() };
    let flag_of = |import: &Import| WASMTIME.iter().find(|(package, _)| import.module.starts_with(package));
    let imports = interfaces.resolved();
    let flags: BTreeSet<&str> = imports.iter().filter_map(flag_of).map(|(_, flag)| *flag).collect();
    let how = if world.is_http() { "with `wasmtime serve -S cli" } else { "with `wasmtime run -S inherit-network" };
    let how = flags.iter().fold(how.to_owned(), |how, flag| format!("{how},{flag}")) + "`";
    let has = |import: &Import| match import.dialect() {
        Some(Dialect::WasiLogging) => false,
        Some(_) => true,
        None => flag_of(import).is_some(),
    };
    let foreign = imports.iter().find(|import| !has(import));
    let wasmtime = |runtime, since: Kind| match &foreign {
        Some(import) => verdict(runtime, false, &format!("has no {import}")),
        None if since == Kind::Sequential && interfaces.kind() == Kind::Concurrent => {
            verdict(runtime, false, "has no WASI 0.3")
        }
        None => verdict(runtime, true, &how),
    };
    vec![
        if here { verdict("anyport", true, "has every import") } else { verdict("anyport", false, "see the problem") },
        wasmtime("Wasmtime 46 and later", Kind::Concurrent),
        wasmtime("Wasmtime up to 45", Kind::Sequential),
        verdict("WasmEdge 0.17", false, "runs no components"),
        verdict("Wasmer 7", false, "runs no components"),
    ]
}

/// Drafts that Wasmtime has, by the word behind `-S`.
const WASMTIME: &[(&str, &str)] = &[("wasi:config/", "config"), ("wasi:keyvalue/", "keyvalue"), ("wasi:tls/", "tls")];

/// The module of WASI's first snapshot.
const PREVIEW0: &str = "wasi_unstable";

/// What threads need, of whichever module.
const THREADS: &str = "threads";

/// Hostcalls that pass no pointer, so that a module without memory may call them.
const POINTERLESS: &[&str] = &["proc_exit", "proc_raise", "sched_yield"];

/// The type of an import or export as [`Import::signature`] writes it.
fn describe(types: TypesRef<'_>, kind: &EntityType) -> String {
    match kind {
        EntityType::Func(id) | EntityType::FuncExact(id) => {
            let function = types[*id].unwrap_func();
            let letters = |kinds: &[ValType]| kinds.iter().map(letter).collect::<String>();
            format!("({}){}", letters(function.params()), letters(function.results()))
        }
        EntityType::Memory(memory) if memory.shared => link::SHARED_MEMORY.to_owned(),
        EntityType::Memory(_) => "memory".to_owned(),
        EntityType::Table(_) => "table".to_owned(),
        EntityType::Global(_) => "global".to_owned(),
        EntityType::Tag(_) => "tag".to_owned(),
    }
}

/// What an export of a component is.
fn describe_item(kind: &ComponentEntityType) -> &'static str {
    match kind {
        ComponentEntityType::Module(_) => "module",
        ComponentEntityType::Func(_) => "function",
        ComponentEntityType::Value(_) => "value",
        ComponentEntityType::Type { .. } => "type",
        ComponentEntityType::Instance(_) => "instance",
        ComponentEntityType::Component(_) => "component",
    }
}

fn letter(kind: &ValType) -> char {
    match kind {
        ValType::I32 => 'i',
        ValType::I64 => 'I',
        ValType::F32 => 'f',
        ValType::F64 => 'F',
        ValType::V128 => 'v',
        ValType::Ref(_) => '?',
    }
}

/// The command that runs it, with the port that servers use by default.
fn run_line(artifact: &Artifact, wants: &[Want]) -> String {
    let mut line = "anyport run".to_owned();
    if wants.contains(&Want::AnswerRequests) {
        line.push_str(" -p 8080");
    } else if wants.contains(&Want::AnswerByCgi) {
        line.push_str(" --cgi -p 8080");
    } else if wants.contains(&Want::Listen) || wants.contains(&Want::AcceptPreopened) {
        line.push_str(" -p 8080:8080 -e PORT=8080");
    }
    format!("{line} {}", quoted(artifact.name()))
}

/// A file name as a shell takes it.
fn quoted(name: &str) -> String {
    if name.chars().all(|c| c.is_ascii_alphanumeric() || "/._-+=@%".contains(c)) {
        return name.to_owned();
    }
    if is_printable(name) {
        return format!("'{}'", name.replace('\'', "'\\''"));
    }
    let escaped = |c: char| match c {
        '\'' | '\\' => format!("\\{c}"),
        c if is_printable(c.encode_utf8(&mut [0; 4])) => c.to_string(),
        c => format!("\\U{:08x}", u32::from(c)),
    };
    format!("$'{}'", name.chars().map(escaped).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_takes_a_file_name_for_what_it_is() {
        for (name, want) in [
            ("a/server-1.wasm", "a/server-1.wasm"),
            ("my server.wasm", "'my server.wasm'"),
            ("it's.wasm", "'it'\\''s.wasm'"),
            ("\x1b[2Jit's\\\n.wasm", "$'\\U0000001b[2Jit\\'s\\\\\\U0000000a.wasm'"),
        ] {
            assert_eq!(quoted(name), want);
            let echoed = std::process::Command::new("bash").arg("-c").arg(format!("printf %s {want}")).output();
            // Not every machine has one.
            assert!(echoed.is_err() || echoed.is_ok_and(|echoed| echoed.stdout == name.as_bytes()), "{want}");
        }
    }
}
