//! Unix sockets as public ports.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use anyport::{Error, Policy, Publish, Running};
use tempfile::TempDir;
use tokio::net::UnixStream;

use crate::servers::started::ends;
use crate::support::{Client, Guest, Tested, within};

fn folder() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("server.sock");
    (folder, path)
}

fn start(guest: Guest, path: &Path, workers: usize) -> Result<Running, Error> {
    let publish: Publish = format!("unix:{}", path.display()).parse().expect("a path");
    guest.server().policy(Policy { publish: vec![publish], ..Policy::default() }).workers(workers).start()
}

/// Asks, once the guest listens: until then a client is refused.
async fn connect(path: &Path) -> Tested<Client> {
    within("connecting", async {
        loop {
            match UnixStream::connect(path).await {
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                    tokio::task::yield_now().await;
                }
                connected => return connected.map(Client::from),
            }
        }
    })
    .await
}

async fn serves(path: &Path) -> Tested {
    assert_eq!(connect(path).await?.ask("echo in").await?, "in");
    Ok(())
}

#[tokio::test]
async fn it_is_there_while_the_server_is() -> Tested {
    let (_folder, path) = folder();
    for guest in [Guest::Preview1, Guest::Wasmedge, Guest::WasmedgeBlocking, Guest::Sockets02, Guest::Sockets03] {
        for workers in [1, 2] {
            let running = start(guest, &path, workers).unwrap_or_else(|error| panic!("{error}"));
            serves(&path).await?;
            let mut client = connect(&path).await?;
            client.send("trap\n").await?;
            ends(&mut client).await?;
            serves(&path).await?;
            drop(running);
            assert!(!path.exists(), "it is left behind");
        }
    }
    Ok(())
}

#[tokio::test]
async fn it_is_gone_after_a_drain() -> Tested {
    let (_folder, path) = folder();
    let running = start(Guest::Preview1, &path, 2).unwrap_or_else(|error| panic!("{error}"));
    serves(&path).await?;
    assert!(running.drain(crate::servers::started::LONG).await);
    assert!(UnixStream::connect(&path).await.is_err());
    running.wait();
    assert!(!path.exists(), "it is left behind");
    Ok(())
}

/// What a server that was killed has left.
#[tokio::test]
async fn an_abandoned_one_is_replaced() -> Tested {
    let (_folder, path) = folder();
    drop(UnixListener::bind(&path).expect("a free path"));
    assert!(path.exists());
    let _running = start(Guest::Preview1, &path, 1).unwrap_or_else(|error| panic!("{error}"));
    serves(&path).await
}

fn is_refused(path: &Path, why: &str) {
    let Err(error) = start(Guest::Preview1, path, 1) else { panic!("it starts") };
    assert_eq!(error.to_string(), format!("`unix:{}` {why}", path.display()));
}

#[tokio::test]
async fn one_that_is_in_use_is_left_alone() -> Tested {
    let (_folder, path) = folder();
    let running = start(Guest::Preview1, &path, 1).unwrap_or_else(|error| panic!("{error}"));
    serves(&path).await?;
    is_refused(&path, "is in use");
    serves(&path).await?;
    drop(running);
    let _other = UnixListener::bind(&path).expect("it is free again");
    is_refused(&path, "is in use");
    assert!(path.exists());
    Ok(())
}

/// Nobody accepts, and there is no room for another: connecting would wait.
#[tokio::test]
async fn one_with_a_full_backlog_is_left_alone() -> Tested {
    let (_folder, path) = folder();
    let listener = UnixListener::bind(&path).expect("a free path");
    rustix::net::listen(&listener, 0).expect("a socket");
    let _waits = std::os::unix::net::UnixStream::connect(&path).expect("it listens");
    let there = path.clone();
    let refused = tokio::task::spawn_blocking(move || is_refused(&there, "is in use"));
    within("a refusal", async { Ok(refused.await) }).await?.expect("it does not panic");
    assert!(path.exists());
    Ok(())
}

#[tokio::test]
async fn what_came_in_its_place_is_left_alone() -> Tested {
    let (_folder, path) = folder();
    let running = start(Guest::Preview1, &path, 1).unwrap_or_else(|error| panic!("{error}"));
    serves(&path).await?;
    fs::remove_file(&path).expect("it is there");
    let _other = UnixListener::bind(&path).expect("it is free");
    drop(running);
    UnixStream::connect(&path).await.expect("it is the other's");
    Ok(())
}

/// As a guest can do it where it has a folder above to write to.
#[tokio::test]
async fn a_link_in_place_of_its_folder_is_not_followed() -> Tested {
    let (root, _) = folder();
    let [folder, moved, victim] = ["folder", "moved", "victim"].map(|name| root.path().join(name));
    fs::create_dir(&folder).expect("it is ours");
    fs::create_dir(&victim).expect("it is ours");
    let _other = UnixListener::bind(victim.join("server.sock")).expect("it is free");
    let running = start(Guest::Preview1, &folder.join("server.sock"), 1).unwrap_or_else(|error| panic!("{error}"));
    serves(&folder.join("server.sock")).await?;
    fs::rename(&folder, &moved).expect("it is ours");
    symlink("victim", &folder).expect("it is ours");
    serves(&moved.join("server.sock")).await?;
    drop(running);
    assert_eq!(fs::read_dir(&moved).expect("it is there").count(), 0, "it is left behind");
    UnixStream::connect(victim.join("server.sock")).await.expect("it is the other's");
    Ok(())
}

#[test]
fn a_file_of_another_kind_is_left_alone() {
    let (folder, path) = folder();
    let refused = |path: &Path| {
        is_refused(path, &format!("cannot be made: there is `{}`, and it is no socket", path.display()));
    };
    fs::write(&path, "precious").expect("it is ours");
    refused(&path);
    assert_eq!(fs::read_to_string(&path).expect("it is there"), "precious");
    let directory = folder.path().join("directory");
    fs::create_dir(&directory).expect("it is ours");
    refused(&directory);
    assert!(directory.is_dir());
    let link = folder.path().join("link");
    symlink(&path, &link).expect("it is ours");
    refused(&link);
    assert!(link.is_symlink());
}

#[test]
fn a_path_that_cannot_be_made_is_an_error() {
    let (folder, _) = folder();
    let path = folder.path().join("missing/server.sock");
    let Err(error) = start(Guest::Preview1, &path, 1) else { panic!("it starts") };
    assert!(error.to_string().contains("cannot be made"), "{error}");
    let long = folder.path().join("x".repeat(200));
    let Err(error) = start(Guest::Preview1, &long, 1) else { panic!("it starts") };
    assert!(error.to_string().contains("cannot be made"), "{error}");
}
