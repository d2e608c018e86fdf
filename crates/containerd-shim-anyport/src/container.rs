//! One container: how it is made, what can be done with it, how nothing of it is left.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use anyport::Error;
use anyport::error::ErrorKind;
use containerd_shim_protos::api;
use containerd_shim_protos::events::task as task_events;
use containerd_shim_protos::topics;
use containerd_shim_protos::types::mount::Mount;
use oci_spec::runtime::{Hook, LinuxResources, Process as ProcessSpec};
use serde_json::Value;
use tokio::process::Child;
use tokio::sync::{Mutex as AsyncMutex, oneshot};

use crate::bundle::Bundle;
use crate::cgroup::Cgroup;
use crate::control::{AsyncControl, Container as Named, Exec, Failure, FromInit, ToInit};
use crate::events::timestamp;
use crate::exec::{self, Request};
use crate::launch::{Daemon, before_start, expect, lost, prepare, run_hooks, spawn};
use crate::prepare::Preparing;
use crate::process::{self, End, Life, Process};
use crate::sandbox::{self, PidNamespace, RootfsMount};
use crate::stdio::Streams;

/// How long a guest may take to say what it is doing: one that is paused never does.
const STATUS_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a process beside the guest may take to end once it is killed.
const EXEC_TIMEOUT: Duration = Duration::from_secs(2);

/// Where the shim keeps the process number of a container, for whoever cleans up after a dead shim.
pub(crate) const PID_FILE: &str = "init.pid";

/// A container.
pub(crate) struct Container {
    named: Named,
    bundle: Bundle,
    daemon: Daemon,
    cgroup: Cgroup,
    line: Arc<Line>,
    pub(crate) init: Arc<Process>,
    execs: Mutex<HashMap<String, Arc<ExecProcess>>>,
    is_out_of_memory: AtomicBool,
    /// Held while it starts, so that its end is told after its start.
    starting: Arc<AsyncMutex<()>>,
}

/// A process of `docker exec`, and what it will be.
pub(crate) struct ExecProcess {
    pub(crate) process: Arc<Process>,
    spec: ProcessSpec,
}

/// What the init process is told and asked.
struct Line {
    control: AsyncControl,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    started: Option<oneshot::Sender<Result<(), Error>>>,
    status: Vec<oneshot::Sender<Value>>,
}

impl Container {
    /// Makes a container from containerd's request, up to where only its guest's start is missing.
    ///
    /// # Errors
    /// What is wrong with its bundle, its module or this machine; nothing of it is left then.
    pub(crate) async fn create(request: &api::CreateTaskRequest, daemon: &Daemon) -> Result<Arc<Self>, Error> {
        let bundle = Path::new(&request.bundle);
        if !request.rootfs.is_empty() {
            let mounts: Vec<_> = request.rootfs.iter().map(rootfs_mount).collect();
            sandbox::mount_rootfs(&mounts, &bundle.join("rootfs"))?;
        }
        let made = Self::make(request, daemon).await;
        if made.is_err() {
            unmount(bundle);
        }
        made
    }

    async fn make(request: &api::CreateTaskRequest, daemon: &Daemon) -> Result<Arc<Self>, Error> {
        let bundle = Bundle::open(&request.bundle)?;
        let named = Named { id: request.id.clone(), bundle: bundle.path.clone() };
        let linux = bundle.spec.linux().as_ref();
        let cgroup = Cgroup::create(
            &cgroup_path(&bundle, &request.id),
            &request.id,
            linux.and_then(|linux| linux.resources().as_ref()),
        )?;
        let streams = Streams {
            terminal: request.terminal,
            stdin: request.stdin.clone(),
            stdout: request.stdout.clone(),
            stderr: request.stderr.clone(),
        };
        let made = Self::bring_up(&named, bundle, daemon, &cgroup, streams).await;
        let (bundle, init, child, control) = match made {
            Ok(made) => made,
            Err(error) => {
                remove(&cgroup);
                return Err(error);
            }
        };
        let line = Arc::new(Line { control, waiting: Mutex::default() });
        let container = Arc::new(Self {
            named,
            bundle,
            daemon: daemon.clone(),
            cgroup,
            line,
            init,
            execs: Mutex::default(),
            is_out_of_memory: AtomicBool::new(false),
            starting: Arc::default(),
        });
        container.tell_created(request);
        container.watch(child);
        Ok(container)
    }

    /// Starts the init process and brings it to the point where only the guest's start is missing, while
    /// its module is found and compiled.
    async fn bring_up(
        named: &Named, bundle: Bundle, daemon: &Daemon, cgroup: &Cgroup, streams: Streams,
    ) -> Result<(Bundle, Arc<Process>, Child, AsyncControl), Error> {
        // Open for as long as some process writes to it: its reader would take a pause for the end.
        let errors = streams.errors()?;
        let preparing = match bundle.is_sandbox() {
            true => None,
            false => {
                let request = prepare(named, daemon, bundle.args(), &bundle.cwd());
                Some(Preparing::start(&request, &errors).await?)
            }
        };
        let process = Arc::new(Process::new(streams));
        let (mut child, control) = spawn(
            "init",
            sandbox::pid_namespace(&bundle.spec),
            &process,
            named,
            daemon,
            |stdin| (ToInit::Become(named.clone()), vec![stdin]),
            cgroup,
        )
        .await?;
        drop(errors);
        let came_up = async {
            expect(&control, |message| matches!(message, FromInit::Namespaces)).await?;
            // Before the hooks: what is wrong most often leaves nothing of theirs.
            let (mut prepared, module) = match preparing {
                Some(preparing) => preparing.done().await.map(|(prepared, module)| (prepared, Some(module)))?,
                None => Default::default(),
            };
            if let Some(hooks) = bundle.spec.hooks() {
                run_hooks(before_start(hooks), &bundle, named, process.pid(), "created").await?;
            }
            prepared.memory_limit = cgroup.memory_limit();
            let module: Vec<BorrowedFd<'_>> = module.iter().map(AsFd::as_fd).collect();
            control.send(&ToInit::Prepared(prepared), &module).await.map_err(|error| lost(&error))?;
            expect(&control, |message| matches!(message, FromInit::Created)).await
        };
        if let Err(error) = came_up.await {
            let _ = child.kill().await;
            let hooks = bundle.spec.hooks().as_ref().and_then(|hooks| hooks.poststop().as_ref());
            if let Err(error) = run_hooks(hooks.into_iter().flatten(), &bundle, named, process.pid(), "stopped").await {
                tracing::warn!("{error}");
            }
            process.enter(Life::Stopped(End { code: 255, at: SystemTime::now() }));
            return Err(error);
        }
        let pid_file = bundle.path.join(PID_FILE);
        if let Err(error) = std::fs::write(&pid_file, process.pid().to_string()) {
            tracing::warn!("`{}` cannot be written: {error}", pid_file.display());
        }
        Ok((bundle, process, child, control))
    }

    fn tell_created(&self, request: &api::CreateTaskRequest) {
        let mut event = task_events::TaskCreate::new();
        event.container_id.clone_from(&self.named.id);
        event.bundle.clone_from(&request.bundle);
        event.rootfs.clone_from(&request.rootfs);
        event.pid = self.init.pid();
        let io = event.io.mut_or_insert_default();
        io.stdin.clone_from(&request.stdin);
        io.stdout.clone_from(&request.stdout);
        io.stderr.clone_from(&request.stderr);
        io.terminal = request.terminal;
        self.daemon.events.tell(topics::TASK_CREATE_EVENT_TOPIC, &event);
    }

    /// Listens to the init process, and waits for its end.
    fn watch(self: &Arc<Self>, child: Child) {
        let container = Arc::clone(self);
        tokio::spawn(async move { container.listen().await });
        let container = Arc::clone(self);
        tokio::spawn(async move {
            let mut oom = match container.cgroup.oom_events() {
                Ok(oom) => oom,
                Err(error) => return tracing::debug!("nobody tells when memory is short: {error}"),
            };
            while oom.next().await.is_some() {
                container.tell_out_of_memory();
            }
        });
        let container = Arc::clone(self);
        tokio::spawn(async move {
            let end = process::ended(child).await;
            let _started = container.starting.lock().await;
            // Docker looks for this before the end.
            if container.cgroup.oom_kills() > 0 {
                container.tell_out_of_memory();
            }
            // Whoever is left of a shared PID namespace.
            let _ = container.cgroup.kill_all();
            container.end_of_execs().await;
            container.init.enter(Life::Stopped(end));
            container.tell_exit(&container.named.id, container.init.pid(), end);
        });
    }

    /// Waits until the end of each other process is told: containerd asks for nothing after the container's.
    async fn end_of_execs(&self) {
        let execs: Vec<_> = self.execs.lock().expect("no panic while held").values().cloned().collect();
        for exec in execs.iter().filter(|exec| exec.process.pid() != 0) {
            let _ = tokio::time::timeout(EXEC_TIMEOUT, exec.process.end()).await;
        }
    }

    /// Tells it once.
    fn tell_out_of_memory(&self) {
        if self.is_out_of_memory.swap(true, Ordering::SeqCst) {
            return;
        }
        let event = task_events::TaskOOM { container_id: self.named.id.clone(), ..task_events::TaskOOM::default() };
        self.daemon.events.tell(topics::TASK_OOM_EVENT_TOPIC, &event);
    }

    fn tell_exit(&self, id: &str, pid: u32, end: End) {
        let mut event = task_events::TaskExit::new();
        event.container_id.clone_from(&self.named.id);
        id.clone_into(&mut event.id);
        event.pid = pid;
        event.exit_status = end.code;
        event.exited_at = Some(timestamp(end.at)).into();
        self.daemon.events.tell(topics::TASK_EXIT_EVENT_TOPIC, &event);
    }

    /// Hears the init process until it has gone.
    async fn listen(&self) {
        while let Ok((message, _)) = self.line.control.receive::<FromInit>().await {
            let mut waiting = self.line.waiting.lock().expect("no panic while held");
            match message {
                FromInit::Started => {
                    waiting.started.take().map(|started| started.send(Ok(())));
                }
                FromInit::Failed(failure) => {
                    waiting.started.take().map(|started| started.send(Err(failure.into())));
                }
                FromInit::Status(status) => {
                    for asked in waiting.status.drain(..) {
                        let _ = asked.send(status.clone());
                    }
                }
                FromInit::OutOfMemory => self.tell_out_of_memory(),
                FromInit::Namespaces | FromInit::Created => {}
            }
        }
        // Whoever still waits is told by this.
        *self.line.waiting.lock().expect("no panic while held") = Waiting::default();
    }

    /// Starts the guest.
    ///
    /// # Errors
    /// It has been started, or cannot be.
    pub(crate) async fn start(&self) -> Result<u32, Error> {
        let _starting = self.starting.lock().await;
        if self.init.life() != Life::Created {
            return Err(Error::host("the container has been started already".to_owned()));
        }
        let (sender, started) = oneshot::channel();
        self.line.waiting.lock().expect("no panic while held").started = Some(sender);
        self.line.control.send(&ToInit::Start, &[]).await.map_err(|error| lost(&error))?;
        started.await.unwrap_or_else(|_| Err(Error::host("the container's process has ended".to_owned())))?;
        self.init.enter(Life::Running);
        let event =
            task_events::TaskStart { container_id: self.named.id.clone(), pid: self.init.pid(), ..Default::default() };
        self.daemon.events.tell(topics::TASK_START_EVENT_TOPIC, &event);
        let hooks = self.bundle.spec.hooks().as_ref().and_then(|hooks| hooks.poststart().as_deref());
        self.run_late_hooks(hooks, "running").await;
        Ok(self.init.pid())
    }

    /// Hooks whose failure changes nothing any more.
    async fn run_late_hooks(&self, hooks: Option<&[Hook]>, status: &str) {
        let hooks = hooks.unwrap_or_default().iter();
        if let Err(error) = run_hooks(hooks, &self.bundle, &self.named, self.init.pid(), status).await {
            tracing::warn!("{error}");
        }
    }

    /// What the guest is doing, if it answers.
    async fn status(&self) -> Option<Value> {
        let (sender, status) = oneshot::channel();
        self.line.waiting.lock().expect("no panic while held").status.push(sender);
        let answer = async {
            self.line.control.send(&ToInit::Status, &[]).await.ok()?;
            status.await.ok()
        };
        tokio::time::timeout(STATUS_TIMEOUT, answer).await.ok()?
    }

    /// The process of this name; the first one has none.
    pub(crate) fn process(&self, exec_id: &str) -> Option<Arc<Process>> {
        match exec_id {
            "" => Some(Arc::clone(&self.init)),
            id => Some(Arc::clone(&self.execs.lock().expect("no panic while held").get(id)?.process)),
        }
    }

    /// Adds a process that is started later.
    ///
    /// # Errors
    /// There is one of this name, or its description is not right.
    pub(crate) fn add_exec(&self, id: &str, spec: &[u8], streams: Streams) -> Result<(), Error> {
        let spec = serde_json::from_slice(spec)
            .map_err(|error| Error::host(format!("the description of the process is not right: {error}")))?;
        let mut execs = self.execs.lock().expect("no panic while held");
        if execs.contains_key(id) {
            return Err(Error::host(format!("there is a process `{id}` already")));
        }
        execs.insert(id.to_owned(), Arc::new(ExecProcess { process: Arc::new(Process::new(streams)), spec }));
        let mut event = task_events::TaskExecAdded::new();
        event.container_id.clone_from(&self.named.id);
        id.clone_into(&mut event.exec_id);
        self.daemon.events.tell(topics::TASK_EXEC_ADDED_EVENT_TOPIC, &event);
        Ok(())
    }

    /// Starts a process that was added.
    ///
    /// # Errors
    /// It is no command of ours and no module, or the container has ended.
    pub(crate) async fn start_exec(self: &Arc<Self>, id: &str) -> Result<u32, Error> {
        let exec = self.execs.lock().expect("no panic while held").get(id).cloned();
        let exec = exec.ok_or_else(|| Error::host(format!("there is no process `{id}`")))?;
        if exec.process.life() != Life::Created {
            return Err(Error::host("the process has been started already".to_owned()));
        }
        let started = self.start_process(&exec, id).await;
        if started.is_err() {
            // Whoever waits for its end is told.
            exec.process.enter(Life::Stopped(End { code: 255, at: SystemTime::now() }));
        }
        started
    }

    async fn start_process(self: &Arc<Self>, exec: &ExecProcess, id: &str) -> Result<u32, Error> {
        if !matches!(self.init.life(), Life::Running) {
            return Err(Error::host("the container is not running".to_owned()));
        }
        let args = exec.spec.args().as_deref().unwrap_or_default();
        let request = Request::of(args)?;
        // Open until the process itself has it: its reader would take a pause for the end.
        let errors = exec.process.streams.errors()?;
        let status = if request == Request::Module { None } else { self.status().await };
        let prepared = match request {
            Request::Module => Some(self.prepare_exec(exec, args, &errors).await),
            _ => None,
        };
        // Told by the process itself: its stderr and its exit code are where they are looked for.
        let (prepared, failure) = match prepared {
            Some(Ok((mut prepared, module))) => {
                prepared.memory_limit = self.cgroup.memory_limit();
                (Some((prepared, module)), None)
            }
            Some(Err(error)) => (None, Some(Failure::from(&error))),
            None => (None, None),
        };
        let (prepared, module) = prepared.unzip();
        let mut process = exec.spec.clone();
        if prepared.is_none() {
            // Of no use to our own commands, and it may be long.
            process.set_env(None);
        }
        let message = Exec {
            container: self.named.clone(),
            process: serde_json::to_value(&process).unwrap_or_default(),
            status,
            prepared,
            failure,
        };
        let init = self.init.namespaces().map_err(|error| lost(&error))?;
        let namespace = PidNamespace::Join(PathBuf::from(format!("/proc/self/fd/{}/pid", init.as_raw_fd())));
        let (child, _) = spawn(
            "exec",
            namespace,
            &exec.process,
            &self.named,
            &self.daemon,
            |stdin| (message, [stdin, init].into_iter().chain(module).collect()),
            &self.cgroup,
        )
        .await?;
        exec.process.enter(Life::Running);
        let mut event = task_events::TaskExecStarted::new();
        event.container_id.clone_from(&self.named.id);
        id.clone_into(&mut event.exec_id);
        event.pid = exec.process.pid();
        self.daemon.events.tell(topics::TASK_EXEC_STARTED_EVENT_TOPIC, &event);
        let (container, id, process) = (Arc::clone(self), id.to_owned(), Arc::clone(&exec.process));
        tokio::spawn(async move {
            let end = process::ended(child).await;
            // In this order: the container's own end waits for this.
            container.tell_exit(&id, process.pid(), end);
            process.enter(Life::Stopped(end));
        });
        Ok(exec.process.pid())
    }

    async fn prepare_exec(
        &self, exec: &ExecProcess, args: &[String], errors: &OwnedFd,
    ) -> Result<(crate::control::Prepared, OwnedFd), Error> {
        let request = prepare(&self.named, &self.daemon, args, exec.spec.cwd());
        let preparing = Preparing::start(&request, errors).await?;
        preparing.done().await.map_err(|error| match error.kind() {
            ErrorKind::NotFound => exec::no_program(&exec.spec),
            _ => error,
        })
    }

    /// Ends what is left of a container whose process has ended, or of one of its processes.
    ///
    /// # Errors
    /// It still runs.
    pub(crate) async fn delete(self: &Arc<Self>, exec_id: &str) -> Result<(u32, End), Error> {
        let process = self.process(exec_id).ok_or_else(|| Error::host(format!("there is no process `{exec_id}`")))?;
        let end = match process.life() {
            Life::Stopped(end) => end,
            Life::Created if !exec_id.is_empty() => {
                let end = End { code: 0, at: SystemTime::now() };
                process.enter(Life::Stopped(end));
                end
            }
            Life::Created => {
                let _ = process.signal(9);
                process.end().await
            }
            Life::Running | Life::Paused => {
                return Err(Error::host("it still runs".to_owned()).with_hint("end it first"));
            }
        };
        if !exec_id.is_empty() {
            self.execs.lock().expect("no panic while held").remove(exec_id);
            return Ok((process.pid(), end));
        }
        let hooks = self.bundle.spec.hooks().as_ref().and_then(|hooks| hooks.poststop().as_deref());
        self.run_late_hooks(hooks, "stopped").await;
        // Both wait for the kernel.
        let container = Arc::clone(self);
        let removed = tokio::task::spawn_blocking(move || {
            remove(&container.cgroup);
            unmount(&container.bundle.path);
        });
        let _ = removed.await;
        let mut event = task_events::TaskDelete::new();
        event.container_id.clone_from(&self.named.id);
        event.pid = process.pid();
        event.exit_status = end.code;
        event.exited_at = Some(timestamp(end.at)).into();
        self.daemon.events.tell(topics::TASK_DELETE_EVENT_TOPIC, &event);
        Ok((process.pid(), end))
    }

    /// Stops all of its processes where they are.
    pub(crate) async fn pause(self: &Arc<Self>) -> Result<(), Error> {
        let container = Arc::clone(self);
        let frozen = tokio::task::spawn_blocking(move || container.cgroup.freeze()).await;
        frozen.unwrap_or_else(|error| Err(Error::host(format!("the container cannot be paused: {error}"))))?;
        self.init.enter(Life::Paused);
        let event = task_events::TaskPaused { container_id: self.named.id.clone(), ..Default::default() };
        self.daemon.events.tell(topics::TASK_PAUSED_EVENT_TOPIC, &event);
        Ok(())
    }

    /// Lets them go on.
    pub(crate) fn resume(&self) -> Result<(), Error> {
        self.cgroup.thaw()?;
        self.init.enter(Life::Running);
        let event = task_events::TaskResumed { container_id: self.named.id.clone(), ..Default::default() };
        self.daemon.events.tell(topics::TASK_RESUMED_EVENT_TOPIC, &event);
        Ok(())
    }

    /// Signals one of its processes, or all.
    pub(crate) fn signal(&self, exec_id: &str, signal: u32, all: bool) -> io::Result<()> {
        let process = self.process(exec_id).ok_or(io::ErrorKind::NotFound)?;
        if all && signal == 9 && exec_id.is_empty() {
            self.cgroup.kill_all().map_err(io::Error::other)?;
        }
        process.signal(signal)?;
        if signal == 9 && self.init.life() == Life::Paused {
            // What is frozen does not end.
            let _ = self.cgroup.thaw();
        }
        Ok(())
    }

    pub(crate) fn bundle_path(&self) -> &Path {
        &self.bundle.path
    }

    pub(crate) fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// Changes its limits.
    pub(crate) async fn update(&self, resources: &[u8]) -> Result<(), Error> {
        let resources: LinuxResources = serde_json::from_slice(resources)
            .map_err(|error| Error::host(format!("the new limits are not right: {error}")))?;
        self.cgroup.update(&resources)?;
        let message = ToInit::Memory(self.cgroup.memory_limit());
        self.line.control.send(&message, &[]).await.map_err(|error| lost(&error))
    }
}

/// The container's cgroup: what its description says, else one of its own.
pub(crate) fn cgroup_path(bundle: &Bundle, id: &str) -> PathBuf {
    let named = bundle.spec.linux().as_ref().and_then(|linux| linux.cgroups_path().clone());
    named.filter(|path| !path.as_os_str().is_empty()).unwrap_or_else(|| PathBuf::from(format!("/anyport/{id}")))
}

/// A part of the root file system, as containerd describes it.
fn rootfs_mount(mount: &Mount) -> RootfsMount {
    RootfsMount {
        kind: mount.type_.clone(),
        source: mount.source.clone(),
        target: mount.target.clone(),
        options: mount.options.clone(),
    }
}

/// What containerd had us mount.
pub(crate) fn unmount(bundle: &Path) {
    if let Err(error) = sandbox::unmount_rootfs(&bundle.join("rootfs")) {
        tracing::warn!("{error}");
    }
}

fn remove(cgroup: &Cgroup) {
    if let Err(error) = cgroup.remove() {
        tracing::warn!("the cgroup cannot be removed: {error}");
    }
}
