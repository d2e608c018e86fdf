//! The hooks of a container: programs of the host that are told of its life.
use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::Stdio;
use std::time::Duration;

use anyport::Error;
use anyport::error::ErrorKind;
use oci_spec::runtime::Hook;
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStderr, Command};

/// As much of what a hook says of its failure is told.
const STDERR_BYTES_MAX: usize = 4096;

/// So long is waited for what a hook has said that has ended.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// What a hook reads: the state of the container.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct HookState {
    /// The version of the runtime specification, from the container's own.
    pub(crate) oci_version: String,
    pub(crate) id: String,
    /// `creating`, `created`, `running` or `stopped`.
    pub(crate) status: String,
    /// The container's process, unless there is none any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) pid: Option<u32>,
    pub(crate) bundle: PathBuf,
    #[serde(skip_serializing_if = "HashMap::is_empty")]
    pub(crate) annotations: HashMap<String, String>,
}

/// Runs hooks one after the other, until one fails.
pub(crate) async fn run(hooks: &[Hook], state: &HookState) -> Result<(), Error> {
    if hooks.is_empty() {
        return Ok(());
    }
    let state = serde_json::to_vec(state)
        .map_err(|error| Error::new(ErrorKind::Host, format!("cannot tell hooks the container's state: {error}")))?;
    for hook in hooks {
        run_one(hook, &state).await.map_err(|wrong| {
            Error::new(ErrorKind::Host, format!("the hook {} failed: {wrong}", hook.path().display()))
        })?;
    }
    Ok(())
}

async fn run_one(hook: &Hook, state: &[u8]) -> Result<(), String> {
    if !hook.path().is_absolute() {
        return Err("its path does not begin with `/`".to_owned());
    }
    let timeout = match hook.timeout() {
        None => None,
        Some(seconds) => match u64::try_from(seconds) {
            Ok(seconds @ 1..) => Some(Duration::from_secs(seconds)),
            Ok(_) | Err(_) => return Err(format!("its timeout is {seconds} seconds")),
        },
    };
    let mut child = command(hook).spawn().map_err(|error| error.to_string())?;
    let ended = end(&mut child, state);
    let result = match timeout {
        None => ended.await,
        Some(limit) => match tokio::time::timeout(limit, ended).await {
            Ok(result) => result,
            Err(_) => {
                // It has its time; what it has started may go on.
                let _ = child.kill().await;
                return Err(format!("it took longer than its {} seconds", limit.as_secs()));
            }
        },
    };
    result.map_err(|error| error.to_string())?
}

fn command(hook: &Hook) -> Command {
    let mut command = Command::new(hook.path());
    if let Some((name, args)) = hook.args().as_deref().and_then(<[String]>::split_first) {
        command.arg0(name).args(args);
    }
    // It gets its own variables and no others.
    command.env_clear();
    for variable in hook.env().iter().flatten() {
        if let Some((name, value)) = variable.split_once('=') {
            command.env(name, value);
        }
    }
    command.current_dir(Path::new("/")).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    command.kill_on_drop(true);
    command
}

/// Tells a hook the state, and waits for its end. A process that it leaves behind may hold its stderr
/// for ever: that is read for a moment more, and only if the hook has failed.
async fn end(child: &mut Child, state: &[u8]) -> io::Result<Result<(), String>> {
    let (stdin, stderr) = (child.stdin.take(), child.stderr.take());
    let tell = async {
        if let Some(mut stdin) = stdin {
            // One that does not read, or not all, may do so.
            let _ = stdin.write_all(state).await;
        }
    };
    let mut said = Vec::new();
    let status = {
        let mut listen = pin!(listen(stderr, &mut said));
        let ended = async { tokio::join!(child.wait(), tell).0 };
        let mut ended = pin!(ended);
        tokio::select! {
            status = &mut ended => {
                let status = status?;
                if !status.success() {
                    let _ = tokio::time::timeout(LAST_WORDS, listen).await;
                }
                status
            }
            () = &mut listen => ended.await?,
        }
    };
    if status.success() {
        return Ok(Ok(()));
    }
    let said = String::from_utf8_lossy(&said);
    let said = said.trim();
    Ok(Err(if said.is_empty() { status.to_string() } else { format!("{status}: {said}") }))
}

/// Keeps the beginning of what is said, and reads on.
async fn listen(stderr: Option<ChildStderr>, said: &mut Vec<u8>) {
    let Some(mut stderr) = stderr else { return };
    let mut piece = [0; 1024];
    while let Ok(length @ 1..) = stderr.read(&mut piece).await {
        let left = STDERR_BYTES_MAX.saturating_sub(said.len());
        said.extend_from_slice(&piece[..length.min(left)]);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Instant;

    use serde_json::{Value, json};

    use super::*;

    fn state() -> HookState {
        HookState {
            oci_version: "1.2.0".to_owned(),
            id: "abc".to_owned(),
            status: "creating".to_owned(),
            pid: Some(7),
            bundle: "/bundle".into(),
            annotations: HashMap::from([("k".to_owned(), "v".to_owned())]),
        }
    }

    fn hook(script: &str, more: Value) -> Hook {
        let mut hook = json!({"path": "/bin/sh", "args": ["the-hook", "-c", script]});
        hook.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(hook).unwrap()
    }

    #[tokio::test]
    async fn a_hook_reads_the_state_and_has_only_its_own_variables() {
        let folder = tempfile::tempdir().unwrap();
        let (told, seen) = (folder.path().join("told"), folder.path().join("seen"));
        let script = format!("cat >{}; echo $0 $A $HOME $PWD >{}", told.display(), seen.display());
        let path = "PATH=/usr/bin:/bin";
        run(&[hook(&script, json!({"env": ["A=1", path]})), hook("exit 0", json!({}))], &state()).await.unwrap();
        let told: Value = serde_json::from_str(&fs::read_to_string(told).unwrap()).unwrap();
        let whole = json!({"ociVersion": "1.2.0", "id": "abc", "status": "creating", "pid": 7, "bundle": "/bundle",
            "annotations": {"k": "v"}});
        assert_eq!(told, whole);
        assert_eq!(fs::read_to_string(seen).unwrap(), "the-hook 1 /\n");
    }

    #[tokio::test]
    async fn a_failure_is_told_and_ends_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        let second = format!("echo >{}", file.display());
        let hooks = [hook("echo no bridge >&2; exit 3", json!({})), hook(&second, json!({}))];
        let error = run(&hooks, &state()).await.unwrap_err().to_string();
        assert_eq!(error, "the hook /bin/sh failed: exit status: 3: no bridge");
        assert!(!file.exists());
        let missing: Hook = serde_json::from_value(json!({"path": "/not/there"})).unwrap();
        let error = run(&[missing], &state()).await.unwrap_err().to_string();
        assert!(error.starts_with("the hook /not/there failed: No such file"), "{error}");
        let relative: Hook = serde_json::from_value(json!({"path": "sh"})).unwrap();
        assert!(run(&[relative], &state()).await.unwrap_err().to_string().contains("does not begin with `/`"));
    }

    #[tokio::test]
    async fn a_hook_has_its_time() {
        let started = Instant::now();
        let error = run(&[hook("while :; do :; done", json!({"timeout": 1}))], &state()).await.unwrap_err();
        assert!(error.to_string().contains("longer than its 1 seconds"), "{error}");
        assert!(started.elapsed() < Duration::from_secs(30));
        let error = run(&[hook("exit 0", json!({"timeout": 0}))], &state()).await.unwrap_err();
        assert!(error.to_string().contains("its timeout is 0 seconds"), "{error}");
    }

    #[tokio::test]
    async fn what_a_hook_leaves_behind_is_not_waited_for() {
        let started = Instant::now();
        let path = json!({"env": ["PATH=/usr/bin:/bin"]});
        run(&[hook("sleep 10 & exit 0", path.clone())], &state()).await.unwrap();
        let error = run(&[hook("sleep 10 & echo why >&2; exit 1", path)], &state()).await.unwrap_err().to_string();
        assert!(error.contains("exit status: 1: why"), "{error}");
        assert!(started.elapsed() < Duration::from_secs(9));
    }

    #[tokio::test]
    async fn a_hook_may_say_much_and_read_nothing() {
        let path = json!({"env": ["PATH=/usr/bin:/bin"]});
        let much = HookState { annotations: HashMap::from([("k".to_owned(), "v".repeat(1 << 20))]), ..state() };
        run(&[hook("head -c 1000000 /dev/zero >&2", path)], &much).await.unwrap();
    }
}
