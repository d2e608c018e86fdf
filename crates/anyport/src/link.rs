//! From a module's imports to hostcalls: each import by its own name and type.
//!
//! All misses are collected and told together: what is missing, which shapes there are, and whose it
//! is. `anyport inspect` shows the same.

use std::collections::HashMap;
use std::fmt;

use wasmtime::{Extern, ExternType, Instance, InstancePre, Linker, Module, Store};

use crate::dialect::hostcall::{Row, Table, signature_of};
use crate::dialect::{Dialect, TABLES, wasmedge};
use crate::error::{Error, brief, printable};
use crate::guest::{Abi, Generation, Guest};
use crate::memory::Given;

/// An import: of a module, its type written as `(iii)i`, where `i` is i32, `I` i64, `f` f32, `F` f64; or an interface
/// of a component, which has no field name.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Import {
    /// The module name.
    pub module: String,
    /// The field name.
    pub name: String,
    /// The type of a function; what it is, for anything else.
    pub signature: String,
    /// Who can give it.
    #[serde(flatten)]
    pub status: ImportStatus,
}

/// Whether an import can be had here.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case", tag = "status")]
#[non_exhaustive]
pub enum ImportStatus {
    /// A hostcall of this dialect.
    Found {
        /// Which.
        dialect: Dialect,
    },
    /// The name is known with other types.
    OtherShape {
        /// The types it has here, each with its dialect.
        shapes: Vec<String>,
    },
    /// The name is not known.
    Missing {
        /// What gives it elsewhere, if that is known.
        owner: Option<String>,
    },
}

impl Import {
    /// Resolves an import by its name and type.
    pub(crate) fn resolve(module: &str, name: &str, signature: String) -> Self {
        let status = match find(module, name, &signature) {
            Some((table, _)) => ImportStatus::Found { dialect: table.dialect },
            None if (module, name, &*signature) == ("env", "memory", SHARED_MEMORY) => {
                ImportStatus::Found { dialect: Dialect::Threads }
            }
            None => miss(module, name),
        };
        Self { module: printable(module), name: printable(name), signature, status }
    }

    /// Whether every kind of threads needs it: the shared memory, and how a thread is started.
    pub(crate) fn is_of_threads(&self) -> bool {
        matches!((self.module.as_str(), self.name.as_str()), ("env", "memory") | ("wasi", "thread-spawn"))
    }

    /// Whether it is there so that the guest links, and its calls fail.
    pub(crate) fn is_absent(&self) -> bool {
        find(&self.module, &self.name, &self.signature).is_some_and(|(_, row)| row.is_absent)
    }

    /// Whether it forks, which a module must be made ready for.
    pub(crate) fn is_fork(&self) -> bool {
        self.name == "proc_fork" && self.dialect() == Some(Dialect::Wasix)
    }

    /// The dialect that gives it, if one does.
    pub(crate) fn dialect(&self) -> Option<Dialect> {
        match self.status {
            ImportStatus::Found { dialect } => Some(dialect),
            _ => None,
        }
    }
}

/// As a line of a message: what is very long is cut.
impl fmt::Display for Import {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [module, name, signature] = [&self.module, &self.name, &self.signature].map(|text| brief(text));
        if name.is_empty() {
            f.write_str(&module)
        } else if signature.starts_with('(') {
            write!(f, "{module}::{name}{signature}")
        } else {
            write!(f, "{signature} {module}::{name}")
        }
    }
}

/// The type of a memory that threads share, as [`Import::signature`] has it.
pub(crate) const SHARED_MEMORY: &str = "shared memory";

/// What a module's imports say of it beside their own types.
pub(crate) fn abi_of(imports: &[Import]) -> Abi {
    let starts =
        |import: &Import| import.dialect().is_some() && import.name.replace('-', "_").starts_with("thread_spawn");
    Abi {
        is_wasix: imports.iter().any(|import| import.dialect() == Some(Dialect::Wasix)),
        has_threads: imports.iter().any(starts),
        // The libraries of WASIX wait by a hostcall, those of wasi-threads by an instruction.
        blocks: !imports.iter().any(|import| import.name == "futex_wait"),
        forks: imports.iter().any(Import::is_fork),
    }
}

/// Which generation of `WasmEdge`'s sockets a module speaks, as far as its imports tell.
pub(crate) fn generation_of(imports: &[Import]) -> Generation {
    if !imports.iter().any(|import| import.dialect() == Some(Dialect::WasmEdge)) {
        return Generation::NotWasmEdge;
    }
    let is_new = |import: &Import| wasmedge::is_since_0_10(&import.name, &import.signature);
    if imports.iter().any(is_new) { Generation::Since0_10 } else { Generation::Untold }
}

/// The row for an import.
pub(crate) fn find(module: &str, name: &str, signature: &str) -> Option<(&'static Table, &'static Row)> {
    rows().find(|(table, row)| table.module == module && row.name == name && row.signature() == signature)
}

/// Every row with its table.
pub(crate) fn rows() -> impl Iterator<Item = (&'static Table, &'static Row)> {
    TABLES.iter().flat_map(|table| table.rows().map(move |row| (table, row)))
}

fn miss(module: &str, name: &str) -> ImportStatus {
    let shapes: Vec<String> = rows()
        .filter(|(table, row)| table.module == module && row.name == name)
        .map(|(table, row)| format!("{} ({})", row.signature(), table.dialect))
        .collect();
    if shapes.is_empty() {
        ImportStatus::Missing { owner: owner_of(module, name).map(str::to_owned) }
    } else {
        ImportStatus::OtherShape { shapes }
    }
}

/// Names of host modules that are known from elsewhere, by their beginning, with whose they are.
const OWNERS: &[(&str, &str)] = &[
    ("wasix_32v1", "another version of WASIX"),
    ("wasix_64v1", "WASIX with 64-bit memory, which no toolchain makes"),
    ("wasi", "wasi-threads (Wasmtime up to 46)"),
    ("wasi_unstable", "WASI preview0, of before 2020"),
    ("wasi_ephemeral_crypto", "the crypto plugin of WasmEdge"),
    ("wasi_ephemeral_nn", "wasi-nn (the plugin of WasmEdge)"),
    ("wasmedge_", "a plugin of WasmEdge"),
    ("rustls_client", "the TLS client plugin of WasmEdge 0.13 and 0.14"),
    ("wbg", "browsers (wasm-bindgen)"),
    ("__wbindgen", "browsers (wasm-bindgen)"),
    ("gojs", "browsers (Go's `GOOS=js`)"),
    ("go", "browsers (Go's `GOOS=js`)"),
    ("fastly_", "Fastly Compute"),
    ("spin", "Spin 1"),
    ("wasi_experimental_http", "Spin 1 and WAGI"),
    ("wapc", "waPC (wasmCloud up to 0.8)"),
    ("lunatic", "Lunatic"),
    ("http_handler", "http-wasm"),
    ("extism", "Extism"),
    ("env", "an embedder of its own (AssemblyScript and Emscripten name it so)"),
];

fn owner_of(module: &str, name: &str) -> Option<&'static str> {
    if (module, name) == ("env", "memory") {
        return Some("a host that gives it its memory");
    }
    if module == "wasix_32v1" && name.starts_with("thread_local_") {
        return Some("the first WASIX, of 2022");
    }
    const WAMR: &[&str] = &["sock_addr_local", "sock_addr_remote", "sock_addr_resolve", "sock_set_", "sock_get_"];
    if module == "wasi_snapshot_preview1" {
        return WAMR.iter().any(|prefix| name.starts_with(prefix)).then_some("the sockets of WAMR");
    }
    let exact = OWNERS.iter().find(|(owner, _)| *owner == module);
    let prefix = || OWNERS.iter().find(|(owner, _)| owner.len() > 3 && module.starts_with(owner));
    exact.or_else(prefix).map(|(_, whose)| *whose)
}

/// A module's imports, each resolved.
pub(crate) fn imports_of(module: &Module) -> Vec<Import> {
    module
        .imports()
        .map(|import| {
            let signature = match import.ty() {
                ExternType::Func(kind) => signature_of(kind.params(), kind.results()),
                ExternType::Memory(kind) if kind.is_shared() => SHARED_MEMORY.to_owned(),
                ExternType::Memory(_) => "memory".to_owned(),
                ExternType::Table(_) => "table".to_owned(),
                ExternType::Global(_) => "global".to_owned(),
                ExternType::Tag(_) => "tag".to_owned(),
            };
            Import::resolve(import.module(), import.name(), signature)
        })
        .collect()
}

/// Whether a module waits for listeners to be handed to it: it accepts, and cannot listen.
pub(crate) fn takes_listeners(imports: &[Import]) -> bool {
    let has = |name: &str| imports.iter().any(|import| import.name == name && import.dialect().is_some());
    has("sock_accept") && !has("sock_listen") && !has("sock_open")
}

/// Whether a module can take connections, by a listener that it is handed or opens.
pub(crate) fn serves_by_itself(imports: &[Import]) -> bool {
    let accepts = ["sock_accept", "sock_accept_v2", "sock_listen"];
    imports.iter().any(|import| accepts.contains(&import.name.as_str()))
}

/// Whether a module can neither accept connections nor exchange datagrams.
pub(crate) fn has_no_sockets(imports: &[Import]) -> bool {
    !imports.iter().any(|import| import.name.starts_with("sock_"))
}

/// One error for all imports that cannot be had.
pub(crate) fn check(name: &str, imports: &[Import]) -> Result<(), Error> {
    let missing: Vec<&Import> = imports.iter().filter(|import| import.dialect().is_none()).collect();
    let Some(first) = missing.first() else { return Ok(()) };
    let name = printable(name);
    let what = match missing.len() {
        1 => "an import that is not there".to_owned(),
        many => format!("{many} imports that are not there"),
    };
    let owner = owner_of_all(&missing);
    let mut lines = vec![match owner {
        Some(owner) => format!("`{name}` was built for {owner}, and needs {what}:"),
        None => format!("`{name}` needs {what}:"),
    }];
    lines.extend(missing.iter().take(MISSES_TOLD).map(|import| match owner {
        Some(_) => format!("  {import}"),
        None => format!("  {}", describe_miss(import)),
    }));
    if missing.len() > MISSES_TOLD {
        lines.push(format!("  and {} more", missing.len() - MISSES_TOLD));
    }
    Err(Error::not_runnable(lines.join("\n")).with_hint(hint_for(first)))
}

/// Misses beyond these say nothing new.
const MISSES_TOLD: usize = 8;

/// Whose all of them are, if they are of one.
fn owner_of_all<'i>(missing: &[&'i Import]) -> Option<&'i str> {
    let owner = |import: &&'i Import| match &import.status {
        ImportStatus::Missing { owner } => owner.as_deref(),
        _ => None,
    };
    // What threads need beside says nothing of whose threads they are.
    let telling = || missing.iter().filter(|import| !import.is_of_threads());
    let first = telling().chain(missing).next().and_then(owner)?;
    telling().all(|import| owner(import) == Some(first)).then_some(first)
}

fn describe_miss(import: &Import) -> String {
    match &import.status {
        ImportStatus::OtherShape { shapes } => format!("{import}; there is {}", shapes.join(", ")),
        ImportStatus::Missing { owner: Some(owner) } => format!("{import}, of {owner}"),
        _ => import.to_string(),
    }
}

fn hint_for(import: &Import) -> String {
    match (import.module.as_str(), &import.status) {
        ("wasi_unstable", _) => "rebuild it with a toolchain of after 2020, for `wasm32-wasip1`".to_owned(),
        (module, _) if module.starts_with("wasi:http/") && module.contains("handler@") => {
            "put the handler into it: `wac plug MIDDLEWARE --plug HANDLER -o server.wasm`".to_owned()
        }
        ("gojs" | "go", _) => "rebuild it with `GOOS=wasip1`".to_owned(),
        ("wasix_32v1" | "wasix_64v1", _) => {
            "rebuild it with a current wasix-libc or cargo-wasix, for 32 bits".to_owned()
        }
        (module, _) if module == "wbg" || module.starts_with("__wbindgen") => {
            "rebuild it for `wasm32-wasip1`".to_owned()
        }
        // Of a component: it has no name within an instance.
        (_, status) if import.name.is_empty() => match status {
            ImportStatus::OtherShape { .. } => "build it again with a toolchain for one of these".to_owned(),
            ImportStatus::Missing { owner: Some(_) } => {
                "run it with what it was built for, or build it for interfaces of WASI 0.2 or 0.3 alone".to_owned()
            }
            _ => "build it for interfaces of WASI 0.2 or 0.3 alone: no runtime that is known here has that import"
                .to_owned(),
        },
        (_, ImportStatus::OtherShape { .. }) => {
            format!("rebuild it with a toolchain or library whose `{}` is one of these", import.name)
        }
        (_, ImportStatus::Missing { owner: Some(_) }) => {
            "run it with what it was built for, or rebuild it for `wasm32-wasip1`".to_owned()
        }
        _ => "rebuild it for `wasm32-wasip1`: no runtime that is known here has that import".to_owned(),
    }
}

/// The functions that a module imports, found once: nothing is looked up when an instance is made.
pub(crate) enum Links {
    /// It imports nothing else.
    Complete(InstancePre<Guest>),
    /// All but the memory that its threads share: each process has another.
    WithoutMemory(Linker<Guest>),
    /// Two of its imports have one name, and two types: each function under [`Row::key`].
    Ambiguous(Linker<Guest>),
}

impl Links {
    /// For a module with these imports, each of which is there.
    pub(crate) fn new(module: &Module, imports: &[Import]) -> wasmtime::Result<Self> {
        let mut linker = Linker::new(module.engine());
        // Who imports a function twice means the same one.
        linker.allow_shadowing(true);
        if is_ambiguous(imports) {
            define(&mut linker, imports, Row::key)?;
            return Ok(Self::Ambiguous(linker));
        }
        define(&mut linker, imports, |row| row.name.to_owned())?;
        let shares_memory = imports.iter().any(|import| import.signature == SHARED_MEMORY);
        Ok(if shares_memory { Self::WithoutMemory(linker) } else { Self::Complete(linker.instantiate_pre(module)?) })
    }

    /// Makes an instance of a module with these imports, whose memory, if it is to be given one, is the store's.
    pub(crate) async fn instantiate(&self, store: &mut Store<Guest>, module: &Module) -> wasmtime::Result<Instance> {
        match self {
            Self::Ambiguous(linker) => by_position(linker, store, module).await,
            _ => self.ready(store, module)?.instantiate_async(store).await,
        }
    }

    /// What instances are made of for all stores with the memory of this one.
    pub(crate) fn ready(&self, store: &Store<Guest>, module: &Module) -> wasmtime::Result<InstancePre<Guest>> {
        match (self, &store.data().memory) {
            (Self::Complete(ready), _) => Ok(ready.clone()),
            (Self::WithoutMemory(linker), Given::Shared(memory)) => {
                let mut linker = linker.clone();
                linker.define(store, "env", "memory", Extern::SharedMemory((**memory).clone()))?;
                linker.instantiate_pre(module)
            }
            (Self::WithoutMemory(_), _) => Err(wasmtime::Error::msg("there is no memory for it")),
            (Self::Ambiguous(_), _) => Err(wasmtime::Error::msg("two of its imports have one name, and two types")),
        }
    }
}

/// Whether two imports have one name, and two types.
fn is_ambiguous(imports: &[Import]) -> bool {
    let mut types = HashMap::with_capacity(imports.len());
    imports.iter().any(|import| {
        let known = types.insert((&import.module, &import.name), &import.signature);
        known.is_some_and(|signature| *signature != import.signature)
    })
}

/// Defines the functions of imports, each under such a name.
fn define(
    linker: &mut Linker<Guest>, imports: &[Import], name: impl Fn(&'static Row) -> String,
) -> wasmtime::Result<()> {
    // Nobody else is told of signals: the others' hostcalls that do not wait are plain functions.
    let is_told = imports.iter().any(|import| import.name == "callback_signal");
    for import in imports.iter().filter(|import| import.signature != SHARED_MEMORY) {
        let (table, row) = find(&import.module, &import.name, &import.signature)
            .ok_or_else(|| wasmtime::Error::msg(format!("`{import}` is not there")))?;
        let define = row.define_telling.filter(|_| is_told).unwrap_or(row.define);
        define(linker, row, table, &name(row))?;
    }
    Ok(())
}

/// Instantiates a module with each of its imports looked up by its own type.
async fn by_position(linker: &Linker<Guest>, store: &mut Store<Guest>, module: &Module) -> wasmtime::Result<Instance> {
    let mut externs: Vec<Extern> = Vec::with_capacity(module.imports().len());
    for import in module.imports() {
        let name = import.name();
        externs.push(match (import.ty(), &store.data().memory) {
            (ExternType::Func(kind), _) => {
                let key = format!("{name}{}", signature_of(kind.params(), kind.results()));
                linker.get(&mut *store, import.module(), &key)?
            }
            (ExternType::Memory(_), Given::Shared(memory)) => Extern::SharedMemory((**memory).clone()),
            _ => return Err(wasmtime::Error::msg(format!("`{}::{name}` is no function", import.module()))),
        });
    }
    Instance::new_async(store, module, &externs).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::hostcall::Define;

    #[test]
    fn every_row_has_the_type_it_says() {
        let engine = wasmtime::Engine::default();
        let mut store = Store::new(&engine, crate::guest::tests::guest());
        let defines: [fn(&Row) -> Define; 2] = [|row| row.define, |row| row.define_telling.unwrap_or(row.define)];
        for define in defines {
            let mut linker = Linker::new(&engine);
            for (table, row) in rows() {
                define(row)(&mut linker, row, table, &row.key()).expect("no row is there twice");
            }
            for (table, row) in rows() {
                let found = linker.get(&mut store, table.module, &row.key());
                let Ok(Extern::Func(function)) = found else { panic!("{} is not defined", row.key()) };
                let kind = function.ty(&store);
                assert_eq!(signature_of(kind.params(), kind.results()), row.signature(), "{}", row.name);
            }
        }
    }

    #[test]
    fn no_two_rows_are_the_same_import() {
        let mut keys: Vec<String> = rows().map(|(table, row)| format!("{}::{}", table.module, row.key())).collect();
        let all = keys.len();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), all);
        assert_eq!(TABLES[0].rows().count(), 46, "preview1 has 46 functions");
    }

    #[test]
    fn a_miss_says_what_there_is_and_whose_it_is() {
        let resolve = |module, name, signature: &str| Import::resolve(module, name, signature.to_owned());
        let found = resolve("wasi_snapshot_preview1", "sock_accept", "(ii)i");
        assert_eq!(found.dialect(), Some(Dialect::WasmEdge));
        let found = resolve("wasi_snapshot_preview1", "sock_accept", "(iii)i");
        assert_eq!(found.dialect(), Some(Dialect::Preview1));
        let other = resolve("wasi_snapshot_preview1", "sock_accept", "(iiii)i");
        assert_eq!(
            describe_miss(&other),
            "wasi_snapshot_preview1::sock_accept(iiii)i; there is (iii)i (WASI preview1), (ii)i (WasmEdge sockets)"
        );
        let missing = resolve("wasix_32v1", "thread_local_create", "(Ii)i");
        assert_eq!(describe_miss(&missing), "wasix_32v1::thread_local_create(Ii)i, of the first WASIX, of 2022");
    }
}
