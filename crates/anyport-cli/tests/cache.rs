//! The compile cache, and files compiled ahead of time.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use rustix::process::Signal;

use support::http::http;
use support::{Ended, Folder, PATIENCE, Process, guests, root};

/// A folder with a guest, and a cache of its own in `cache`.
struct Cached(Folder);

impl Cached {
    fn new() -> Self {
        Self(Folder::with("x.wasm", guests::exits(7)))
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("cache")
    }

    fn spawn(&self, words: &[&str]) -> Process {
        let mut command = self.0.command(words);
        command.env("ANYPORT_CACHE_DIR", self.path());
        Process::spawn(command)
    }

    fn anyport(&self, words: &[&str]) -> Ended {
        self.spawn(words).end()
    }

    /// Runs the guest; whether it was compiled for that.
    fn compiles(&self, words: &[&str]) -> bool {
        let ended = self.anyport(&[&["run", "--log", "debug"], words, &["x.wasm"]].concat());
        assert_eq!(ended.code(), 7, "{ended}");
        let (compiled, cached) =
            (ended.stderr.contains("is compiled"), ended.stderr.contains("is taken from the cache"));
        assert_ne!(compiled, cached, "{ended}");
        compiled
    }

    /// The files of compiled modules.
    fn entries(&self) -> Vec<PathBuf> {
        let files = fs::read_dir(self.path()).expect("the cache is there").map(|file| file.expect("readable").path());
        files.filter(|path| path.extension().is_some_and(|extension| extension == "cwasm")).collect()
    }

    fn size(&self) -> serde_json::Value {
        serde_json::from_str(self.anyport(&["cache", "size", "--json"]).data()).expect("it is JSON")
    }
}

#[test]
fn the_second_run_compiles_nothing() {
    let cached = Cached::new();
    assert_eq!(cached.size(), serde_json::json!({ "bytes": 0, "modules": 0 }));
    assert!(cached.compiles(&[]));
    let size = cached.size();
    assert_eq!(size["modules"], 1);
    assert!(!cached.compiles(&[]));
    assert_eq!(cached.size(), size);
    let mode = fs::metadata(cached.path()).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[test]
fn what_was_added_is_not_compiled_at_its_first_run() {
    let cached = Cached::new();
    assert_eq!(cached.anyport(&["cache", "add", "x.wasm", "missing.wasm"]).code(), 127);
    snapshot!(cached.anyport(&["cache", "add", "x.wasm"]), @r"
    code 0
    --- stderr
    anyport: x.wasm is in the cache
    ");
    assert!(!cached.compiles(&[]));
}

#[test]
fn no_cache_keeps_nothing() {
    let cached = Cached::new();
    assert!(cached.compiles(&["--no-cache"]));
    assert!(!cached.path().exists());
}

#[test]
fn a_damaged_entry_is_compiled_again() {
    let cached = Cached::new();
    assert!(cached.compiles(&[]));
    let [entry] = &cached.entries()[..] else { panic!("one entry") };
    let whole = fs::read(entry).expect("ours");
    let mut overwritten = whole.clone();
    let middle = whole.len() / 2;
    overwritten[middle] ^= 1;
    for damaged in [&whole[..middle], &whole[..1], b"", b"\x7fELF of somebody else", &overwritten] {
        fs::write(entry, damaged).expect("ours");
        assert!(cached.compiles(&[]), "{} bytes", damaged.len());
        assert_eq!(fs::read(entry).expect("ours").len(), whole.len(), "it is whole again");
        assert!(!cached.compiles(&[]));
    }
}

#[test]
fn it_is_shown_and_emptied() {
    let cached = Cached::new();
    assert!(cached.compiles(&[]));
    assert_eq!(cached.anyport(&["cache", "path"]).data(), format!("{}\n", cached.path().display()));
    assert_eq!(cached.anyport(&["cache", "size"]).data(), "0.0 MiB in 1 compiled module\n");
    snapshot!(cached.anyport(&["cache", "clear"]), @"
    code 0
    --- stderr
    anyport: removed 1 compiled module
    ");
    assert_eq!(cached.size()["modules"], 0);
    snapshot!(cached.anyport(&["cache", "clear", "--quiet"]), @"code 0");
    snapshot!(cached.anyport(&["cache", "size"]), @"
    code 0
    --- stdout
    0.0 MiB in 0 compiled modules
    ");
}

#[test]
fn a_folder_that_others_may_write_to_is_refused() {
    let cached = Cached::new();
    fs::create_dir(cached.path()).expect("ours");
    fs::set_permissions(cached.path(), fs::Permissions::from_mode(0o777)).expect("ours");
    snapshot!(cached.anyport(&["run", "x.wasm"]), @"
    code 125
    --- stderr
    error: the compile cache `FOLDER/cache` cannot be used: other users may write to it
    hint: name another folder with `--cache-dir`, or run with `--no-cache`
    ");
    snapshot!(cached.anyport(&["cache", "size"]), @"
    code 125
    --- stderr
    error: the compile cache `FOLDER/cache` cannot be used: other users may write to it
    hint: name another folder with `--cache-dir`, or run with `--no-cache`
    ");
    assert_eq!(cached.anyport(&["run", "--no-cache", "x.wasm"]).code(), 7);
}

#[test]
fn a_folder_that_cannot_be_made_is_told_and_done_without() {
    let folder = Folder::with("x.wasm", guests::exits(7));
    let mut command = folder.command(["run", "x.wasm"]);
    command.env_remove("ANYPORT_CACHE_DIR").env("HOME", "/dev/null");
    snapshot!(Process::spawn(command).end(), @"
    code 7
    --- stderr
    warning: the compile cache `/dev/null/.cache/anyport` cannot be used: Not a directory (os error 20)
    ");
    snapshot!(folder.anyport(["run", "--cache-dir", "/dev/null/x", "x.wasm"]), @"
    code 125
    --- stderr
    error: the compile cache `/dev/null/x` cannot be used: Not a directory (os error 20)
    hint: name another folder with `--cache-dir`, or run with `--no-cache`
    ");
}

#[test]
fn it_is_in_the_xdg_cache_folder() {
    let folder = Folder::new();
    let path = |name: &str, value: &str| {
        let mut command = folder.command(["cache", "path"]);
        command.env_remove("ANYPORT_CACHE_DIR").env("HOME", folder.path()).env(name, value);
        let ended = Process::spawn(command).end();
        ended.data().trim().replace(&folder.path().display().to_string(), "~")
    };
    let xdg = folder.path().join("xdg").display().to_string();
    assert_eq!(path("XDG_CACHE_HOME", &xdg), "~/xdg/anyport");
    assert_eq!(path("XDG_CACHE_HOME", "relative"), "~/.cache/anyport", "the specification says: ignored");
    assert_eq!(path("ANYPORT_CACHE_DIR", "/tmp"), "/tmp");
}

/// A component, whose parts are compiled at the same time, is compiled once too.
#[test]
fn many_processes_compile_a_component_once() {
    let file = root().join("guests/wasi-http-0.2/echo/server.wasm");
    let cached = Cached(Folder::with("x.wasm", fs::read(file).expect("it is committed")));
    let processes: Vec<Process> = (0..4).map(|_| cached.spawn(&["cache", "add", "--log", "debug", "x.wasm"])).collect();
    let ended: Vec<Ended> = processes.into_iter().map(Process::end).collect();
    let compiled = ended.iter().filter(|ended| ended.stderr.contains("is compiled")).count();
    assert!(ended.iter().all(|ended| ended.code() == 0) && compiled == 1, "{compiled}: {}", ended[0]);
    assert_eq!(cached.size()["modules"], 1);
}

#[test]
fn a_service_is_started_from_what_was_noted_of_it() {
    let file = root().join("guests/wasi-http-0.2/echo/server.wasm");
    let cached = Cached(Folder::with("x.wasm", fs::read(file).expect("it is committed")));
    let serves = || {
        let mut server = cached.spawn(&["run", "-p", "0:8080", "x.wasm"]);
        assert!(http(server.address(), "GET", "/hello", None).ends_with("Hello\n"));
        assert_eq!(server.end_by(Signal::TERM, PATIENCE).code(), 0);
        let sum = cached.entries()[0].with_extension("sum");
        let told = fs::read_to_string(&sum).expect("it was compiled");
        let note = told.lines().nth(2).unwrap_or_else(|| panic!("there is no note in {told}")).to_owned();
        (sum, told, note)
    };
    let (sum, told, note) = serves();
    assert_eq!(serves().2, note);
    // One that is damaged is none, and is made anew.
    fs::write(&sum, told.replace(&note, "needs-1 0 - 0 - true")).expect("it is ours");
    assert_eq!(serves().2, note);
}

#[test]
fn many_processes_share_it() {
    let cached = Cached::new();
    let processes: Vec<Process> = (0..8).map(|_| cached.spawn(&["run", "--log", "debug", "x.wasm"])).collect();
    let mut compiled = 0;
    for process in processes {
        let ended = process.end();
        assert_eq!(ended.code(), 7, "{ended}");
        assert!(!ended.stderr.contains("warning"), "{ended}");
        compiled += usize::from(ended.stderr.contains("is compiled"));
    }
    // The others waited for it.
    assert_eq!(compiled, 1);
    assert_eq!(cached.size()["modules"], 1);
    assert!(!cached.compiles(&[]));
}

#[test]
fn a_precompiled_file_is_run_only_when_it_is_trusted() {
    let folder = Folder::with("x.wasm", guests::exits(7));
    snapshot!(folder.anyport(["compile", "x.wasm"]), @"
    code 0
    --- stderr
    anyport: wrote x.cwasm
    ");
    snapshot!(folder.anyport(["run", "x.cwasm"]), @"
    code 126
    --- stderr
    error: `x.cwasm` is machine code, compiled ahead of time, which cannot be checked
    hint: if you made it with `anyport compile`, say so: `anyport run --allow-precompiled x.cwasm`
    ");
    assert_eq!(folder.anyport(["run", "--allow-precompiled", "x.cwasm"]).code(), 7);
    assert_eq!(folder.anyport(["run", "--allow-precompiled", "x.wasm"]).code(), 7);
    let inspected = folder.anyport(["inspect", "x.cwasm"]).stdout;
    let size = fs::metadata(folder.path().join("x.cwasm")).expect("it is there").len();
    snapshot!(inspected.replace(&size.to_string(), "SIZE"), @"
    x.cwasm: precompiled module, SIZE bytes
    problem: `x.cwasm` is machine code, compiled ahead of time, which cannot be checked
    hint: if you made it with `anyport compile`, say so: `anyport run --allow-precompiled x.cwasm`
    ");
    snapshot!(folder.anyport(["compile", "x.cwasm"]), @"
    code 126
    --- stderr
    error: `x.cwasm` is compiled already
    ");
}

#[test]
fn a_precompiled_file_that_is_damaged_or_foreign_is_refused() {
    let folder = Folder::with("x.wasm", guests::exits(7));
    assert_eq!(folder.anyport(["compile", "x.wasm", "-o", "whole.cwasm"]).code(), 0);
    let whole = fs::read(folder.path().join("whole.cwasm")).expect("it is there");
    let refused = |bytes: &[u8]| {
        fs::write(folder.path().join("x.cwasm"), bytes).expect("ours");
        folder.anyport(["run", "--allow-precompiled", "x.cwasm"])
    };
    for length in [0, 1, 16, 64, 200, whole.len() / 2] {
        let ended = refused(&whole[..length]);
        assert_eq!(ended.code(), 126, "{length}: {ended}");
    }
    snapshot!(refused(&whole[..whole.len() / 2]), @"
    code 126
    --- stderr
    error: `x.cwasm` is not what `anyport compile` makes, or it is damaged
    hint: compile it again, with `anyport compile`
    ");
    snapshot!(refused(b"garbage"), @"
    code 126
    --- stderr
    error: `x.cwasm` is not what `anyport compile` makes, or it is damaged
    hint: compile it again, with `anyport compile`
    ");
    // The engine's version is in it, with its length in front; then the machine's name.
    let mut foreign = whole.clone();
    let version = whole.windows(3).position(|window| window == b"\x0248").expect("the engine's version");
    foreign[version + 2] = b'7';
    snapshot!(refused(&foreign), @"
    code 126
    --- stderr
    error: `x.cwasm` was compiled for another engine or machine: Module was compiled with incompatible ↵
    version '47'
    hint: compile it here, with `anyport compile`
    ");
    let mut foreign = whole;
    let system = foreign.windows(6).position(|window| window == b"linux-").expect("the machine's name");
    foreign[system..system + 5].copy_from_slice(b"redox");
    snapshot!(refused(&foreign), @"
    code 126
    --- stderr
    error: `x.cwasm` was compiled for another engine or machine: Module was compiled for operating ↵
    system 'redox'
    hint: compile it here, with `anyport compile`
    ");
}

#[test]
fn compile_says_where_it_cannot_write() {
    let folder = Folder::with("x.wasm", guests::exits(7));
    snapshot!(folder.anyport(["compile", "x.wasm", "-o", "no/such/folder.cwasm"]), @"
    code 125
    --- stderr
    error: `no/such/folder.cwasm` cannot be written: No such file or directory (os error 2)
    ");
    snapshot!(folder.anyport(["compile", "no-such.wasm"]), @"
    code 127
    --- stderr
    error: there is no file `no-such.wasm`
    ");
}
