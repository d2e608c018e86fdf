//! A worker: a thread on which one guest lives after the other.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::sync::watch;
use wasmtime_wasi::filesystem::{WasiFilesystemCtx, WasiFilesystemView as _};
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::{FsPerms, WasiCtxBuilder};
use wasmtime_wasi_config::WasiConfigVariables;

use crate::access_log::Log;
use crate::connection_limits::Watchman;
use crate::dialect::wasi;
use crate::directory::Directory;
use crate::engine::Engine;
use crate::error::Error;
use crate::guest::process::Process;
use crate::guest::{Abi, Generation, Guest, Setup};
use crate::health::Health;
use crate::ingress::Ingress;
use crate::instance::{self, Outcome, behind, threads};
use crate::journal::Journal;
use crate::lane::Lanes;
use crate::limits::Limits;
use crate::net::published::Published;
use crate::net::resolve::Resolver;
use crate::net::{Endpoint, Network};
use crate::outgoing::{Trust, Way};
use crate::policy::Gate;
use crate::program::Program;
use crate::serving::{Inbound, Requests, Site, Start};
use crate::spelling::option;
use crate::stage::Stage;
use crate::stdio::{Stdio, StdioTarget};

/// When a guest that has ended is started again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Restart {
    /// Never.
    No,
    /// When it trapped or exited with an error after some guest of the server had begun to serve. One
    /// that fails before that would fail again.
    #[default]
    OnFailure,
    /// Whenever it ends.
    Always,
}

/// How long a guest that keeps failing waits for its next start: doubled each time, up to the most.
const BACK_OFF: Duration = Duration::from_millis(100);
const BACK_OFF_MOST: Duration = Duration::from_secs(10);

/// What the workers of a server do.
pub(crate) enum Work {
    /// One guest each, which runs by itself, and the next when it has ended.
    Guest(Program),
    /// An instance for each request.
    Requests(Arc<Requests>),
}

/// What a worker does first.
pub(crate) enum Task {
    Guest(Box<Guest>),
    /// Without listeners where instances are to be ready before clients are let in.
    Requests {
        site: Arc<Site>,
        listeners: Option<Vec<Endpoint>>,
    },
}

/// All that a guest is made of, as often as one is made.
pub(crate) struct Template {
    pub(crate) engine: Arc<Engine>,
    pub(crate) work: Work,
    pub(crate) name: String,
    pub(crate) args: Vec<String>,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) directories: Vec<Directory>,
    pub(crate) stdio: [StdioTarget; 3],
    pub(crate) limits: Arc<Limits>,
    pub(crate) network: Network,
    pub(crate) published: Arc<Published>,
    pub(crate) gate: Arc<Gate>,
    pub(crate) restart: Restart,
    pub(crate) resolver: Arc<Resolver>,
    pub(crate) trust: Arc<Trust>,
    pub(crate) config: Arc<WasiConfigVariables>,
    pub(crate) journal: Arc<Journal>,
    pub(crate) ingress: Option<Arc<Ingress>>,
    pub(crate) access_log: Option<Arc<Log>>,
    pub(crate) x_forwarded: bool,
    /// Of each worker.
    pub(crate) health: Arc<[Health]>,
    /// A guest has said how it is told of signals.
    pub(crate) takes_signals: Arc<AtomicBool>,
}

impl Template {
    /// What a worker does first.
    pub(crate) fn task(self: &Arc<Self>, worker: usize, stage: &watch::Receiver<Stage>) -> Result<Task, Error> {
        match &self.work {
            Work::Guest(program) => Ok(Task::Guest(Box::new(self.guest(program, worker)?))),
            Work::Requests(requests) => {
                let site = self.site(requests, worker, stage)?;
                let listeners = (self.limits.instances_ready == 0).then(|| self.listeners(worker)).transpose()?;
                Ok(Task::Requests { site, listeners })
            }
        }
    }

    /// The event loop of a worker: on one thread, or where the guest has threads, on one for each core.
    pub(crate) fn event_loop(&self) -> Result<Runtime, Error> {
        match &self.work {
            Work::Guest(program) if program.threads().is_some() => {
                let name = thread_name(&self.name);
                build(tokio::runtime::Builder::new_multi_thread().thread_name(name))
            }
            _ => event_loop(),
        }
    }

    /// A guest for this worker.
    fn guest(&self, program: &Program, worker: usize) -> Result<Guest, Error> {
        let setup = Setup {
            // Last: should the others fail, the ports stay as they are.
            listeners: Vec::new(),
            generation: program.generation(),
            abi: program.abi(),
            ..self.setup(self.start(&self.open_stdio()?), None, &self.way(), worker)?
        };
        // First, for the same reason.
        let memory = program.memory(&self.engine, setup.grown.most.load(Ordering::Relaxed))?;
        let guest = self.make(Setup { listeners: self.hand_over(worker)?, ..setup })?;
        Ok(guest.with_memory(memory))
    }

    /// Where a worker answers requests.
    fn site(
        self: &Arc<Self>, requests: &Arc<Requests>, worker: usize, stage: &watch::Receiver<Stage>,
    ) -> Result<Arc<Site>, Error> {
        let stdio = self.open_stdio()?;
        // The first shows what is wrong with all.
        let way = self.way();
        // Opened once for all requests: what a guest puts in the place of one leads nobody elsewhere.
        let open = |directories| {
            let mut setup = self.setup(Start { directories, ..self.start(&stdio) }, None, &way, worker)?;
            Ok((!directories.is_empty()).then(|| setup.files.filesystem().ctx.clone()))
        };
        let opened = open(&self.directories)?;
        let programs: Vec<_> = requests.directories().map(open).collect::<Result<_, Error>>()?;
        let template = Arc::clone(self);
        let make = Box::new(move |start: Option<(usize, Start<'_>)>| {
            let (opened, start) = match start {
                Some((program, start)) => (programs.get(program).and_then(Option::as_ref), start),
                None => (opened.as_ref(), template.start(&stdio)),
            };
            // None of them is told to leave: it ends with its request.
            let takes_signals = Arc::default();
            template.make(Setup { takes_signals, ..template.setup(start, opened, &way, worker)? })
        });
        let name = thread_name(&self.name);
        let inbound = Inbound {
            published: Arc::clone(&self.published),
            worker,
            health: Arc::clone(&self.health),
            ingress: self.ingress.clone(),
            log: self.access_log.clone(),
            x_forwarded: self.x_forwarded,
            journal: Arc::clone(&self.journal),
        };
        Ok(Site::new(&self.engine, requests, &self.limits, name, stage.clone(), inbound, make))
    }

    /// The way out of guests on one event loop, which keeps their connections.
    fn way(&self) -> Arc<Way> {
        Way::new(&self.gate, &self.network, &self.resolver, &self.trust, &self.limits)
    }

    /// How most guests start.
    fn start<'s>(&'s self, stdio: &'s [Arc<Stdio>; 3]) -> Start<'s> {
        Start { args: &self.args, env: &self.env, directories: &self.directories, stdio, abi: Abi::default() }
    }

    /// What a guest is made of; its directories are opened unless they are already.
    fn setup(
        &self, start: Start<'_>, opened: Option<&WasiFilesystemCtx>, way: &Arc<Way>, worker: usize,
    ) -> Result<Setup, Error> {
        Ok(Setup {
            stdio: start.stdio.clone(),
            files: files(start, opened)?,
            directories: u32::try_from(start.directories.len()).map_err(|_| Error::host("too many directories"))?,
            generation: Generation::NotWasmEdge,
            abi: start.abi,
            takes_signals: Arc::clone(&self.takes_signals),
            listeners: Vec::new(),
            limits: Arc::clone(&self.limits),
            grown: Arc::clone(&self.health[worker].grown),
            resolver: Arc::clone(&self.resolver),
            network: self.network.clone(),
            published: Arc::clone(&self.published),
            worker,
            gate: Arc::clone(&self.gate),
            way: Arc::clone(way),
            config: Arc::clone(&self.config),
            journal: Arc::clone(&self.journal),
        })
    }

    fn hand_over(&self, worker: usize) -> Result<Vec<(Endpoint, SocketAddr)>, Error> {
        let handed = self.published.hand_over(worker);
        handed.map_err(|error| Error::host(format!("the listeners cannot be handed over: {error}")))
    }

    /// What a service takes its connections from.
    fn listeners(&self, worker: usize) -> Result<Vec<Endpoint>, Error> {
        Ok(self.hand_over(worker)?.into_iter().map(|(listener, _)| listener).collect())
    }

    fn make(&self, setup: Setup) -> Result<Guest, Error> {
        Guest::new(setup).map_err(|_| {
            Error::host("the guest may not open even its first descriptors")
                .with_hint(format!("raise `{}`", option("limit", "descriptors=N")))
        })
    }

    fn open_stdio(&self) -> Result<[Arc<Stdio>; 3], Error> {
        let [stdin, stdout, stderr] = &self.stdio;
        let open = |target, number| {
            Stdio::new(target, number)
                .map(Arc::new)
                .map_err(|error| Error::host(format!("the guest's descriptor {number} cannot be opened: {error}")))
        };
        Ok([open(stdin, 0)?, open(stdout, 1)?, open(stderr, 2)?])
    }
}

/// What wasmtime-wasi has for a guest. Core modules have their standard streams from elsewhere.
fn files(start: Start<'_>, opened: Option<&WasiFilesystemCtx>) -> Result<WasiP1Ctx, Error> {
    let Start { args, env, directories, stdio: [stdin, stdout, stderr], .. } = start;
    let mut wasi = WasiCtxBuilder::new();
    wasi.args(args).envs(env);
    wasi.stdin(wasi::input(Arc::clone(stdin)));
    wasi.stdout(wasi::output(Arc::clone(stdout))).stderr(wasi::output(Arc::clone(stderr)));
    if let Some(opened) = opened {
        let mut files = wasi.build_p1();
        *files.filesystem().ctx = opened.clone();
        return Ok(files);
    }
    for directory in directories {
        let permissions = if directory.read_only { FsPerms::ReadOnly } else { FsPerms::ReadWrite };
        wasi.preopened_dir(&directory.host, &directory.guest, permissions).map_err(|error| {
            Error::host(format!(
                "the directory `{}` cannot be opened: {}",
                directory.host.display(),
                error.root_cause()
            ))
            .with_hint("it is the part before the colon: `--dir HOST:GUEST`")
        })?;
    }
    Ok(wasi.build_p1())
}

/// The event loop of a worker's guest.
pub(crate) fn event_loop() -> Result<Runtime, Error> {
    build(&mut tokio::runtime::Builder::new_current_thread())
}

fn build(builder: &mut tokio::runtime::Builder) -> Result<Runtime, Error> {
    builder
        .enable_all()
        .build()
        .map_err(|error| Error::host(format!("the guest's event loop cannot be started: {error}")))
}

/// An event loop whose thread is not there yet. One that is not needed after all goes without waiting for anything:
/// whoever starts servers in an event loop of theirs must not wait.
pub(crate) struct Unstarted(Option<Runtime>);

impl Unstarted {
    pub(crate) fn new(runtime: Runtime) -> Self {
        Self(Some(runtime))
    }

    fn begin(mut self) -> Runtime {
        self.0.take().expect("it begins once")
    }
}

impl Drop for Unstarted {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// One worker of a server.
pub(crate) struct Worker {
    pub(crate) number: usize,
    pub(crate) template: Arc<Template>,
    pub(crate) stage: watch::Receiver<Stage>,
    /// Dropped when the worker has ended.
    pub(crate) _alive: watch::Receiver<()>,
}

impl Worker {
    /// Starts the thread with what it does first.
    pub(crate) fn start(self, runtime: Unstarted, task: Task) -> Result<JoinHandle<Outcome>, Error> {
        std::thread::Builder::new()
            .name(thread_name(&self.template.name))
            .spawn(move || {
                let runtime = runtime.begin();
                let outcome = match task {
                    Task::Guest(guest) => self.work(runtime, *guest),
                    Task::Requests { site, listeners } => self.answer(runtime, site, listeners),
                };
                self.template.health[self.number].has_ended.store(true, Ordering::Relaxed);
                self.template.published.gone(self.number);
                outcome
            })
            .map_err(|error| Error::host(format!("the guest's thread cannot be started: {error}")))
    }

    /// Answers requests until the server is stopped.
    fn answer(&self, runtime: Runtime, site: Arc<Site>, listeners: Option<Vec<Endpoint>>) -> Outcome {
        let health = &self.template.health[self.number];
        health.runs.store(true, Ordering::Relaxed);
        let listeners = match listeners {
            Some(listeners) => Ok(listeners),
            None => self.prepare(&runtime, &site),
        };
        let outcome = match listeners {
            Ok(listeners) => {
                self.template.published.has_served.store(true, Ordering::Release);
                runtime.block_on(site.serve(listeners));
                Outcome::Stopped
            }
            Err(outcome) => outcome,
        };
        health.end(failure(&outcome));
        runtime.shutdown_background();
        outcome
    }

    /// Makes instances, and then opens the port; or how one of them has ended.
    fn prepare(&self, runtime: &Runtime, site: &Arc<Site>) -> Result<Vec<Endpoint>, Outcome> {
        let template = &self.template;
        let workers = u32::try_from(template.published.workers()).unwrap_or(u32::MAX);
        // The rest is for whichever worker has requests.
        let count = template.limits.instances_ready.min((template.limits.instances / 2 / workers).max(1));
        let mut stage = self.stage.clone();
        runtime.block_on(async {
            tokio::select! {
                ended = site.prepare(count) => ended,
                () = Stage::Draining.reached(&mut stage) => Err(Outcome::Stopped),
            }
        })?;
        template.listeners(self.number).map_err(|error| Outcome::failed(error.to_string()))
    }

    /// One guest after the other, until one ends for good.
    fn work(&self, mut runtime: Runtime, mut guest: Guest) -> Outcome {
        let mut pause = BACK_OFF;
        loop {
            let started = Instant::now();
            let health = &self.template.health[self.number];
            health.begin(&guest.descriptors);
            let (outcome, left) = runtime.block_on(self.live(guest));
            health.end(failure(&outcome));
            let served = self.template.published.has_served.load(Ordering::Acquire);
            let again = self.again(&outcome, served);
            if again && left > 0 {
                // What they hold is held until this process ends: with each guest it would be more.
                tracing::warn!("{left} of the guest's threads do not end, so it is not started again; do so by hand");
            }
            if !again || left > 0 {
                if self.template.published.workers() > 1 {
                    tell(&outcome, "it is not started again");
                }
                // Does not wait for file operations that are still under way.
                runtime.shutdown_background();
                return outcome;
            }
            if started.elapsed() > BACK_OFF_MOST {
                pause = BACK_OFF;
            }
            tell(&outcome, &format!("the next one starts in {pause:?}"));
            match self.next(runtime, &mut pause) {
                Some(next) => {
                    (runtime, guest) = next;
                    health.restarts.fetch_add(1, Ordering::Relaxed);
                }
                // How this one ended is told.
                None => return Outcome::Stopped,
            }
        }
    }

    /// The next guest, after a pause; none if the server has no need of it any more. What the machine is
    /// short of when it is made, it may have after the next pause.
    fn next(&self, runtime: Runtime, pause: &mut Duration) -> Option<(Runtime, Guest)> {
        let next = loop {
            if !runtime.block_on(self.rest(*pause)) {
                break None;
            }
            *pause = (*pause * 2).min(BACK_OFF_MOST);
            match self.template.event_loop().and_then(|runtime| Ok((runtime, self.guest()?))) {
                Ok(next) => break Some(next),
                Err(error) => tracing::warn!("the next guest cannot be started: {error}; tried again in {pause:?}"),
            }
        };
        runtime.shutdown_background();
        next
    }

    fn guest(&self) -> Result<Guest, Error> {
        match &self.template.work {
            Work::Guest(program) => self.template.guest(program, self.number),
            Work::Requests(_) => Err(Error::host("a service has no guest of its own")),
        }
    }

    /// One guest's life, how it ended, and how many of its threads did not.
    async fn live(&self, guest: Guest) -> (Outcome, usize) {
        let Template { limits, published, .. } = &*self.template;
        let watchman = Watchman::new(&guest.descriptors, limits, self.stage.clone());
        let watching = tokio::spawn(watchman.watch());
        let _told = guest.process().ok().map(|process| AbortOnDrop(tokio::spawn(tell_to_leave(process, &self.stage))));
        if let Work::Guest(program) = &self.template.work
            && let Some(parts) = program.threads()
        {
            let before_end = || published.restarting(self.number);
            let (ended, left) = threads::run(&self.template.engine, parts, guest, self.stage.clone(), before_end).await;
            watching.abort();
            return (self.left(ended), left);
        }
        let (published, number) = (Arc::clone(published), self.number);
        let template = Arc::clone(&self.template);
        let name = thread_name(&self.template.name);
        let lanes = Lanes { name: &name, pace: guest.busy.pace(), stage: self.stage.clone() };
        // Unconstrained: tokio's budget would make ready sockets look unready.
        let life = Box::pin(tokio::task::unconstrained(async move {
            let Work::Guest(program) = &template.work else { return Outcome::Stopped };
            let mut outcome = pin!(instance::run(&template.engine, program, guest, || published.restarting(number)));
            // Should a hostcall panic: before the guest is dropped, which would close the ports.
            let _withdrawn = OnDrop(|| published.restarting(number));
            outcome.as_mut().await
        }));
        let ended = lanes.live(life).await;
        watching.abort();
        let ended = self.left(ended.unwrap_or_else(|panic| {
            // It could not say so itself.
            self.template.published.restarting(self.number);
            Outcome::failed(format!("anyport failed in a hostcall: {panic}"))
        }));
        (ended, 0)
    }

    /// How a guest ended that was told to leave: one that has no handler for that signal traps.
    fn left(&self, ended: Outcome) -> Outcome {
        match ended {
            Outcome::Trapped { .. } if *self.stage.borrow() >= Stage::LEAVING => Outcome::Stopped,
            ended => ended,
        }
    }

    /// Whether another guest takes the place of one that ended so.
    fn again(&self, outcome: &Outcome, served: bool) -> bool {
        let wanted = match (self.template.restart, outcome) {
            (Restart::No, _) | (_, Outcome::Stopped) | (Restart::OnFailure, Outcome::Exited(0)) => false,
            (Restart::OnFailure, _) => served,
            (Restart::Always, _) => true,
        };
        wanted && *self.stage.borrow() == Stage::Serving
    }

    /// Waits before the next start; false if there will be none.
    async fn rest(&self, pause: Duration) -> bool {
        let mut stage = self.stage.clone();
        tokio::time::timeout(pause, Stage::Draining.reached(&mut stage)).await.is_err()
    }
}

/// Raises the signal that tells a guest to leave, when its server says so.
fn tell_to_leave(process: &Arc<Process>, stage: &watch::Receiver<Stage>) -> impl Future<Output = ()> + Send + use<> {
    let (process, mut stage) = (Arc::downgrade(process), stage.clone());
    async move {
        Stage::LEAVING.reached(&mut stage).await;
        let stage = *stage.borrow();
        if let (Stage::Leaving(signal), Some(process)) = (stage, process.upgrade()) {
            process.raise_for_any(signal);
        }
    }
}

/// A task that is no longer than this.
struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Does something when it goes out of scope.
struct OnDrop<F: Fn()>(F);

impl<F: Fn()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// Why a guest failed, if it did.
fn failure(outcome: &Outcome) -> Option<String> {
    match outcome {
        Outcome::Exited(0) | Outcome::Stopped => None,
        Outcome::Exited(code) => Some(format!("it exited with code {code}")),
        Outcome::Trapped { reason, .. } | Outcome::OutOfMemory { reason, .. } => Some(reason.clone()),
    }
}

/// Tells how a guest ended where others go on, and what follows.
fn tell(outcome: &Outcome, then: &str) {
    match outcome {
        Outcome::Trapped { reason, backtrace } | Outcome::OutOfMemory { reason, backtrace, .. } => {
            let what = if matches!(outcome, Outcome::Trapped { .. }) { "the guest trapped" } else { "out of memory" };
            tracing::warn!("{what}: {reason}; {then}{}", behind(backtrace));
        }
        Outcome::Exited(code) => tracing::warn!("the guest exited with code {code}; {then}"),
        Outcome::Stopped => {}
    }
}

/// The guest's file name, for `top` and debuggers; Linux takes 15 bytes.
fn thread_name(name: &str) -> String {
    let file = name.rsplit('/').next().unwrap_or(name);
    file.chars().filter(char::is_ascii_graphic).take(15).collect()
}
