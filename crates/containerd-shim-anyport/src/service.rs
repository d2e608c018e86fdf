//! containerd's task API, versions 2 and 3: their messages are the same, only the service's name differs.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use anyport::Error;
use anyport::error::ErrorKind;
use async_trait::async_trait;
use containerd_shim_protos::api::{
    CloseIORequest, ConnectRequest, ConnectResponse, CreateTaskRequest, CreateTaskResponse, DeleteRequest,
    DeleteResponse, Empty, ExecProcessRequest, KillRequest, PauseRequest, PidsRequest, PidsResponse, ProcessInfo,
    ResizePtyRequest, ResumeRequest, ShutdownRequest, StartRequest, StartResponse, StateRequest, StateResponse,
    StatsRequest, StatsResponse, Status, UpdateTaskRequest, WaitRequest, WaitResponse,
};
use containerd_shim_protos::shim_async::{Task, create_task};
use containerd_shim_protos::ttrpc::r#async::{Service as Methods, TtrpcContext};
use containerd_shim_protos::ttrpc::{self, Code};
use tokio::sync::{Notify, oneshot};

use crate::container::Container;
use crate::events::timestamp;
use crate::launch::Daemon;
use crate::process::{Life, Process};
use crate::stdio::Streams;
use anyport::mappings;

/// The names under which containerd 1 and 2 ask for this service.
const NAMES: [&str; 2] = ["containerd.task.v2.Task", "containerd.task.v3.Task"];

/// All containers of one shim: one, or those of a pod.
pub(crate) struct Service {
    daemon: Daemon,
    /// Where containerd reaches this shim.
    socket: Option<PathBuf>,
    containers: Mutex<HashMap<String, Arc<Container>>>,
    /// Told when the shim may end.
    pub(crate) finished: Arc<Notify>,
}

impl Service {
    pub(crate) fn new(daemon: Daemon, socket: Option<PathBuf>) -> Self {
        Self { daemon, socket, containers: Mutex::default(), finished: Arc::default() }
    }

    /// For ttrpc: this service under each of its names.
    pub(crate) fn methods(self) -> HashMap<String, Methods> {
        let service = Arc::new(self);
        let named = NAMES.into_iter().flat_map(|name| {
            let methods = create_task(Arc::clone(&service) as Arc<dyn Task + Send + Sync>);
            methods.into_values().map(move |methods| (name.to_owned(), methods))
        });
        named.collect()
    }

    fn container(&self, id: &str) -> ttrpc::Result<Arc<Container>> {
        let found = self.containers.lock().expect("no panic while held").get(id).cloned();
        found.ok_or_else(|| status(Code::NOT_FOUND, format!("there is no container `{id}`")))
    }

    fn process(&self, id: &str, exec_id: &str) -> ttrpc::Result<Arc<Process>> {
        let found = self.container(id)?.process(exec_id);
        found.ok_or_else(|| status(Code::NOT_FOUND, format!("the container has no process `{exec_id}`")))
    }
}

#[async_trait]
impl Task for Service {
    async fn state(&self, _: &TtrpcContext, request: StateRequest) -> ttrpc::Result<StateResponse> {
        let container = self.container(&request.id)?;
        let process = self.process(&request.id, &request.exec_id)?;
        let mut response = StateResponse::new();
        response.id = request.id;
        response.exec_id = request.exec_id;
        response.bundle = container.bundle_path().display().to_string();
        response.pid = process.pid();
        response.stdin.clone_from(&process.streams.stdin);
        response.stdout.clone_from(&process.streams.stdout);
        response.stderr.clone_from(&process.streams.stderr);
        response.terminal = process.streams.terminal;
        response.status = match process.life() {
            Life::Created => Status::CREATED,
            Life::Running => Status::RUNNING,
            Life::Paused => Status::PAUSED,
            Life::Stopped(end) => {
                response.exit_status = end.code;
                response.exited_at = Some(timestamp(end.at)).into();
                Status::STOPPED
            }
        }
        .into();
        Ok(response)
    }

    async fn create(&self, _: &TtrpcContext, request: CreateTaskRequest) -> ttrpc::Result<CreateTaskResponse> {
        if !request.checkpoint.is_empty() {
            return Err(status(Code::UNIMPLEMENTED, "a guest cannot be restored from a checkpoint".to_owned()));
        }
        if self.containers.lock().expect("no panic while held").contains_key(&request.id) {
            return Err(status(Code::ALREADY_EXISTS, format!("there is a container `{}` already", request.id)));
        }
        let (id, daemon) = (request.id.clone(), self.daemon.clone());
        let (reply, made) = oneshot::channel();
        // On its own: who asks may give up before it is there, and then nothing of it may be left.
        tokio::spawn(async move {
            if let Err(Ok(unwanted)) = reply.send(Container::create(&request, &daemon).await) {
                let _ = unwanted.delete("").await;
            }
        });
        let lost = || status(Code::UNKNOWN, "the container was not made".to_owned());
        let container = made.await.map_err(|_| lost())?.map_err(|error| told(&error))?;
        let pid = container.init.pid();
        self.containers.lock().expect("no panic while held").insert(id, container);
        Ok(CreateTaskResponse { pid, ..CreateTaskResponse::default() })
    }

    async fn start(&self, _: &TtrpcContext, request: StartRequest) -> ttrpc::Result<StartResponse> {
        let container = self.container(&request.id)?;
        // On its own: who asks may give up, and what has begun goes on.
        let started = tokio::spawn(async move {
            match request.exec_id.as_str() {
                "" => container.start().await,
                id => container.start_exec(id).await,
            }
        });
        let lost = |error| status(Code::UNKNOWN, format!("the start was given up: {error}"));
        let pid = started.await.map_err(lost)?.map_err(|error| told(&error))?;
        tokio::spawn(mappings::give_back());
        Ok(StartResponse { pid, ..StartResponse::default() })
    }

    async fn delete(&self, _: &TtrpcContext, request: DeleteRequest) -> ttrpc::Result<DeleteResponse> {
        let container = self.container(&request.id)?;
        let deleted = container.delete(&request.exec_id).await;
        let (pid, end) = deleted.map_err(|error| status(Code::FAILED_PRECONDITION, words(&error)))?;
        if request.exec_id.is_empty() {
            let mut containers = self.containers.lock().expect("no panic while held");
            containers.remove(&request.id);
            // Nothing is left to ask for; a shim that is killed before containerd ends it leaves nothing either.
            if let (true, Some(socket)) = (containers.is_empty(), &self.socket) {
                let _ = std::fs::remove_file(socket);
            }
        }
        let exited_at = Some(timestamp(end.at)).into();
        Ok(DeleteResponse { pid, exit_status: end.code, exited_at, ..DeleteResponse::default() })
    }

    async fn pids(&self, _: &TtrpcContext, request: PidsRequest) -> ttrpc::Result<PidsResponse> {
        let pids = self.container(&request.id)?.cgroup().pids().into_iter();
        let processes = pids.map(|pid| ProcessInfo { pid, ..ProcessInfo::default() }).collect();
        Ok(PidsResponse { processes, ..PidsResponse::default() })
    }

    async fn pause(&self, _: &TtrpcContext, request: PauseRequest) -> ttrpc::Result<Empty> {
        let container = self.container(&request.id)?;
        if container.init.life() != Life::Running {
            return Err(status(Code::FAILED_PRECONDITION, "the container is not running".to_owned()));
        }
        container.pause().await.map_err(|error| told(&error))?;
        Ok(Empty::new())
    }

    async fn resume(&self, _: &TtrpcContext, request: ResumeRequest) -> ttrpc::Result<Empty> {
        let container = self.container(&request.id)?;
        if container.init.life() != Life::Paused {
            return Err(status(Code::FAILED_PRECONDITION, "the container is not paused".to_owned()));
        }
        container.resume().map_err(|error| told(&error))?;
        Ok(Empty::new())
    }

    async fn kill(&self, _: &TtrpcContext, request: KillRequest) -> ttrpc::Result<Empty> {
        let container = self.container(&request.id)?;
        container.signal(&request.exec_id, request.signal, request.all).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => status(Code::NOT_FOUND, "the process has ended already".to_owned()),
            _ => status(Code::UNKNOWN, format!("the process cannot be signalled: {error}")),
        })?;
        Ok(Empty::new())
    }

    async fn exec(&self, _: &TtrpcContext, request: ExecProcessRequest) -> ttrpc::Result<Empty> {
        let container = self.container(&request.id)?;
        if container.process(&request.exec_id).is_some() {
            return Err(status(Code::ALREADY_EXISTS, format!("there is a process `{}` already", request.exec_id)));
        }
        let streams = Streams {
            terminal: request.terminal,
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
        };
        let spec = request.spec.unwrap_or_default().value;
        container.add_exec(&request.exec_id, &spec, streams).map_err(|error| told(&error))?;
        Ok(Empty::new())
    }

    async fn resize_pty(&self, _: &TtrpcContext, request: ResizePtyRequest) -> ttrpc::Result<Empty> {
        let process = self.process(&request.id, &request.exec_id)?;
        let resized = process.held.lock().expect("no panic while held").resize(request.width, request.height);
        resized.map_err(|error| status(Code::UNKNOWN, format!("the terminal cannot be resized: {error}")))?;
        Ok(Empty::new())
    }

    async fn close_io(&self, _: &TtrpcContext, request: CloseIORequest) -> ttrpc::Result<Empty> {
        let process = self.process(&request.id, &request.exec_id)?;
        if request.stdin {
            process.held.lock().expect("no panic while held").close_stdin();
        }
        Ok(Empty::new())
    }

    async fn update(&self, _: &TtrpcContext, request: UpdateTaskRequest) -> ttrpc::Result<Empty> {
        let resources = request.resources.unwrap_or_default().value;
        self.container(&request.id)?.update(&resources).await.map_err(|error| told(&error))?;
        Ok(Empty::new())
    }

    async fn wait(&self, _: &TtrpcContext, request: WaitRequest) -> ttrpc::Result<WaitResponse> {
        let end = self.process(&request.id, &request.exec_id)?.end().await;
        let exited_at = Some(timestamp(end.at)).into();
        Ok(WaitResponse { exit_status: end.code, exited_at, ..WaitResponse::default() })
    }

    async fn stats(&self, _: &TtrpcContext, request: StatsRequest) -> ttrpc::Result<StatsResponse> {
        let metrics = self.container(&request.id)?.cgroup().metrics().map_err(|error| told(&error))?;
        Ok(StatsResponse { stats: Some(metrics).into(), ..StatsResponse::default() })
    }

    async fn connect(&self, _: &TtrpcContext, request: ConnectRequest) -> ttrpc::Result<ConnectResponse> {
        // dockerd takes the network of this process before it starts the container.
        let task_pid = self.container(&request.id).map_or(0, |container| container.init.pid());
        let version = env!("CARGO_PKG_VERSION").to_owned();
        Ok(ConnectResponse { shim_pid: std::process::id(), task_pid, version, ..ConnectResponse::default() })
    }

    async fn shutdown(&self, _: &TtrpcContext, request: ShutdownRequest) -> ttrpc::Result<Empty> {
        let is_last = self.containers.lock().expect("no panic while held").is_empty();
        if is_last || request.now {
            self.finished.notify_one();
        }
        Ok(Empty::new())
    }
}

/// An error for containerd, which shows it to people.
fn told(error: &Error) -> ttrpc::Error {
    match error.kind() {
        // By these words Docker tells that it is the image's fault, with the exit code 127.
        ErrorKind::NotFound => status(Code::NOT_FOUND, format!("{}: no such file or directory", words(error))),
        ErrorKind::NotRunnable => status(Code::INVALID_ARGUMENT, words(error)),
        _ => status(Code::UNKNOWN, words(error)),
    }
}

fn words(error: &Error) -> String {
    match error.hint() {
        Some(hint) => format!("{error} ({hint})"),
        None => error.to_string(),
    }
}

fn status(code: Code, message: String) -> ttrpc::Error {
    ttrpc::Error::RpcStatus(ttrpc::get_status(code, message))
}
