//! Every hostcall that there is, read from the page that is made of the tables: a new row is tested
//! by whatever goes through all of them. Those of WASIX have tests of their own, with threads and a shared memory.

use std::sync::OnceLock;

/// One hostcall, as DIALECTS.md has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    /// The heading that it is under.
    pub(crate) dialect: String,
    pub(crate) name: String,
    /// `(iiI)i`.
    pub(crate) signature: String,
    pub(crate) params: Vec<String>,
}

impl Row {
    /// What tells it from all others: `sock_accept(ii)i`.
    pub(crate) fn key(&self) -> String {
        format!("{}{}", self.name, self.signature)
    }

    /// What it is imported from.
    pub(crate) fn namespace(&self) -> &'static str {
        if self.dialect == "WASIX" { "wasix_32v1" } else { "wasi_snapshot_preview1" }
    }

    /// For each parameter, whether it is an i64.
    pub(crate) fn wide(&self) -> impl Iterator<Item = bool> + '_ {
        let (params, _) = self.signature[1..].split_once(')').expect("a type is written (params)result");
        params.chars().map(|letter| letter == 'I')
    }

    pub(crate) fn gives_errno(&self) -> bool {
        self.signature.ends_with(")i")
    }
}

/// All rows that share no memory, in the order of the tables.
pub(crate) fn rows() -> &'static [Row] {
    static ROWS: OnceLock<Vec<Row>> = OnceLock::new();
    let is_own = |row: &&Row| !["WASIX", "wasi-threads"].contains(&&*row.dialect);
    ROWS.get_or_init(|| all().iter().filter(is_own).cloned().collect())
}

/// Those of WASIX alone, but for what is not supported.
pub(super) fn wasix_rows() -> impl Iterator<Item = &'static Row> {
    all().iter().filter(|row| row.dialect == "WASIX" && row.params != ["not supported"])
}

/// Those of WASIX that are not supported.
pub(crate) fn refused_of_wasix() -> Vec<Row> {
    all().iter().filter(|row| row.params == ["not supported"]).cloned().collect()
}

fn all() -> &'static [Row] {
    static ALL: OnceLock<Vec<Row>> = OnceLock::new();
    ALL.get_or_init(|| parse(&anyport::dialects_markdown()))
}

fn parse(page: &str) -> Vec<Row> {
    let mut dialect = "";
    let mut rows = Vec::new();
    for line in page.lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            dialect = heading;
        }
        if line.starts_with("| `") {
            let cells: Vec<&str> =
                line.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`')).collect();
            let [name, signature, params] = cells[..] else { panic!("three cells: {line}") };
            if !signature.starts_with('(') {
                // An interface of components, which has no type.
                continue;
            }
            rows.push(Row {
                dialect: dialect.to_owned(),
                name: name.to_owned(),
                signature: signature.to_owned(),
                params: params.split(", ").filter(|param| !param.is_empty()).map(str::to_owned).collect(),
            });
        }
    }
    assert!(rows.len() >= 46 + 27, "the page has other rows than it had: {}", rows.len());
    rows
}
