//! A module that one process compiles and another runs.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Barrier;

use anyport::cache::Cache;
use anyport::error::ErrorKind;
use anyport::{Artifact, Outcome, Policy, Runtime};

/// Set for a process that a test starts.
const PART: &str = "ANYPORT_TEST_PART";

/// A module that exits with 7, with so many functions to compile.
fn module(functions: usize) -> Artifact {
    let body = "(local.set 0 (i64.add (i64.mul (local.get 0) (i64.const 31)) (i64.const 7)))".repeat(40);
    let functions: String =
        (0..functions).map(|_| format!("(func (param i64) (result i64) {body} (local.get 0))")).collect();
    let text = format!(
        "(module (import \"wasi_snapshot_preview1\" \"proc_exit\" (func $exit (param i32)))
          (memory (export \"memory\") 1) {functions}
          (func (export \"_start\") (call $exit (i32.const 7))))"
    );
    Artifact::from_bytes("seven.wasm", wat::parse_str(text).expect("it is a module"))
}

fn runtime(cache: impl Into<Option<Cache>>) -> Runtime {
    let builder = cache.into().into_iter().fold(Runtime::builder(), anyport::RuntimeBuilder::cache);
    builder.build().expect("tests run where anyport does")
}

fn open(folder: &Path) -> Cache {
    Cache::open(folder.join("cache")).unwrap_or_else(|error| panic!("{error}"))
}

/// Starts the test of this name once more, as another process that plays this part.
fn another(test: &str, part: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("Linux knows it"));
    command.args([test, "--exact", "--nocapture", "--test-threads=1"]).env(PART, part);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn part() -> Option<std::path::PathBuf> {
    std::env::var_os(PART).map(Into::into)
}

fn must_succeed(child: std::process::Child) -> String {
    let output = child.wait_with_output().expect("it was started");
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
    said
}

fn runs(runtime: &Runtime, file: File) {
    let server = runtime.load_compiled(file, "seven.wasm").unwrap_or_else(|error| panic!("{error}"));
    let running = server.start().unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(running.wait(), Outcome::Exited(7));
}

#[test]
fn another_process_runs_it_from_the_open_file() {
    if let Some(empty) = part() {
        // As in a container whose image has none of our files.
        if rustix::process::geteuid().is_root() {
            rustix::process::chroot(&empty).expect("root may");
            assert_eq!(std::fs::read_dir("/").expect("it is there").count(), 0);
        }
        let file = File::from(rustix::io::dup(rustix::stdio::stdin()).expect("it is open"));
        return runs(&runtime(None), file);
    }
    let folder = tempfile::tempdir().expect("a folder");
    let empty = tempfile::tempdir().expect("a folder");
    let cached = runtime(open(folder.path()));
    for runtime in [&cached, &cached, &runtime(None)] {
        let file = runtime.compile(&module(1)).unwrap_or_else(|error| panic!("{error}"));
        let mut command = another("another_process_runs_it_from_the_open_file", empty.path());
        must_succeed(command.stdin(file).spawn().expect("what runs can be started once more"));
    }
    assert_eq!(open(folder.path()).size().expect("readable").1, 1);
}

#[test]
fn of_two_processes_one_compiles_it() {
    if let Some(folder) = part() {
        runs(&runtime(None), runtime(open(&folder)).compile(&module(400)).unwrap_or_else(|error| panic!("{error}")));
        // Counts the compilations: a file that was there before is not made again.
        let entries = std::fs::read_dir(folder.join("cache")).expect("it is there").flatten();
        let entry = entries.map(|entry| entry.path()).find(|path| path.extension().is_some_and(|end| end == "cwasm"));
        let inode = entry.expect("kept").metadata().expect("there").ino();
        println!("inode {inode} is it");
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let processes: Vec<_> = (0..4)
        .map(|_| {
            let mut command = another("of_two_processes_one_compiles_it", folder.path());
            command.spawn().expect("what runs can be started once more")
        })
        .collect();
    let inodes: Vec<String> = processes
        .into_iter()
        .map(|process| {
            let said = must_succeed(process);
            let (_, rest) = said.split_once("inode ").unwrap_or_else(|| panic!("{said}"));
            rest.split(' ').next().expect("a number").to_owned()
        })
        .collect();
    assert!(inodes.iter().all(|inode| *inode == inodes[0]), "{inodes:?}");
}

#[test]
fn of_two_threads_one_compiles_it_and_a_module_that_fails_fails_for_both() {
    let folder = tempfile::tempdir().expect("a folder");
    let both = |artifact: &Artifact| {
        let together = Barrier::new(2);
        let compile = || {
            let runtime = runtime(open(folder.path()));
            together.wait();
            runtime.compile(artifact)
        };
        std::thread::scope(|scope| {
            let other = scope.spawn(compile);
            [compile(), other.join().expect("no panic")]
        })
    };
    let files = both(&module(400)).map(|file| file.unwrap_or_else(|error| panic!("{error}")));
    let inodes = files.map(|file| file.metadata().expect("it is open").ino());
    assert_eq!(inodes[0], inodes[1]);
    // Valid for the inspection, which does not look into bodies.
    let broken = wat::parse_str("(module (func (export \"_start\") (drop (i32.add (i32.const 1) (i64.const 1)))))");
    let broken = Artifact::from_bytes("broken.wasm", broken.expect("it can be written"));
    for failed in both(&broken) {
        assert_eq!(failed.expect_err("it is not valid").kind(), ErrorKind::NotRunnable);
    }
    let left = std::fs::read_dir(folder.path().join("cache")).expect("it is there").flatten();
    let locks = left.filter(|file| file.path().extension().is_some_and(|extension| extension == "lock"));
    assert_eq!(locks.count(), 0);
}

#[test]
fn what_is_no_compiled_module_is_an_error() {
    let mut file = tempfile::tempfile().expect("a file");
    file.write_all(b"\0asm\x01\0\0\0").expect("room");
    let error = runtime(None).load_compiled(file, "x\x1b.wasm").err().expect("it is not compiled");
    assert!(error.to_string().starts_with("`x\u{fffd}.wasm` was compiled by another version"), "{error}");
    let mut file = runtime(None).compile(&module(1)).unwrap_or_else(|error| panic!("{error}"));
    let mut whole = Vec::new();
    file.rewind().and_then(|()| file.read_to_end(&mut whole)).expect("readable");
    // Nobody changes what may be mapped already.
    file.rewind().and_then(|()| file.write_all(b"x")).expect_err("it is sealed");
    let mut part = tempfile::tempfile().expect("a file");
    part.write_all(&whole[..whole.len() / 2]).expect("room");
    assert!(runtime(None).load_compiled(part, "x.wasm").is_err());
}

#[test]
fn a_cache_that_cannot_be_written_to_is_done_without() {
    let folder = tempfile::tempdir().expect("a folder");
    let small = open(folder.path()).with_bytes_max(1);
    let runtime = runtime(small);
    runs(&runtime, runtime.compile(&module(1)).unwrap_or_else(|error| panic!("{error}")));
    assert_eq!(open(folder.path()).size().expect("readable"), (0, 0));
}

/// With another note the same service cannot have what it needs: nobody has looked at the service itself.
#[test]
fn a_pool_is_made_for_what_was_noted() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../guests/wasi-http-0.2/echo/server.wasm");
    let service = Artifact::from_file(file).expect("it is committed");
    let starts = || {
        let server = runtime(open(folder.path())).load(&service).unwrap_or_else(|error| panic!("{error}"));
        let policy = Policy { publish: vec!["127.0.0.1:0:8080".parse().expect("a port")], ..Policy::default() };
        server.policy(policy).start().map(|running| running.stop())
    };
    starts().unwrap_or_else(|error| panic!("{error}"));
    let sums =
        || std::fs::read_dir(folder.path().join("cache")).expect("it is there").flatten().map(|file| file.path());
    let sum = sums().find(|path| path.extension().is_some_and(|end| end == "sum")).expect("it was compiled");
    let told = std::fs::read_to_string(&sum).expect("readable");
    let note = "needs-1 0 - 0 - true";
    let digest = blake3::hash(note.as_bytes()).to_hex();
    let head: Vec<&str> = told.lines().take(2).collect();
    std::fs::write(&sum, format!("{}\n{note}\n{digest}", head.join("\n"))).expect("ours");
    assert!(starts().is_err(), "its memory has no place");
    std::fs::write(&sum, told).expect("ours");
    starts().unwrap_or_else(|error| panic!("{error}"));
}
