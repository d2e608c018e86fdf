//! The rules of CONTRIBUTING.md that neither rustfmt nor clippy can hold: layout, layers, names, documents.
//!
//! A complaint reads `file:line: error: what is wrong, what to do instead`.

use std::fmt::Display;
use std::fs;
use std::path::{Path, PathBuf};

/// A file has at most these many lines before its unit tests: it fits a sitting.
const FILE_LINES_MAX: usize = 600;

/// A function has at most these many lines: it fits a screen.
const FUNCTION_LINES_MAX: usize = 70;

/// A shim has at most these many lines between its braces: it decodes, calls and encodes.
const SHIM_LINES_MAX: usize = 25;

const COLUMNS_MAX: usize = 120;

/// The modules of each crate from the top down: each may use itself, its line, and the lines below.
const LAYERS: &[(&str, &[&str])] = &[
    (
        "crates/anyport/src/",
        &[
            "lib",
            "runtime",
            "inspect",
            "server",
            "settings port_holder running front",
            "status",
            "worker",
            "serving",
            "connection_limits lane",
            "ingress",
            "instance",
            "program",
            "component",
            "link",
            "engine",
            "machine",
            "cache artifact globals ticker",
            "dialect",
            "guest",
            "outgoing",
            "health busy readiness",
            "sending descriptor epoll",
            "event stdio journal",
            "net",
            "memory tls access_log",
            "cgi policy",
            "address limits mappings stage directory",
            "errno",
            "error rounds spelling",
        ],
    ),
    (
        "crates/containerd-shim-anyport/src/",
        &[
            "main",
            "bootstrap",
            "service",
            "container",
            "launch",
            "exec",
            "init",
            "options",
            "prepare",
            "bundle process",
            "events stdio hooks",
            "sandbox",
            "control cgroup content",
            "log probe status",
        ],
    ),
    (
        "crates/anyport-cli/src/",
        &["main", "run docker", "load", "plan manifest", "usage", "report", "service trace args"],
    ),
];

/// Names that say nothing of what a module owns.
const NAMES_BANNED: &[&str] = &["common", "core", "helper", "helpers", "manager", "misc", "types", "util", "utils"];

const WORDS_BANNED: &[(&str, &str)] = &[
    ("todo!", "use an error, or do it now"),
    ("unimplemented!", "use an error, or do it now"),
    ("dbg!", "use tracing::debug!"),
    ("#[ignore", "use a test that runs, or none"),
    ("#![feature", "use stable Rust"),
];

/// Ways around `net`. A UDP socket has a resource of its name in WASI, which none is opened with.
const SOCKET_WORDS: &[&str] =
    &["rustix::net", "tokio::net", "lookup_host", "to_socket_addrs", "TcpListener", "TcpStream", "UdpSocket::"];

#[test]
fn a_file_opens_with_what_it_owns() {
    let mut complaints = Complaints::default();
    for file in library().iter().filter(|file| !file.text.starts_with("//! ")) {
        complaints.add(&file.path, 1, "no description, use a first line `//! What this file owns.`");
    }
    complaints.none();
}

#[test]
fn a_file_fits_a_sitting() {
    let mut complaints = Complaints::default();
    for file in library() {
        let lines = file.code.lines().count();
        if lines > FILE_LINES_MAX {
            let wrong = format!("{lines} lines without tests, use two files of at most {FILE_LINES_MAX}");
            complaints.add(&file.path, 1, wrong);
        }
    }
    complaints.none();
}

#[test]
fn a_function_fits_a_screen_and_a_shim_is_thin() {
    let mut complaints = Complaints::default();
    for file in library() {
        // Tests that have a file of their own are no shims.
        let has_shims = file.path.contains("/src/dialect/") && !file.path.ends_with("/properties.rs");
        for Function { name, line, lines, body } in functions(&file.code) {
            if lines > FUNCTION_LINES_MAX {
                let wrong = format!("`{name}` has {lines} lines, use functions of at most {FUNCTION_LINES_MAX}");
                complaints.add(&file.path, line, wrong);
            } else if body > SHIM_LINES_MAX && has_shims {
                let wrong = format!("`{name}` has {body} lines, of at most {SHIM_LINES_MAX} in a dialect");
                complaints.add(&file.path, line, format!("{wrong}, use a verb of guest.rs for what it decides"));
            }
        }
    }
    complaints.none();
}

#[test]
fn a_module_uses_only_what_is_below() {
    let mut complaints = Complaints::default();
    for file in library() {
        let Some((layer, module, layers)) = file.layer() else {
            complaints.add(&file.path, 1, "no layer, use a line of LAYERS in crates/anyport/tests/tidy.rs");
            continue;
        };
        for (line, used) in uses(&file.code, file.modules().len()) {
            // What is in no line is a name of the crate's root.
            let below = layers[layer..].iter().any(|modules| has(modules, &used));
            if !below && layer > 0 {
                let wrong = format!("`{module}` is below `{used}`, use an argument, or move what both need down");
                complaints.add(&file.path, line, wrong);
            }
        }
    }
    complaints.none();
}

#[test]
fn a_module_is_named_after_what_it_owns() {
    let mut complaints = Complaints::default();
    for file in sources() {
        let own = file.modules().pop().map(|name| (1, name));
        let inline = numbered(&file.code).filter_map(|(line, text)| {
            let (_, name) = text.split_once("mod ")?;
            Some((line, name.trim_end_matches([' ', '{', ';', '}']).to_owned()))
        });
        for (line, name) in own.into_iter().chain(inline) {
            if NAMES_BANNED.contains(&name.as_str()) {
                complaints.add(&file.path, line, format!("a module named `{name}`, use the name of what it owns"));
            }
        }
    }
    complaints.none();
}

#[test]
fn unsafe_code_is_in_files_that_say_why() {
    let mut complaints = Complaints::default();
    for file in sources().iter().filter(|file| !file.text.contains("#![allow(unsafe_code, reason")) {
        for (line, text) in numbered(&file.whole) {
            if text.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == "unsafe") {
                let wrong = "`unsafe`, use safe code, or `#![allow(unsafe_code, reason = \"…\")]` at the file's top";
                complaints.add(&file.path, line, wrong);
            }
        }
    }
    complaints.none();
}

#[test]
fn sockets_are_opened_by_net_alone() {
    let mut complaints = Complaints::default();
    let is_guests = |path: &str| path.starts_with("crates/anyport/") && !path.contains("/src/net/");
    for file in library().iter().filter(|file| is_guests(&file.path)) {
        for (line, text) in numbered(&file.code) {
            for word in SOCKET_WORDS.iter().filter(|word| text.contains(*word)) {
                complaints.add(&file.path, line, format!("`{word}`, use the sockets of crate::net"));
            }
        }
    }
    complaints.none();
}

#[test]
fn nothing_is_left_over() {
    let mut complaints = Complaints::default();
    for file in sources() {
        for (line, text) in numbered(&file.whole) {
            for (word, instead) in WORDS_BANNED.iter().filter(|(word, _)| text.contains(word)) {
                complaints.add(&file.path, line, format!("`{word}`, {instead}"));
            }
        }
    }
    complaints.none();
}

#[test]
fn a_line_fits_the_window() {
    let mut complaints = Complaints::default();
    for file in sources() {
        for (line, text) in numbered(&file.text) {
            let columns = text.chars().count();
            // Nothing breaks a row of a table, or an address.
            let unbreakable = text.trim_start().starts_with("row!(") || text.contains("://");
            if text.contains('\t') {
                complaints.add(&file.path, line, "a tab, use spaces");
            } else if columns > COLUMNS_MAX && !unbreakable {
                complaints.add(&file.path, line, format!("{columns} columns, use lines of at most {COLUMNS_MAX}"));
            }
        }
    }
    complaints.none();
}

#[test]
fn what_a_document_names_exists() {
    let mut complaints = Complaints::default();
    let files: Vec<String> = files(&root()).iter().map(|file| relative(file)).collect();
    for document in files.iter().filter(|path| path.ends_with(".md")) {
        for (line, text) in numbered(&read(document)) {
            for link in links(text).filter(|link| !link_holds(document, link)) {
                complaints.add(document, line, format!("a dead link `{link}`, use a path from the document's folder"));
            }
            // A change log speaks of what was.
            let past = document.ends_with("CHANGELOG.md");
            for name in paths(text).filter(|name| !past && !name_holds(name, &files)) {
                complaints.add(document, line, format!("there is no `{name}`, use the name that it has now"));
            }
        }
    }
    complaints.none();
}

#[test]
fn the_rules_see_through_comments_and_literals() {
    let code = blank("fn a<'a>() { // }\n let b = \"}\\\"}\"; let c = '}'; let d = r#\"\"}\"#; /* } */\n} fn e();\n");
    assert_eq!(code, "fn a<'a>() {     \n let b =       ; let c =    ; let d =        ;        \n} fn e();\n");
    let found: Vec<_> = functions(&code).into_iter().map(|found| (found.name, found.line, found.lines)).collect();
    assert_eq!(found, [("a".to_owned(), 1, 3)]);
    let named = uses("use crate::{a::{b, c}, d};\nuse super::super::e::f;\nx($crate::g!(super::h));", 2);
    let named: Vec<_> = named.iter().map(|(line, name)| (*line, name.as_str())).collect();
    assert_eq!(named, [(1, "a"), (1, "d"), (3, "g"), (2, "e")]);
    assert_eq!(slug("## Why wasmtime `48`?"), "why-wasmtime-48");
    let line =
        "See `net/tcp.rs`, crates/anyport/src. And `tests/tidy.rs::a_test`; <https://x.org/y.rs>, `crates/*/src`.";
    let named: Vec<_> = paths(line).collect();
    assert_eq!(named, ["net/tcp.rs", "crates/anyport/src", "tests/tidy.rs::a_test"]);
}

// --- documents -------------------------------------------------------------------------------------

/// The targets of a line's links within the repository.
fn links(line: &str) -> impl Iterator<Item = &str> {
    let targets = line.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
    targets.map(|(target, _)| target).filter(|target| !target.contains(':') && !target.contains(' '))
}

fn link_holds(document: &str, link: &str) -> bool {
    let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
    let target = match path {
        "" => root().join(document),
        path => root().join(document).parent().expect("a file is in a folder").join(path),
    };
    if anchor.is_empty() || target.extension().is_none_or(|end| end != "md") {
        return target.exists();
    }
    let text = fs::read_to_string(target).unwrap_or_default();
    text.lines().filter(|line| line.starts_with('#')).any(|line| slug(line) == anchor)
}

/// A heading's anchor, as GitHub makes it.
fn slug(heading: &str) -> String {
    let kept = heading.trim_start_matches('#').trim().to_lowercase();
    kept.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c)).map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// What a line names of the sources: paths below `crates/`, and files and tests between backticks, such
/// as `net/tcp.rs` and `tests/tidy.rs::nothing_is_left_over`.
fn paths(line: &str) -> impl Iterator<Item = &str> {
    let words = line.split(|c: char| c.is_whitespace() || "`()[]|,;\"".contains(c));
    words.filter(|word| !word.contains(['*', '<', '{', '…', '$'])).map(|word| word.trim_end_matches(['.', ':'])).filter(
        |word| word.starts_with("crates/") || word.ends_with(".rs") && !word.contains("://") || word.contains(".rs::"),
    )
}

fn name_holds(name: &str, files: &[String]) -> bool {
    let (path, test) = name.split_once("::").unwrap_or((name, ""));
    // A place in a file: `src/main.rs:10`.
    let path = path.split(':').next().unwrap_or(path);
    let end = format!("/{path}");
    let mut found = files.iter().filter(|file| *file == path || file.ends_with(&end));
    if test.is_empty() {
        return root().join(path).exists() || found.next().is_some();
    }
    let function = format!("fn {}(", test.rsplit("::").next().unwrap_or(test));
    found.any(|file| read(file).contains(&function))
}

// --- sources ---------------------------------------------------------------------------------------

struct Source {
    /// From the repository's root.
    path: String,
    text: String,
    /// The text with blanks for comments and literals.
    whole: String,
    /// The same without the unit tests, which end a file.
    code: String,
}

impl Source {
    fn new(file: &Path) -> Self {
        let path = relative(file);
        let text = read(&path);
        let whole = blank(&text);
        let tests = whole.match_indices("#[cfg(test)]\n").find(|(at, attribute)| {
            let next = whole[at + attribute.len()..].lines().next().unwrap_or_default();
            next.contains("mod tests {")
        });
        let code = whole[..tests.map_or(whole.len(), |(at, _)| at)].to_owned();
        Self { path, text, whole, code }
    }

    /// `net/tcp.rs` is `net`, `tcp`; `net/mod.rs` is `net`.
    fn modules(&self) -> Vec<String> {
        let path = self.path.rsplit_once("/src/").or_else(|| self.path.rsplit_once("/tests/"));
        let path = path.map_or(self.path.as_str(), |(_, path)| path).trim_end_matches(".rs");
        path.trim_end_matches("/mod").split('/').map(str::to_owned).collect()
    }

    /// Its place from the top, the module, and the layers of its crate.
    fn layer(&self) -> Option<(usize, String, &'static [&'static str])> {
        let (_, layers) = LAYERS.iter().find(|(folder, _)| self.path.starts_with(folder))?;
        let module = self.modules().swap_remove(0);
        Some((layers.iter().position(|line| has(line, &module))?, module, layers))
    }
}

/// Whether a line of LAYERS has a module.
fn has(line: &str, module: &str) -> bool {
    line.split(' ').any(|name| name == module)
}

/// The modules of the crate that code names, each with its line. The file is so many modules deep.
fn uses(code: &str, depth: usize) -> Vec<(usize, String)> {
    let root = "super::".repeat(depth);
    let begins = |at: usize| !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':');
    let roots = code.match_indices("crate::").chain(code.match_indices(&root));
    let mut uses = Vec::new();
    for (at, root) in roots.filter(|(at, _)| begins(*at)) {
        let rest = &code[at + root.len()..];
        let names = if rest.starts_with('{') { group(rest) } else { vec![rest] };
        for name in names {
            let end = name.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(name.len());
            uses.push((line_of(code, at), name[..end].to_owned()));
        }
    }
    uses
}

/// The members of `{a::{b, c}, d}`.
fn group(text: &str) -> Vec<&str> {
    let (mut depth, mut start, mut members) = (0_usize, 1, Vec::new());
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => {
                members.push(text[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
        if depth == 0 {
            members.push(text[start..at].trim());
            break;
        }
    }
    members.retain(|member| !member.is_empty());
    members
}

struct Function {
    name: String,
    /// Where it begins.
    line: usize,
    lines: usize,
    /// Lines between its braces.
    body: usize,
}

fn functions(code: &str) -> Vec<Function> {
    let starts = code.match_indices("fn ").filter(|(at, _)| !code[..*at].ends_with(|c: char| c.is_alphanumeric()));
    starts
        .filter_map(|(at, word)| {
            let signature = &code[at + word.len()..];
            let name: String = signature.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            let open = at + code[at..].find(['{', ';']).filter(|end| code[at + end..].starts_with('{'))?;
            let close = closing_brace(code, open)?;
            let (first, opened, last) = (line_of(code, at), line_of(code, open), line_of(code, close));
            Some(Function { name, line: first, lines: last - first + 1, body: (last - opened).saturating_sub(1) })
        })
        .collect()
}

fn closing_brace(code: &str, open: usize) -> Option<usize> {
    let mut depth = 0_usize;
    for (at, c) in code[open..].char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(open + at);
        }
    }
    None
}

/// Rust with a blank for each character of comments and literals, and its lines as they were.
fn blank(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let hidden = comment(rest).or_else(|| literal(rest));
        let (taken, after) = rest.split_at(hidden.unwrap_or_else(|| first.len_utf8()));
        match hidden {
            Some(_) => code.extend(taken.chars().map(|c| if c == '\n' { c } else { ' ' })),
            None => code.push(first),
        }
        rest = after;
    }
    code
}

/// The length of the comment that text begins with.
fn comment(text: &str) -> Option<usize> {
    if text.starts_with("//") {
        return Some(text.find('\n').unwrap_or(text.len()));
    }
    text.starts_with("/*").then(|| text.find("*/").map_or(text.len(), |end| end + 2))
}

/// The length of the string or character that text begins with.
fn literal(text: &str) -> Option<usize> {
    if let Some(raw) = text.strip_prefix('r') {
        let hashes = raw.len() - raw.trim_start_matches('#').len();
        if raw[hashes..].starts_with('"') {
            let end = format!("\"{}", "#".repeat(hashes));
            let inside = 2 + hashes;
            return Some(text[inside..].find(&end).map_or(text.len(), |at| inside + at + end.len()));
        }
    }
    let quote = text.chars().next().filter(|c| ['"', '\''].contains(c))?;
    let mut chars = text.char_indices().skip(1);
    // `'a` without a second quote is a lifetime.
    let second = chars.next()?;
    if quote == '\'' && second.1 != '\\' {
        return chars.next().filter(|(_, c)| *c == '\'').map(|(at, _)| at + 1);
    }
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        if c == quote && !escaped {
            return Some(at + 1);
        }
        escaped = c == '\\' && !escaped;
    }
    None
}

// --- files -----------------------------------------------------------------------------------------

#[derive(Default)]
struct Complaints(Vec<String>);

impl Complaints {
    fn add(&mut self, path: &str, line: usize, wrong: impl Display) {
        self.0.push(format!("{path}:{line}: error: {wrong}"));
    }

    fn none(self) {
        assert!(self.0.is_empty(), "\n{}\n", self.0.join("\n"));
    }
}

/// What is compiled into the crates.
fn library() -> Vec<Source> {
    sources().into_iter().filter(|file| file.path.contains("/src/")).collect()
}

/// That, and its tests and examples.
fn sources() -> Vec<Source> {
    let mut files = files(&root().join("crates"));
    files.retain(|file| file.extension().is_some_and(|end| end == "rs"));
    assert!(files.len() > 10, "the sources are not where they were");
    files.iter().map(|file| Source::new(file)).collect()
}

/// The files below a folder that are the repository's own: nothing built, nothing fetched.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("a folder can be listed").path()).collect();
    paths.retain(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        !name.starts_with('.') && name != "target"
    });
    paths.sort();
    paths.into_iter().flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("the crate is two folders down").to_owned()
}

fn relative(file: &Path) -> String {
    file.strip_prefix(root()).expect("it is below the root").display().to_string()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn numbered(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(index, line)| (index + 1, line))
}

fn line_of(text: &str, at: usize) -> usize {
    text[..at].matches('\n').count() + 1
}
