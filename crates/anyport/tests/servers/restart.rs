//! What comes after a guest's end.

use std::io;
use std::time::{Duration, Instant};

use anyport::server::{Restart, StdioTarget};
use anyport::{Outcome, Policy, Running};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

use crate::servers::started::{Setup, ends};
use crate::support::{Count, Guest, Tested, within};
use crate::wat_support::load;

const RESTARTS: [Restart; 3] = [Restart::No, Restart::OnFailure, Restart::Always];

/// How a guest ends, as a behaviour guest is told to, and as a module does it.
const ENDS: [(&str, &str); 3] =
    [("trap", "unreachable"), ("exit 1", "(call $exit (i32.const 1))"), ("exit 0", "(call $exit (i32.const 0))")];

fn is(outcome: &Outcome, end: &str) -> bool {
    match outcome {
        Outcome::Trapped { reason, .. } => end == "trap" && reason.contains("unreachable"),
        Outcome::Exited(code) => end == format!("exit {code}"),
        _ => false,
    }
}

#[tokio::test]
async fn a_guest_that_has_served_is_started_again_where_that_is_wanted() -> Tested {
    for guest in [Guest::Preview1, Guest::Wasmedge, Guest::Wasix, Guest::Sockets02, Guest::Sockets03] {
        for restart in RESTARTS {
            for (end, _) in ENDS {
                let mut server = Setup::of(guest).restart(restart).start().await?;
                let mut client = server.served(1).await?.remove(0);
                client.send(format!("{end}\n")).await?;
                ends(&mut client).await?;
                let again = match restart {
                    Restart::No => false,
                    Restart::OnFailure => end != "exit 0",
                    Restart::Always => true,
                };
                if again {
                    // Never refused, and nothing is left of the one before.
                    assert_eq!(server.connect().await?.count().await?, Count { open: 1, accepted: 1 });
                    server.guest_listens().await?;
                    server.stop().await?;
                } else {
                    server.refuses().await?;
                    let outcome = server.outcome().await?;
                    assert!(is(&outcome, end), "{restart:?} after `{end}`: {outcome:?}");
                }
            }
        }
    }
    Ok(())
}

/// A module that writes a byte and ends.
struct Short {
    running: Running,
    printed: pipe::Receiver,
}

impl Short {
    /// `also` is imported and not called: with `sock_accept` it is handed a listener.
    fn start(end: &str, also: &str, restart: Restart) -> Self {
        let text = format!(
            "(module
              (import \"wasi_snapshot_preview1\" \"fd_write\" (func $write (param i32 i32 i32 i32) (result i32)))
              (import \"wasi_snapshot_preview1\" \"proc_exit\" (func $exit (param i32)))
              {also}
              (memory (export \"memory\") 1)
              (data (i32.const 0) \"\\08\\00\\00\\00\\01\\00\\00\\00s\")
              (func (export \"_start\")
                (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 16)))
                {end}))"
        );
        let (reader, writer) = io::pipe().expect("a test may open descriptors");
        let server = load(&text)
            .unwrap_or_else(|error| panic!("{error}"))
            .policy(Policy { publish: vec!["0:80".parse().expect("a port")], ..Policy::default() })
            .restart(restart)
            .stdio(StdioTarget::Null, StdioTarget::Fd(writer.into()), StdioTarget::Null);
        let running = server.start().unwrap_or_else(|error| panic!("{error}"));
        Self { running, printed: pipe::Receiver::from_owned_fd(reader.into()).expect("it is a pipe") }
    }

    /// Waits for so many starts.
    async fn starts(&mut self, count: usize) -> Tested {
        within("waiting for guests to start", self.printed.read_exact(&mut vec![0; count])).await.map(drop)
    }

    /// All its starts, once it has ended by itself; and how.
    async fn ends(mut self) -> Tested<(usize, Outcome)> {
        within("waiting for the end", async {
            self.running.ended().await;
            Ok(())
        })
        .await?;
        let outcome = self.running.wait();
        let mut starts = Vec::new();
        within("counting the starts", self.printed.read_to_end(&mut starts)).await?;
        Ok((starts.len(), outcome))
    }
}

const ACCEPT: &str = "(import \"wasi_snapshot_preview1\" \"sock_accept\" (func (param i32 i32 i32) (result i32)))";

/// It would fail again; also where the host has listened for it already.
#[tokio::test]
async fn a_guest_that_has_not_served_stays_down_unless_it_is_always_wanted() -> Tested {
    for also in ["", ACCEPT] {
        for (end, code) in ENDS {
            for restart in [Restart::No, Restart::OnFailure] {
                let (starts, outcome) = Short::start(code, also, restart).ends().await?;
                assert_eq!(starts, 1, "{restart:?} after `{end}`");
                assert!(is(&outcome, end), "{restart:?} after `{end}`: {outcome:?}");
            }
            let mut short = Short::start(code, also, Restart::Always);
            short.starts(2).await?;
            short.running.stop();
            short.ends().await?;
        }
    }
    Ok(())
}

/// 100, 200, 400 and 800 ms lie between five starts.
#[tokio::test]
async fn the_pause_before_a_start_doubles() -> Tested {
    let began = Instant::now();
    let mut short = Short::start("unreachable", "", Restart::Always);
    for (starts, least) in [(1, 0), (1, 100), (1, 300), (1, 700), (1, 1500)] {
        short.starts(starts).await?;
        assert!(began.elapsed() >= Duration::from_millis(least), "{:?} and not {least} ms", began.elapsed());
    }
    // The next one is 1.6 s away: it is not waited for.
    let stopping = Instant::now();
    short.running.stop();
    let (more, _) = short.ends().await?;
    assert!(more == 0 || stopping.elapsed() > Duration::from_secs(1), "{more} more starts");
    Ok(())
}

/// Those of the other workers go on, and new ones are served meanwhile.
#[tokio::test]
async fn a_guest_that_traps_takes_its_own_connections_alone() -> Tested {
    for guest in [Guest::Preview1, Guest::Wasmedge, Guest::Wasix, Guest::Sockets02, Guest::Sockets03] {
        let mut server = Setup::of(guest).workers(3).start().await?;
        let mut clients = server.served(9).await?;
        clients[0].send("trap\n").await?;
        for trapped in [0, 3, 6] {
            ends(&mut clients[trapped]).await?;
        }
        for other in [1, 2, 4, 5, 7, 8] {
            assert_eq!(clients[other].count().await?, Count { open: 3, accepted: 3 });
        }
        let mut meanwhile = server.served(6).await?;
        server.guest_listens().await?;
        // It has none, or those that came since.
        let mut next = server.served(3).await?;
        for client in clients.iter_mut().skip(1).step_by(3).chain(&mut meanwhile).chain(&mut next) {
            assert_eq!(client.ask("echo still here").await?, "still here");
        }
        for other in [1, 2] {
            let Count { open, accepted } = clients[other].count().await?;
            assert_eq!(u64::from(open), accepted, "nothing that it had was lost");
        }
        server.stop().await?;
    }
    Ok(())
}

/// All of them wait for the next guest, as long as it takes.
#[tokio::test]
async fn clients_of_the_only_guest_wait_for_the_next() -> Tested {
    for guest in
        [Guest::Preview1, Guest::Wasmedge, Guest::WasmedgeBlocking, Guest::Wasix, Guest::Sockets02, Guest::Sockets03]
    {
        let server = Setup::of(guest).start().await?;
        let port = server.port().clone();
        // The pause doubles each time.
        for _ in 0..3 {
            let mut client = server.served(1).await?.remove(0);
            client.send("trap\n").await?;
            ends(&mut client).await?;
            let mut late = server.connect_all(10).await?;
            for client in &mut late {
                client.send("echo late\n").await?;
                client.finish().await?;
            }
            for client in &mut late {
                assert_eq!(client.line().await?, "late");
                client.end().await?;
            }
        }
        assert_eq!(*server.port(), port);
        server.stop().await?;
    }
    Ok(())
}

/// Nobody is there for a while, and nobody is refused.
#[tokio::test]
async fn clients_wait_while_all_guests_are_away() -> Tested {
    let server = Setup::of(Guest::Wasmedge).workers(3).start().await?;
    for _ in 0..2 {
        let mut clients = server.served(3).await?;
        for client in &mut clients {
            client.send("trap\n").await?;
        }
        for client in &mut clients {
            ends(client).await?;
        }
        let mut late = server.connect_all(30).await?;
        for client in &mut late {
            assert_eq!(client.ask("echo late").await?, "late");
        }
        drop(late);
        // All are back, and have no other.
        let mut last = server.connect_all(3).await?;
        for client in &mut last {
            assert_eq!(client.ask("echo in").await?, "in");
        }
    }
    server.stop().await
}

/// The others serve on, and the worst end is told.
#[tokio::test]
async fn a_worker_may_end_for_good() -> Tested {
    let server = Setup::of(Guest::Preview1).workers(3).restart(Restart::No).start().await?;
    let mut clients = server.served(3).await?;
    for (turn, end) in ["exit 0", "trap", "exit 7"].into_iter().enumerate() {
        clients[turn].send(format!("{end}\n")).await?;
        ends(&mut clients[turn]).await?;
        for client in &mut clients[turn + 1..] {
            assert_eq!(client.ask("echo still here").await?, "still here");
        }
        if turn < 2 {
            server.served(3).await?;
        }
    }
    server.refuses().await?;
    let outcome = server.outcome().await?;
    assert!(is(&outcome, "trap"), "{outcome:?}");
    Ok(())
}
