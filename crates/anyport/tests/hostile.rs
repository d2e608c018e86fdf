//! Guests that call the host as no compiler would, and files that no compiler made: the outcome is an
//! errno, a trap or a sentence; never a panic of the host, and never a guest that cannot be stopped.
//!
//! Random, from a seed that a failure tells; CONTRIBUTING.md says how it is played again, and longer.

mod wat_support;

#[path = "../src/rounds.rs"]
mod rounds;

mod hostile {
    pub(crate) mod arguments;
    pub(crate) mod calls;
    pub(crate) mod files;
    pub(crate) mod heap;
    pub(crate) mod modules;
    pub(crate) mod reader;
}

use hostile::reader::Reader;
use hostile::{calls, files, heap};
use wat_support::load;

/// Some thousand calls: a few seconds.
const LIVES: u64 = 100;

/// A second or two, for some are compiled.
const FILES: u64 = 1500;

#[test]
fn no_call_breaks_the_host() {
    let _alone = heap::alone();
    // For this process: the other tests' calls are read too, from then on.
    tracing::subscriber::set_global_default(Reader).expect("nobody else traces");
    println!("{}", calls::play(LIVES, |_| None));
}

#[test]
fn no_call_breaks_the_host_on_a_network_with_faults() {
    let _alone = heap::alone();
    println!("{}", calls::play(LIVES, calls::stormy));
}

#[test]
fn no_call_of_wasix_breaks_the_host() {
    let _alone = heap::alone();
    println!("{}", calls::play_wasix(LIVES));
}

#[test]
fn no_damage_breaks_the_inspection() {
    let (files, taken) = play_files(files::damaged);
    println!("{files} files, {taken} of which can be run");
}

#[test]
fn no_module_breaks_the_inspection() {
    let (files, taken) = play_files(files::generated);
    println!("{files} files, {taken} of which can be run");
    // What is wrong deep inside is looked at only if much else is right.
    assert!(taken > 0, "none of {files} can be run");
}

/// Looks at files, and loads them; how many there were, and how many can be run.
fn play_files(look: fn(u64) -> bool) -> (u64, u64) {
    let _alone = heap::alone();
    let (mut files, mut taken) = (0, 0);
    rounds::play(FILES, |seed| {
        files += 1;
        taken += u64::from(look(seed));
    });
    (files, taken)
}

#[test]
fn what_no_engine_runs_is_said_to_run_by_nobody() {
    let _alone = heap::alone();
    files::ahead_or_behind();
}

#[test]
fn no_crowd_breaks_the_inspection() {
    let _alone = heap::alone();
    files::crowded();
}

/// Modules that are valid, and odd. Each ends within the deadline, with these words.
#[test]
fn odd_modules_end_in_words() {
    let _alone = heap::alone();
    let write = "(import \"wasi_snapshot_preview1\" \"fd_write\" (func $w (param i32 i32 i32 i32) (result i32)))";
    let memory = "(memory (export \"memory\") 1)";
    let call = "(drop (call $w (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))";
    let cases = [
        // Calls the host before there is an instance.
        (format!("{write} {memory} (func $s {call}) (start $s) (func (export \"_start\"))"), "Exited(0)"),
        (format!("{memory} (func (export \"_start\") unreachable)"), "unreachable"),
        (format!("{memory} (func $f (export \"_start\") (call $f))"), "its stack is full"),
        (format!("{memory} (data (i32.const 65536) \"x\") (func (export \"_start\"))"), "out of bounds"),
        ("(memory (export \"memory\") 65536) (func (export \"_start\"))".to_owned(), "memory"),
        ("(table 10000000 funcref) (func (export \"_start\"))".to_owned(), "table"),
        (
            format!("{memory} (func (export \"_start\") (drop (i32.div_u (i32.const 1) (i32.const 0))))"),
            "divide by zero",
        ),
    ];
    for (body, words) in cases {
        let server = load(&format!("(module {body})")).unwrap_or_else(|error| panic!("{error}"));
        let outcome = format!("{:?}", server.start().expect("it can be started").wait());
        assert!(outcome.contains(words) && !outcome.contains("anyport failed"), "{words}: {outcome}");
    }
    for (body, words) in [
        (format!("{write} (func (export \"_start\") {call})"), "memory"),
        (format!("{write} (memory (export \"memory\") 1 1 shared) (func (export \"_start\"))"), "memory"),
        (format!("{write} (func (export \"memory\")) (func (export \"_start\"))"), "memory"),
        (format!("{memory} (func (export \"_start\") (param i32))"), "`_start`"),
        (format!("{memory} (global (export \"_start\") i32 (i32.const 0))"), "`_start`"),
        (String::new(), "exports nothing"),
    ] {
        let Err(error) = load(&format!("(module {body})")) else { panic!("{words}: it is taken") };
        assert!(error.to_string().contains(words), "{error}");
    }
}
