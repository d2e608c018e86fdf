//! Every limit at its edge: one below, at it, one above.

mod wat_support;

use std::fs;
use std::io::{Read, Seek, Write};

use anyport::{Limits, Outcome};
use wat_support::{NONBLOCK, Puppet, Stage, Wait, connect, errno, load};

const PAGE: u64 = 1 << 16;

/// How a puppet ends that is given nothing to do: it waits.
fn starts(stage: Stage) -> bool {
    let mut guest = match stage.try_start() {
        Ok(guest) => guest,
        Err(error) => panic!("{error}"),
    };
    guest.begin("sched_yield", &[]);
    match guest.finish_within(wat_support::DEADLINE) {
        Ok(Some(_)) => true,
        Ok(None) => panic!("it does not answer"),
        Err(_) => {
            let (Outcome::Trapped { reason, .. } | Outcome::OutOfMemory { reason, .. }) = guest.outcome() else {
                panic!("it has not trapped")
            };
            assert!(!reason.contains("anyport failed"), "{reason}");
            false
        }
    }
}

#[test]
fn every_limit_is_set_by_its_name() {
    let mut limits = Limits::default();
    for (value, name) in (1..).zip(Limits::NAMES) {
        assert!(limits.set(name, value), "{name}");
    }
    let set = [
        limits.memory_bytes,
        limits.table_elements,
        limits.descriptors,
        limits.connections,
        limits.copy_bytes,
        limits.held_bytes,
        limits.random_bytes,
        limits.environment_bytes,
        limits.iovecs.try_into().expect("it is small"),
        limits.subscriptions.try_into().expect("it is small"),
    ];
    assert_eq!(set, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
    assert_eq!((limits.header_lines, limits.body_bytes), (14, 15));
    assert!(!limits.set("memory", 1));
    for name in ["iovecs", "subscriptions"] {
        assert!(limits.set(name, u32::MAX.into()));
        assert!(!limits.set(name, u64::from(u32::MAX) + 1));
    }
}

#[test]
fn memory() {
    let mut guest = Stage::preview1().limit("memory-bytes", 4 * PAGE).start();
    assert_eq!([3, 1, 2, 1, 1].map(|pages| guest.grow_memory(pages)), [false, true, false, true, false]);
    assert!(guest.grow_memory(0));
    // A part of a page is none.
    let mut guest = Stage::preview1().limit("memory-bytes", 4 * PAGE - 1).start();
    assert_eq!([1, 1].map(|pages| guest.grow_memory(pages)), [true, false]);
    // What a guest begins with counts too.
    assert!(starts(Stage::preview1().limit("memory-bytes", 2 * PAGE)));
    assert!(!starts(Stage::preview1().limit("memory-bytes", 2 * PAGE - 1)));
}

/// As `docker update` does.
#[test]
fn memory_can_be_limited_anew_while_a_guest_runs() {
    let mut guest = Stage::preview1().limit("memory-bytes", 3 * PAGE).start();
    assert_eq!([1, 1].map(|pages| guest.grow_memory(pages)), [true, false]);
    guest.running().limit_memory(usize::try_from(4 * PAGE).expect("it is small"));
    assert_eq!([1, 1].map(|pages| guest.grow_memory(pages)), [true, false]);
    // What it has stays its own.
    guest.running().limit_memory(0);
    assert_eq!([0, 1].map(|pages| guest.grow_memory(pages)), [true, false]);
}

#[test]
fn table_elements() {
    let own = Stage::preview1().start().table_elements();
    let mut guest = Stage::preview1().limit("table-elements", own + 10).start();
    assert_eq!([11, 9, 2, 1, 1].map(|elements| guest.grow_table(elements)), [false, true, false, true, false]);
    assert!(starts(Stage::preview1().limit("table-elements", own)));
    assert!(!starts(Stage::preview1().limit("table-elements", own - 1)));
}

/// The exit code of a module that compares what its growths give.
fn grows(declared: &str, limits: &Limits, growths: &[(&str, i32)]) -> Outcome {
    let checks: String = (1..)
        .zip(growths)
        .map(|(code, (growth, wanted))| {
            format!("(if (i32.ne ({growth}) (i32.const {wanted})) (then (call $exit (i32.const {code}))))")
        })
        .collect();
    let text = format!(
        "(module (import \"wasi_snapshot_preview1\" \"proc_exit\" (func $exit (param i32)))
          {declared} (func (export \"_start\") {checks}))"
    );
    let server = load(&text).unwrap_or_else(|error| panic!("{error}"));
    server.limits(limits.clone()).start().expect("it can be started").wait()
}

#[test]
fn memories_and_tables_are_counted_together() {
    let mut limits = Limits::default();
    limits.set("memory-bytes", 4 * PAGE);
    limits.set("table-elements", 4);
    let two = "(memory (export \"memory\") 2) (memory $other 1)";
    let growths = [("memory.grow $other (i32.const 1)", 1), ("memory.grow 0 (i32.const 1)", -1)];
    assert_eq!(grows(two, &limits, &growths), Outcome::Exited(0));
    let two = "(table $a 2 funcref) (table $b 1 funcref)";
    let growths =
        [("table.grow $b (ref.null func) (i32.const 1)", 1), ("table.grow $a (ref.null func) (i32.const 1)", -1)];
    assert_eq!(grows(two, &limits, &growths), Outcome::Exited(0));
}

#[test]
fn growth_that_fails_for_other_reasons_is_not_counted() {
    let mut limits = Limits::default();
    limits.set("memory-bytes", 6 * PAGE);
    limits.set("table-elements", 6);
    let few = "(memory (export \"memory\") 2 4) (table $t 2 4 funcref)";
    let growths = [
        // Within the limit, and more than the module's own maximum.
        ("memory.grow (i32.const 3)", -1),
        ("memory.grow (i32.const 2)", 2),
        ("table.grow $t (ref.null func) (i32.const 3)", -1),
        ("table.grow $t (ref.null func) (i32.const 2)", 2),
    ];
    assert_eq!(grows(few, &limits, &growths), Outcome::Exited(0));
}

#[test]
fn descriptors() {
    let folder = tempfile::tempdir().expect("a folder");
    let stage = || Stage::new().publish("0:80").directory(folder.path(), "/");
    let mut guest = stage().limit("descriptors", 6).start();
    let listener = guest.listen(80);
    let udp = guest.udp();
    assert_eq!((listener, udp), (4, 5));
    // Full: nothing opens, and a client waits until something is closed.
    let _client = connect(guest.address(0));
    let out = guest.room(4);
    assert_eq!(guest.open(1, 2), Err(errno::TOO_MANY_OPEN));
    assert_eq!(guest.open_path(3, "file", 1, 1 << 6), Err(errno::TOO_MANY_OPEN));
    assert!(!folder.path().join("file").exists());
    assert_eq!(guest.call("sock_accept", &[listener, out]), errno::TOO_MANY_OPEN);
    guest.close(udp);
    assert_eq!(guest.told(out, "sock_accept", &[listener, out]), Ok(udp));
    assert_eq!(guest.open(1, 2), Err(errno::TOO_MANY_OPEN));
    // Moving one onto another makes room.
    guest.must("fd_renumber", &[udp, 0]);
    assert_eq!(guest.open_path(3, "file", 1, 1 << 6), Ok(udp));
    // Three streams and a directory are the least that this guest begins with.
    assert!(starts(stage().limit("descriptors", 4)));
    let Err(error) = stage().limit("descriptors", 3).try_start() else { panic!("it starts") };
    assert!(error.hint().is_some_and(|hint| hint.contains("descriptors")), "{error}");
}

#[test]
fn connections() {
    let mut guest = Stage::new().publish("0:80").limit("connections", 2).start();
    let listener = guest.listen(80);
    guest.set_flags(listener, NONBLOCK);
    let _clients: Vec<_> = (0..3).map(|_| connect(guest.address(0))).collect();
    let out = guest.room(4);
    let accept = |guest: &mut Puppet| {
        guest.poll(&[Wait::Read(listener)]);
        guest.told(out, "sock_accept", &[listener, out])
    };
    let (first, second) = (accept(&mut guest), accept(&mut guest));
    assert_eq!((first, second), (Ok(listener + 1), Ok(listener + 2)));
    // The third is neither told of nor accepted; sockets of the guest's own are no connections.
    assert!(guest.look(&[Wait::Read(listener)]).is_empty());
    assert_eq!(guest.told(out, "sock_accept", &[listener, out]), Err(errno::AGAIN));
    guest.tcp();
    guest.close(listener + 1);
    assert_eq!(accept(&mut guest), Ok(listener + 1));
}

/// Bytes moved for buffers of these lengths.
const EDGES: [(u64, u64); 3] = [(999, 999), (1000, 1000), (1001, 1000)];

#[test]
fn copied_bytes_of_sockets_and_streams() {
    let mut file = tempfile::tempfile().expect("a file");
    file.write_all(&[7; 5000]).expect("it is ours");
    file.rewind().expect("it is a file");
    let out = tempfile::tempfile().expect("a file");
    let mut guest = Stage::new().publish("0:80").stdin(file).stdout(out).limit("copy-bytes", 1000).start();
    let listener = guest.listen(80);
    let mut client = connect(guest.address(0));
    let fd = guest.accept(listener);
    for (asked, moved) in EDGES {
        let bytes = vec![7; usize::try_from(asked).expect("it is small")];
        assert_eq!(guest.send(fd, &bytes), Ok(moved));
        assert_eq!(guest.write(fd, &bytes), Ok(moved));
        assert_eq!(guest.write(1, &bytes), Ok(moved));
        let mut received = vec![0; usize::try_from(2 * moved).expect("it is small")];
        client.read_exact(&mut received).expect("the guest has sent it");
        client.write_all(&received).expect("the guest receives");
        assert_eq!(guest.recv_with(fd, asked, 2).map(|bytes| bytes.len() as u64), Ok(moved));
        assert_eq!(guest.recv_with(fd, moved, 2).map(|bytes| bytes.len() as u64), Ok(moved));
        assert_eq!(guest.read(0, asked).map(|bytes| bytes.len() as u64), Ok(moved));
    }
    // Together, not each.
    let at = guest.room(2000);
    let (vector, size) = (guest.vector(&[(at, 600), (at + 600, 600), (at + 1200, 600)]), guest.room(4));
    assert_eq!(guest.told(size, "sock_send", &[fd, vector, 3, 0, size]), Ok(1000));
}

#[test]
fn copied_and_held_bytes_of_files() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("file"), [7; 5000]).expect("it is ours");
    for limit in ["copy-bytes", "held-bytes"] {
        let mut guest = Stage::preview1().directory(folder.path(), "/").limit(limit, 1000).start();
        let fd = guest.open_path(3, "file", 0, 1 << 1 | 1 << 6).expect("it is there");
        let (buffer, size) = (guest.room(1001), guest.room(4));
        for (asked, _) in EDGES {
            let bytes = vec![7; usize::try_from(asked).expect("it is small")];
            // Short where it is too much, as of a socket; wasmtime's vector of buffers counts too.
            let shortest = asked.min(1000 - 16);
            let vector = guest.vector(&[(buffer, asked)]);
            let moved = [
                guest.read(fd, asked).map(|bytes| bytes.len() as u64),
                guest.write(fd, &bytes),
                guest.told(size, "fd_pread", &[fd, vector, 1, 0, size]),
                guest.told(size, "fd_pwrite", &[fd, vector, 1, 0, size]),
            ];
            for moved in moved {
                assert!(moved.is_ok_and(|moved| (shortest..=1000).contains(&moved)), "{limit} {asked}: {moved:?}");
            }
        }
    }
}

#[test]
fn held_bytes_of_paths() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut guest = Stage::preview1().directory(folder.path(), "/").limit("held-bytes", 64).start();
    for (length, wanted) in [(63, errno::NO_ENTRY), (64, errno::NO_ENTRY), (65, errno::NO_MEMORY)] {
        for _ in 0..3 {
            assert_eq!(guest.open_path(3, &"x".repeat(length), 0, 0), Err(wanted), "{length}");
        }
    }
}

#[test]
fn random_bytes() {
    let mut guest = Stage::preview1().limit("random-bytes", 32).start();
    let at = guest.room(64);
    for (length, wanted) in [(31, errno::SUCCESS), (32, errno::SUCCESS), (33, errno::TOO_BIG)] {
        assert_eq!(guest.call("random_get", &[at, length]), wanted, "{length}");
    }
    assert_eq!(guest.call("random_get", &[at, u32::MAX.into()]), errno::TOO_BIG);
}

#[test]
fn environment_bytes() {
    let text = "(module (memory (export \"memory\") 1) (func (export \"_start\")))";
    // `test.wasm`, an argument of three bytes, `NAME=value`, each with its NUL.
    let exact = 10 + 4 + 11;
    for (limit, starts) in [(exact - 1, false), (exact, true), (exact + 1, true)] {
        let mut limits = Limits::default();
        limits.set("environment-bytes", limit);
        let server = load(text).unwrap_or_else(|error| panic!("{error}"));
        let server = server.args(["arg".to_owned()]).env("NAME", "other").env("NAME", "value").limits(limits);
        match server.start() {
            Ok(running) => assert!(starts && running.wait() == Outcome::Exited(0), "{limit}"),
            Err(error) => {
                assert!(!starts, "{limit}: {error}");
                assert!(error.to_string().contains("have 25 bytes, the limit is 24"), "{error}");
                assert!(error.hint().is_some_and(|hint| hint.contains("environment-bytes")), "{error}");
            }
        }
    }
}

#[test]
fn iovecs() {
    let mut guest = Stage::new().publish("0:80").limit("iovecs", 4).start();
    let listener = guest.listen(80);
    let mut client = connect(guest.address(0));
    let fd = guest.accept(listener);
    client.write_all(&[7; 64]).expect("the guest receives");
    let (out, udp, slot) = (guest.room(64), guest.udp(), guest.address_of("127.0.0.1"));
    let vector = guest.vector(&[(out, 1); 6]);
    for (count, wanted) in
        [(3, errno::SUCCESS), (4, errno::SUCCESS), (5, errno::INVALID), (u32::MAX.into(), errno::INVALID)]
    {
        let calls: [(&str, &[u64]); 6] = [
            ("fd_read", &[0, vector, count, out]),
            ("fd_write", &[1, vector, count, out]),
            ("fd_read", &[fd, vector, count, out]),
            ("fd_write", &[fd, vector, count, out]),
            ("sock_recv", &[fd, vector, count, 0, out, out]),
            ("sock_send", &[fd, vector, count, 0, out]),
        ];
        for (name, params) in calls {
            assert_eq!(guest.call(name, params), wanted, "{name} {count}");
        }
        if wanted != errno::SUCCESS {
            assert_eq!(guest.call("sock_recv_from", &[udp, vector, count, slot, 0, out, out, out]), wanted);
            assert_eq!(guest.call("sock_send_to", &[udp, vector, count, slot, 9, 0, out]), wanted);
        }
    }
}

#[test]
fn subscriptions() {
    let mut guest = Stage::new().limit("subscriptions", 4).start();
    let now = Wait::After(1, 0);
    for name in ["poll_oneoff", "epoll_oneoff"] {
        for count in [3, 4] {
            assert_eq!(guest.poll_by(name, &vec![now; count]).map(|events| events.len()), Ok(count));
        }
        assert_eq!(guest.poll_by(name, &[now; 5]), Err(errno::INVALID));
        assert_eq!(guest.call(name, &[0, 0, u32::MAX.into(), 0]), errno::INVALID);
    }
}

/// What languages with exceptions, and with objects that are collected, are made of: `$thrower` throws, and `$node`
/// is an object of 16 bytes with a link.
const LANGUAGE: &str = "
    (memory (export \"memory\") 1)
    (tag $exception (param i32))
    (type $node (struct (field $next (ref null $node)) (field i64)))
    (func $thrower (throw $exception (i32.const 42)))
    (func $is (param i32 i32) (if (i32.ne (local.get 0) (local.get 1)) (then (unreachable))))";

fn ends(start: &str, limit: impl FnOnce(&mut Limits)) -> Outcome {
    let server = load(&format!("(module {LANGUAGE} (func (export \"_start\") {start}))"));
    let mut limits = Limits::default();
    limit(&mut limits);
    let running = server.unwrap_or_else(|error| panic!("{error}")).limits(limits).start();
    running.expect("it can be started").wait()
}

#[test]
fn an_exception_is_caught_or_ends_the_guest_in_words() {
    let caught = "(call $is (i32.const 42) (block $caught (result i32)
        (try_table (catch $exception $caught) (call $thrower)) (unreachable)))";
    assert_eq!(ends(caught, |_| {}), Outcome::Exited(0));
    let Outcome::Trapped { reason, backtrace } = ends("(call $thrower)", |_| {}) else { panic!("nobody catches it") };
    assert_eq!(reason, "nothing catches an exception that it threw");
    assert!(backtrace.contains("thrower"), "{backtrace}");
}

#[test]
fn objects_without_a_link_make_room_and_others_count_as_memory() {
    let make = |node: &str, count: u32| {
        format!(
            "(local $list (ref null $node)) (local $count i32)
             (loop $more
               (local.set $list (struct.new $node {node} (i64.const 1)))
               (local.set $count (i32.add (local.get $count) (i32.const 1)))
               (br_if $more (i32.lt_u (local.get $count) (i32.const {count}))))"
        )
    };
    let few = |limits: &mut Limits| limits.memory_bytes = 4 << 20;
    assert_eq!(ends(&make("(ref.null $node)", 2_000_000), few), Outcome::Exited(0));
    assert_eq!(ends(&make("(local.get $list)", 20_000), few), Outcome::Exited(0));
    let Outcome::OutOfMemory { reason, .. } = ends(&make("(local.get $list)", 2_000_000), few) else {
        panic!("it has more than its memory may have")
    };
    assert!(reason.contains("4 MiB"), "{reason}");
}
