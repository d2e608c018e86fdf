//! Guests that compute for long: beside others they give way, on a thread of their own; alone they do not.
//!
//! What this costs whom is measured by `bench/workers.py`. Here it is seen which threads there are: those
//! that poll a guest have its name.

use std::fs;
use std::pin::pin;
use std::time::{Duration, Instant};

use anyport::server::Restart;
use anyport::{Artifact, Limits, Outcome, Policy, Running, Runtime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::servers::started::LONG;
use crate::support::{Tested, within};

/// Steps of what the guest below computes in a fraction of a second, and in far less than a millisecond.
const MANY: u64 = 300_000_000;
const FEW: u64 = 1000;

const FACTOR: u64 = 6_364_136_223_846_793_005;
const ADDEND: u64 = 1_442_695_040_888_963_407;

/// Serves one client: for each byte it computes so many steps of a generator of random numbers from that byte on, and
/// answers with the last number. It begins with as many.
fn computing(first: u64, steps: u64) -> String {
    let preview1 = |name: &str, params: &str| {
        format!("(import \"wasi_snapshot_preview1\" \"{name}\" (func ${name} (param {params}) (result i32)))")
    };
    let imports = [
        preview1("sock_accept", "i32 i32 i32"),
        preview1("poll_oneoff", "i32 i32 i32 i32"),
        preview1("fd_read", "i32 i32 i32 i32"),
        preview1("fd_write", "i32 i32 i32 i32"),
    ]
    .concat();
    format!(
        "(module {imports}
          (memory (export \"memory\") 1)
          ;; A subscription to descriptor 3: whether it can be read. Then buffers of 1 and 8 bytes, both at 256.
          (data (i32.const 8) \"\\01\") (data (i32.const 16) \"\\03\")
          (data (i32.const 64) \"\\00\\01\\00\\00\\01\\00\\00\\00\\00\\01\\00\\00\\08\\00\\00\\00\")
          (func $compute (param $number i64) (param $steps i64) (result i64)
            (loop $next
              (local.set $number
                (i64.add (i64.mul (local.get $number) (i64.const {FACTOR})) (i64.const {ADDEND})))
              (local.set $steps (i64.sub (local.get $steps) (i64.const 1)))
              (br_if $next (i64.ne (local.get $steps) (i64.const 0))))
            (local.get $number))
          (func (export \"_start\")
            (drop (call $compute (i64.const 0) (i64.const {first})))
            (drop (call $poll_oneoff (i32.const 0) (i32.const 96) (i32.const 1) (i32.const 128)))
            (if (call $sock_accept (i32.const 3) (i32.const 0) (i32.const 128)) (then (unreachable)))
            (loop $next
              (if (call $fd_read (i32.const 4) (i32.const 64) (i32.const 1) (i32.const 128)) (then (unreachable)))
              (if (i32.load (i32.const 128))
                (then
                  (i64.store (i32.const 256)
                    (call $compute (i64.load8_u (i32.const 256)) (i64.const {steps})))
                  (if (call $fd_write (i32.const 4) (i32.const 72) (i32.const 1) (i32.const 128))
                    (then (unreachable)))
                  (br $next))))))"
    )
}

/// What that guest answers. Many steps are one of the same form, found by doubling.
fn computed(byte: u8, mut steps: u64) -> u64 {
    let mut number = u64::from(byte);
    let (mut factor, mut addend) = (FACTOR, ADDEND);
    while steps > 0 {
        if steps & 1 == 1 {
            number = number.wrapping_mul(factor).wrapping_add(addend);
        }
        addend = addend.wrapping_mul(factor).wrapping_add(addend);
        factor = factor.wrapping_mul(factor);
        steps >>= 1;
    }
    number
}

/// Guests of one runtime, which no other test has a guest of.
struct Neighbours(Runtime);

/// One of them, and its only client.
struct Computing {
    running: Running,
    client: TcpStream,
    steps: u64,
}

impl Neighbours {
    fn new() -> Self {
        Self(Runtime::builder().build().expect("tests run where anyport does"))
    }

    fn start(&self, name: &str, text: &str, limits: Limits) -> Running {
        let module = wat::parse_str(text).unwrap_or_else(|error| panic!("{error}"));
        let server = self.0.load(&Artifact::from_bytes(name, module)).unwrap_or_else(|error| panic!("{error}"));
        let publish = vec!["0:80".parse().expect("a port")];
        let server = server.policy(Policy { publish, ..Policy::default() }).limits(limits).restart(Restart::No);
        server.start().unwrap_or_else(|error| panic!("{error}"))
    }

    /// One that computes so many steps for each answer.
    async fn computing(&self, name: &str, steps: u64) -> Tested<Computing> {
        let running = self.start(name, &computing(FEW, steps), Limits::default());
        let address = running.ports()[0].address().expect("it is an IP port");
        let client = within("connecting", TcpStream::connect(address)).await?;
        Ok(Computing { running, client, steps })
    }
}

impl Computing {
    async fn ask(&mut self, byte: u8) -> Tested {
        within("asking", self.client.write_all(&[byte])).await
    }

    async fn answers(&mut self, byte: u8) -> Tested {
        let answer = within("waiting for the answer", self.client.read_u64_le()).await?;
        assert_eq!(answer, computed(byte, self.steps));
        Ok(())
    }

    /// Answers, and is polled by one thread the whole time.
    async fn answers_at_home(&mut self, byte: u8, name: &str) -> Tested {
        self.ask(byte).await?;
        let mut answer = pin!(self.answers(byte));
        loop {
            tokio::select! {
                answered = &mut answer => return answered,
                // Of threads that go on, the kernel may leave some out while others end.
                () = tokio::time::sleep(Duration::from_millis(1)) => assert!(threads(name).len() <= 1),
            }
        }
    }
}

/// How a server ends, which it does by now.
async fn outcome(running: Running) -> Tested<Outcome> {
    within("waiting for its end", async {
        running.ended().await;
        Ok(running.wait())
    })
    .await
}

/// The niceness of each thread of this name.
fn threads(name: &str) -> Vec<i32> {
    let tasks = fs::read_dir("/proc/self/task").expect("Linux has it");
    let niceness = tasks.filter_map(|task| {
        // Some end meanwhile.
        let stat = fs::read_to_string(task.ok()?.path().join("stat")).ok()?;
        let (comm, fields) = stat.split_once('(')?.1.rsplit_once(") ")?;
        // It is field 19, and the one after the name is the third.
        (comm == name).then(|| fields.split(' ').nth(16)?.parse().ok())?
    });
    niceness.collect()
}

/// Waits until a guest is polled by so many threads; the second of two gives way to the first.
async fn until_polled_by(count: usize, name: &str) {
    let began = Instant::now();
    loop {
        let mut threads = threads(name);
        threads.sort_unstable();
        if threads.len() == count {
            // It is nice from its first moment on, or the next.
            match threads[..] {
                [home, aside] if aside <= home && home < 19 => {}
                _ => return,
            }
        }
        assert!(began.elapsed() < LONG, "{name} has threads {threads:?}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn a_guest_that_computes_for_long_beside_another_gives_way_and_comes_back() -> Tested {
    let neighbours = Neighbours::new();
    let mut other = neighbours.computing("lane-other", FEW).await?;
    let mut computing = neighbours.computing("lane-comeback", MANY).await?;
    for byte in [7, 255] {
        computing.ask(byte).await?;
        until_polled_by(2, "lane-comeback").await;
        other.ask(byte).await?;
        other.answers(byte).await?;
        computing.answers(byte).await?;
        until_polled_by(1, "lane-comeback").await;
    }
    assert_eq!(threads("lane-other").len(), 1);
    Ok(())
}

#[tokio::test]
async fn a_guest_alone_gives_way_to_nobody() -> Tested {
    let neighbours = Neighbours::new();
    let mut computing = neighbours.computing("lane-alone", MANY).await?;
    computing.answers_at_home(9, "lane-alone").await?;
    // One that has ended is no neighbour either.
    let other = neighbours.computing("lane-gone", FEW).await?;
    other.running.stop();
    assert_eq!(other.running.wait(), Outcome::Stopped);
    computing.answers_at_home(10, "lane-alone").await
}

#[tokio::test]
async fn a_guest_that_gives_way_is_ended_after_its_cpu_time() -> Tested {
    let neighbours = Neighbours::new();
    let mut other = neighbours.computing("lane-beside", FEW).await?;
    let mut limits = Limits::default();
    limits.cpu_time = Some(Duration::from_secs(1));
    let looping = neighbours.start("lane-limit", "(module (func (export \"_start\") (loop $on (br $on))))", limits);
    until_polled_by(2, "lane-limit").await;
    other.ask(1).await?;
    other.answers(1).await?;
    match outcome(looping).await? {
        Outcome::Trapped { reason, .. } => assert!(reason.contains("it computed for 1s"), "{reason}"),
        outcome => panic!("{outcome:?}"),
    }
    until_polled_by(0, "lane-limit").await;
    other.ask(2).await?;
    other.answers(2).await
}

#[tokio::test]
async fn a_guest_that_gives_way_is_stopped() -> Tested {
    let neighbours = Neighbours::new();
    let _other = neighbours.computing("lane-unstopped", FEW).await?;
    let text = "(module (func (export \"_start\") (loop $on (br $on))))";
    let looping = neighbours.start("lane-stopped", text, Limits::default());
    until_polled_by(2, "lane-stopped").await;
    looping.stop();
    assert_eq!(outcome(looping).await?, Outcome::Stopped);
    until_polled_by(0, "lane-stopped").await;
    Ok(())
}

#[tokio::test]
async fn a_drain_waits_for_the_answer_of_a_guest_that_gives_way() -> Tested {
    let neighbours = Neighbours::new();
    let _other = neighbours.computing("lane-undrained", FEW).await?;
    let mut computing = neighbours.computing("lane-drained", MANY).await?;
    computing.ask(3).await?;
    until_polled_by(2, "lane-drained").await;
    let Computing { running, client, steps } = computing;
    let draining = tokio::spawn(async move { (running.drain(LONG).await, running.wait()) });
    let mut answer = [0; 8];
    let mut client = client;
    within("waiting for the answer", client.read_exact(&mut answer)).await?;
    assert_eq!(u64::from_le_bytes(answer), computed(3, steps));
    drop(client);
    let (drained, outcome) = within("waiting for the end", async { Ok(draining.await.expect("it ends")) }).await?;
    assert!(drained && matches!(outcome, Outcome::Stopped | Outcome::Exited(0)), "{outcome:?}");
    Ok(())
}

/// Faults come as signals of the thread that polls it.
#[tokio::test]
async fn a_guest_that_gives_way_traps_as_ever() -> Tested {
    let neighbours = Neighbours::new();
    let _other = neighbours.computing("lane-untrapped", FEW).await?;
    for (fault, reason) in [
        ("unreachable", "unreachable"),
        ("(drop (i32.load (i32.const -4)))", "out of bounds"),
        ("(call $deeper)", "its stack is full"),
    ] {
        let text = format!(
            "(module (memory (export \"memory\") 1)
              (func $deeper (call $deeper))
              (func (export \"_start\") (local $steps i64)
                (loop $on
                  (local.set $steps (i64.add (local.get $steps) (i64.const 1)))
                  (br_if $on (i64.ne (local.get $steps) (i64.const {})))
                )
                {fault}))",
            4 * MANY
        );
        let trapping = neighbours.start("lane-trapped", &text, Limits::default());
        until_polled_by(2, "lane-trapped").await;
        match outcome(trapping).await? {
            Outcome::Trapped { reason: told, .. } => assert!(told.contains(reason), "{told}"),
            outcome => panic!("{outcome:?}"),
        }
        until_polled_by(0, "lane-trapped").await;
    }
    Ok(())
}

/// Where nothing was served yet, too: two guests of one server begin at once.
#[tokio::test]
async fn workers_of_one_server_are_neighbours() -> Tested {
    let neighbours = Neighbours::new();
    let module = wat::parse_str("(module (func (export \"_start\") (loop $on (br $on))))").expect("it is valid");
    let server = neighbours.0.load(&Artifact::from_bytes("lane-workers", module)).expect("it is valid");
    let running = server.workers(2).start().expect("nothing is in its way");
    until_polled_by(4, "lane-workers").await;
    running.stop();
    assert_eq!(running.wait(), Outcome::Stopped);
    Ok(())
}
