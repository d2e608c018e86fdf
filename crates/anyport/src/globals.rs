//! Exports the variables of a module that forks: another instance is to begin with the same, and only what is exported
//! can be read and written.

use std::borrow::Cow;

use wasm_encoder::{ExportKind, ExportSection, Module, RawSection};
use wasmparser::{ExternalKind, Parser, Payload, TypeRef};

/// Another one finds nothing in the cache that was compiled of what an earlier one made.
pub(crate) const REVISION: u32 = 1;

/// The import by which a module forks.
const FORK: &str = "proc_fork";

/// What the names begin with that are added, and no toolchain gives.
const PREFIX: &str = "anyport:global/";

/// A module with all its variables exported, if it imports what forks; any other as it is, also one that is damaged.
pub(crate) fn exported(bytes: &[u8]) -> Cow<'_, [u8]> {
    let variables = variables(bytes).ok().flatten().filter(|variables| !variables.is_empty());
    match variables.map(|variables| with(bytes, &variables)) {
        Some(Ok(more)) => more.into(),
        _ => bytes.into(),
    }
}

/// The indices of all variables of a module that imports what forks.
fn variables(bytes: &[u8]) -> wasmparser::Result<Option<Vec<u32>>> {
    let (mut forks, mut index, mut variables) = (false, 0, Vec::new());
    for payload in Parser::new(0).parse_all(bytes) {
        match payload? {
            Payload::ImportSection(section) => {
                for import in section.into_imports() {
                    let import = import?;
                    forks |= import.name == FORK;
                    // One that is imported is the host's, of which there is none.
                    index += u32::from(matches!(import.ty, TypeRef::Global(_)));
                }
            }
            Payload::GlobalSection(section) => {
                for global in section {
                    if global?.ty.mutable {
                        variables.push(index);
                    }
                    index += 1;
                }
            }
            Payload::CodeSectionStart { .. } => break,
            _ => {}
        }
    }
    Ok(forks.then_some(variables))
}

/// The same module with more exports.
fn with(bytes: &[u8], variables: &[u32]) -> wasmparser::Result<Vec<u8>> {
    let mut module = Module::new();
    for payload in Parser::new(0).parse_all(bytes) {
        let payload = payload?;
        if let Payload::ExportSection(section) = payload {
            let mut exports = ExportSection::new();
            for export in section {
                let export = export?;
                exports.export(export.name, kind_of(export.kind), export.index);
            }
            for index in variables {
                exports.export(&format!("{PREFIX}{index}"), ExportKind::Global, *index);
            }
            module.section(&exports);
        } else if let Some((id, range)) = payload.as_section() {
            module.section(&RawSection { id, data: &bytes[range] });
        }
    }
    Ok(module.finish())
}

fn kind_of(kind: ExternalKind) -> ExportKind {
    match kind {
        ExternalKind::Func | ExternalKind::FuncExact => ExportKind::Func,
        ExternalKind::Table => ExportKind::Table,
        ExternalKind::Memory => ExportKind::Memory,
        ExternalKind::Global => ExportKind::Global,
        ExternalKind::Tag => ExportKind::Tag,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exports(bytes: &[u8]) -> Vec<(String, u32)> {
        let mut all = Vec::new();
        for payload in Parser::new(0).parse_all(bytes) {
            if let Payload::ExportSection(section) = payload.expect("it is valid") {
                all.extend(section.into_iter().map(|export| {
                    let export = export.expect("it is valid");
                    (export.name.to_owned(), export.index)
                }));
            }
        }
        all
    }

    fn module(import: &str) -> Vec<u8> {
        let text = format!(
            r#"(module (import "wasix_32v1" "{import}" (func (param i32 i32) (result i32)))
                (import "env" "memory" (memory 1 2 shared))
                (global $stack (mut i32) (i32.const 8)) (global i32 (i32.const 1)) (global (mut i64) (i64.const 2))
                (func (export "_start")) (export "stack" (global $stack)) (data (i32.const 0) "x"))"#
        );
        wat::parse_str(text).expect("it is valid")
    }

    #[test]
    fn a_module_that_forks_exports_its_variables() {
        let bytes = exported(&module("proc_fork")).into_owned();
        let engine = wasmtime::Engine::new(wasmtime::Config::new().shared_memory(true)).expect("it is there");
        wasmtime::Module::validate(&engine, &bytes).expect("it is valid");
        let named = |name: &str, index| (name.to_owned(), index);
        let want = [named("_start", 1), named("stack", 0), named("anyport:global/0", 0), named("anyport:global/2", 2)];
        assert_eq!(exports(&bytes), want);
    }

    #[test]
    fn any_other_is_as_it_is() {
        let other = module("proc_join");
        assert!(matches!(exported(&other), Cow::Borrowed(bytes) if bytes == other));
        let damaged = &module("proc_fork")[..60];
        assert_eq!(exported(damaged), damaged);
    }
}
