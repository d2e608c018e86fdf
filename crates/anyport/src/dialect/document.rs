//! The tables as a page for people: DIALECTS.md, which `tests/dialects.rs` keeps true.

use super::hostcall::{Row, Table};
use super::{INTERFACES, TABLES};

/// The text of DIALECTS.md.
pub fn dialects_markdown() -> String {
    let mut page = OPENING.to_owned();
    for tables in TABLES.chunk_by(|one, next| (one.dialect, one.module) == (next.dialect, next.module)) {
        page.push_str(&section(tables));
    }
    page.push_str(INTERFACES_OPENING);
    for (interface, version, dialect) in INTERFACES {
        let version = match *version {
            "" => "none".to_owned(),
            "0.2" | "0.3" => format!("each {version}.x"),
            exact => exact.to_owned(),
        };
        page.push_str(&format!("| `{interface}` | {version} | {dialect} |\n"));
    }
    page
}

fn section(tables: &[Table]) -> String {
    let rows = || tables.iter().flat_map(Table::rows);
    let lines: String = rows().map(line).collect();
    let count = rows().count();
    let Some(Table { dialect, module, .. }) = tables.first() else { return lines };
    format!(
        "\n## {dialect}\n\nModule `{module}`, {count} functions.\n\n| function | type | parameters |\n|---|---|---|\n\
         {lines}",
    )
}

fn line(row: &Row) -> String {
    let params: Vec<&str> = row.params.iter().map(|param| param.name).collect();
    let mut params = if params.is_empty() { String::new() } else { format!("`{}`", params.join(", ")) };
    if row.is_absent {
        params = "not supported".to_owned();
    }
    format!("| `{}` | `{}` | {params} |\n", row.name, row.signature())
}

const INTERFACES_OPENING: &str = "
## Interfaces of components

What a component can import.

| interface | version | of |
|---|---|---|
";

const OPENING: &str = "\
# Dialects

Every function that a guest can import, by dialect. Made from the tables in `crates/anyport/src/dialect`
by `just dialects`; a test fails when it is stale.

An import is found by its module, its name *and* its type, so one module may mix dialects, and may import
one name with two types. In a type, `i` is an i32 and `I` an i64. The result is an errno; a function without
one does not return. A parameter that begins with `ro_` points to where a result is written.
";
