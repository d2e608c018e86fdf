//! How much of the host one guest may hold, by default and at most.
//!
//! Each number is a named constant with its reason. Everything a guest or a peer can make grow is
//! compared with one of them before it allocates.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use crate::spelling::option;

/// A guest's linear memories together, in bytes: 1 GiB. Go and Python servers start at 20 to
/// 100 MiB; a leak is stopped before it takes a small machine with it.
pub const MEMORY_BYTES: usize = 1 << 30;

/// Elements of a guest's tables together. The largest of our guests has 9,000; a component of
/// C# or Python 20,000 to 60,000 (bytecodealliance/wasmtime#8504).
pub const TABLE_ELEMENTS: usize = 1 << 20;

/// Open descriptors of one guest: stdio, files, sockets. Twice [`CONNECTIONS`] for files and
/// outbound connections beside a full house of inbound ones.
pub const DESCRIPTORS: usize = 20_000;

/// Accepted connections that one guest holds at a time. Ten thousand idle connections cost about
/// 40 MB of kernel memory.
pub const CONNECTIONS: usize = 10_000;

/// Bytes one hostcall moves between guest and host: the rest is a short read or write, which
/// every caller handles. Bounds a single `read`'s time on the thread, and its buffers.
pub const COPY_BYTES: usize = 4 << 20;

/// Bytes that hostcalls may allocate on the guest's behalf in one call (paths, buffers of file
/// reads, directory entries): wasmtime-wasi's hostcall fuel.
pub const HELD_BYTES: usize = 16 << 20;

/// Random bytes one `random_get` gives. Seeds and keys are under 1 KiB.
pub const RANDOM_BYTES: usize = 1 << 20;

/// Arguments and environment together, in bytes, as `execve` counts them (Linux allows 2 MiB).
pub const ENVIRONMENT_BYTES: usize = 2 << 20;

/// Scatter-gather buffers in one call, as Linux's `IOV_MAX` and `WasmEdge`'s own limit.
pub const IOVECS: u32 = 1024;

/// Subscriptions in one `poll_oneoff`: both directions of every descriptor and some clocks.
pub const SUBSCRIPTIONS: u32 = 2 * 20_000 + 64;

/// Resources of the host that a component may have beside its sockets: files, fields, what it waits for.
pub(crate) const RESOURCES: usize = 50_000;

/// The same for each of its descriptors: a socket, its two streams, and what waits for each of them, twice.
pub(crate) const RESOURCES_EACH: usize = 8;

/// Entries of epoll sets for each of a guest's descriptors, all sets together: some sets have the same descriptors.
pub(crate) const WATCHED_EACH: usize = 8;

/// The largest file that is taken for a module, in bytes: 1 GiB, as browsers have it. The largest
/// servers, with an interpreter and its libraries in them, have 100 MiB.
pub(crate) const MODULE_BYTES: u64 = 1 << 30;

/// Names one lookup may ask for in bytes: DNS allows 253, services are shorter.
pub(crate) const NAME_BYTES: u32 = 1024;

/// Results one name lookup writes: more than any record set that is of use.
pub(crate) const LOOKUP_RESULTS: usize = 64;

/// Name lookups that a guest has under way at a time; others wait for their turn. Each may take a thread.
pub(crate) const LOOKUPS: usize = 32;

/// Clients of a published UDP port that may be answered: those that asked last. An answer comes
/// within a moment of its question.
pub(crate) const DATAGRAM_CLIENTS: usize = 4096;

/// How long a guest may owe an answer: bytes of a client that it has read, and sent nothing since. As
/// nginx waits for a server behind it (`proxy_read_timeout`).
pub const TIMEOUT: Duration = Duration::from_secs(60);

/// How long a connection may be open without a byte in either direction, as Caddy has it.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(300);

/// How long a client may take for the head of a request: longer than any that has one to send.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// Instances of a component that answer requests at the same time, of all workers. Each has a memory of its
/// own, and 100 cost a third of a millisecond at the start.
pub const INSTANCES: u32 = 128;

/// Requests that one instance of WASI 0.3 answers at the same time, as `wasmtime serve` has it.
pub const INSTANCE_CONCURRENCY: u32 = 16;

/// Requests that wait for an instance: a second's worth of a small server.
pub const QUEUE: usize = 1024;

/// Bytes of a request's head: what nginx takes with its four large buffers of 8 KiB, and as much again.
pub const HEADER_BYTES: usize = 64 << 10;

/// How long a guest's own HTTP request may take to find and reach its server, where the guest says nothing of it: as
/// curl and Go's default transport with TLS have it, or more.
pub(crate) const REQUEST_CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// How long its server may take to begin an answer, and then between bytes: as nginx waits for a server behind it.
pub(crate) const REQUEST_SILENCE: Duration = Duration::from_secs(60);

/// Fields in the head of an answer to a guest's own request. hyper takes 100 by default, and a page with many
/// cookies has 150.
pub(crate) const ANSWER_FIELDS: usize = 256;

/// Connections that are kept for a guest's next requests, to one server and to all. Each is a descriptor and
/// some 20 kB.
pub(crate) const KEPT_PER_HOST: usize = 32;
pub(crate) const KEPT: usize = 256;

/// How long they are kept: shorter than the 60 s after which proxies end them, who may do so just as the
/// next request is sent.
pub(crate) const KEPT_FOR: Duration = Duration::from_secs(30);

/// Characters of one line that a guest logs, and lines in a second: a page of text, and no more than a disk has room
/// for in an hour.
pub(crate) const LOG_CHARS: usize = 4096;
pub(crate) const LOG_LINES: u32 = 1000;

/// Header lines of a request, as hyper and Apache have it.
pub const HEADER_LINES: usize = 100;

/// Bytes of a request's body: 100 MiB. nginx has 1 MiB, which every upload of a photograph meets; Cloudflare and
/// Docker's registry proxies have this.
pub const BODY_BYTES: usize = 100 << 20;

/// How long a client may send nothing of a body that the guest waits for: half of nginx's
/// `client_body_timeout`, and three times a slow link's pause.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// Threads of one guest beside its first: more than any pool has, and one for each connection of a server that is
/// written so. Each that waits has some 50 kB: 3500 with a connection each took 190 MB.
pub const THREADS: usize = 4096;

/// The tables of a guest's threads together, as a multiple of what a guest without threads may have: each thread has
/// its own copy of the module's. 512 threads of an interpreter have 30,000 elements each; all have 128 MiB.
pub(crate) const THREADS_TABLES: usize = 16;

/// The limits of one guest. [`Limits::default`] fits a server.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// All linear memories together, in bytes; default [`MEMORY_BYTES`].
    pub memory_bytes: usize,
    /// Elements of all tables together; default [`TABLE_ELEMENTS`]. Those of all threads of a guest may have 16 times
    /// as many.
    pub table_elements: usize,
    /// Open descriptors; default [`DESCRIPTORS`].
    pub descriptors: usize,
    /// Accepted connections at a time; default [`CONNECTIONS`].
    pub connections: usize,
    /// Bytes one hostcall moves; default [`COPY_BYTES`].
    pub copy_bytes: usize,
    /// Bytes one hostcall may allocate on the guest's behalf; default [`HELD_BYTES`].
    pub held_bytes: usize,
    /// Bytes one `random_get` may ask for; default [`RANDOM_BYTES`].
    pub random_bytes: usize,
    /// Arguments and environment together, in bytes; default [`ENVIRONMENT_BYTES`].
    pub environment_bytes: usize,
    /// Buffers in one scatter-gather call; default [`IOVECS`].
    pub iovecs: u32,
    /// Subscriptions in one `poll_oneoff`; default [`SUBSCRIPTIONS`].
    pub subscriptions: u32,
    /// How long the guest may owe an answer to what it has read from a client, before the connection is
    /// closed; default [`TIMEOUT`], [`Duration::MAX`] for ever.
    pub timeout: Duration,
    /// How long a connection may be open with no byte in either direction; default [`IDLE_TIMEOUT`],
    /// [`Duration::MAX`] for ever.
    pub idle_timeout: Duration,
    /// How long a client may take for the head of a request, where the front reads it; default [`HEADER_TIMEOUT`],
    /// [`Duration::MAX`] for ever.
    pub header_timeout: Duration,
    /// Bytes of a request's head, where the front reads it, and of the head that a CGI program writes; default
    /// [`HEADER_BYTES`].
    pub header_bytes: usize,
    /// Header lines of a request, where the front reads it; default [`HEADER_LINES`].
    pub header_lines: usize,
    /// Bytes of a request's body, where the front reads it; default [`BODY_BYTES`].
    pub body_bytes: usize,
    /// How long a client may send nothing of a body that the guest waits for, where the front reads it; default
    /// [`BODY_TIMEOUT`], [`Duration::MAX`] for ever.
    pub body_timeout: Duration,
    /// Instances that answer requests at the same time; default [`INSTANCES`].
    pub instances: u32,
    /// Requests that wait for an instance, before others are refused; default [`QUEUE`].
    pub queue: usize,
    /// Requests that one instance answers, one after the other or some at a time; by default 1 for `wasi:http` 0.2 and
    /// 128 for 0.3. What a guest keeps in its memory, the next request finds.
    pub instance_reuse: Option<u32>,
    /// Requests that one instance of WASI 0.3 answers at the same time; default [`INSTANCE_CONCURRENCY`].
    pub instance_concurrency: u32,
    /// Instances that each worker makes ready before its port is open, for the first requests; none by default. All
    /// workers together get half of `instances` at most.
    pub instances_ready: u32,
    /// Threads, and processes that it forks, that a guest may have beside its first; default [`THREADS`].
    pub threads: usize,
    /// CPU time that the guest may use without waiting for its sockets or moving their bytes, before it is
    /// ended; by default 30 seconds from when it serves a port, and no limit before. A thread may use more while
    /// another waits for sockets.
    pub cpu_time: Option<Duration>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory_bytes: MEMORY_BYTES,
            table_elements: TABLE_ELEMENTS,
            descriptors: DESCRIPTORS,
            connections: CONNECTIONS,
            copy_bytes: COPY_BYTES,
            held_bytes: HELD_BYTES,
            random_bytes: RANDOM_BYTES,
            environment_bytes: ENVIRONMENT_BYTES,
            iovecs: IOVECS,
            subscriptions: SUBSCRIPTIONS,
            timeout: TIMEOUT,
            idle_timeout: IDLE_TIMEOUT,
            header_timeout: HEADER_TIMEOUT,
            header_bytes: HEADER_BYTES,
            header_lines: HEADER_LINES,
            body_bytes: BODY_BYTES,
            body_timeout: BODY_TIMEOUT,
            instances: INSTANCES,
            queue: QUEUE,
            instance_reuse: None,
            instance_concurrency: INSTANCE_CONCURRENCY,
            instances_ready: 0,
            threads: THREADS,
            cpu_time: None,
        }
    }
}

/// What a guest's memories have grown to and may grow to, for whoever looks on.
#[derive(Debug)]
pub(crate) struct Grown {
    /// The most bytes of all linear memories, which may change while the guest runs.
    pub(crate) most: AtomicUsize,
    /// Bytes of all linear memories.
    pub(crate) memory: AtomicUsize,
    /// Growths of memory that were refused.
    pub(crate) refused: AtomicU64,
    /// Whether the last growth of memory that the guest asked for was refused.
    pub(crate) is_short: AtomicBool,
    /// Whether the person knows that it may have no more memory, and no more of its tables.
    memory_told: AtomicBool,
    table_told: AtomicBool,
}

impl Grown {
    /// None yet, and so many bytes at most.
    pub(crate) fn new(most: usize) -> Self {
        let (memory, refused, is_short, memory_told, table_told) = Default::default();
        Self { most: AtomicUsize::new(most), memory, refused, is_short, memory_told, table_told }
    }

    /// Another guest begins.
    pub(crate) fn begin(&self) {
        self.memory.store(0, Ordering::Relaxed);
        for is_so in [&self.is_short, &self.memory_told, &self.table_told] {
            is_so.store(false, Ordering::Relaxed);
        }
    }

    fn asked(&self, total: usize, allowed: bool) {
        self.is_short.store(!allowed, Ordering::Relaxed);
        if allowed {
            self.memory.store(total, Ordering::Relaxed);
        } else {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// What a guest's memories and tables have grown to: wasmtime asks before each growth.
#[derive(Debug)]
pub(crate) struct Growth {
    grown: Arc<Grown>,
    table_most: usize,
    /// Bytes of this thread's memories.
    memory: usize,
    /// The same of all threads, without memories that they share.
    memories: Arc<AtomicUsize>,
    shared: Arc<SharedMemory>,
    table: usize,
    /// What of `tables` is this thread's: `table`, or more that is kept for it.
    held: usize,
    /// Elements of the tables of all threads.
    tables: Arc<AtomicUsize>,
}

/// What the memory has grown to that the threads of one process share: nobody is asked for that.
#[derive(Debug, Default)]
struct SharedMemory {
    bytes: AtomicUsize,
    /// The most that it may be, of a process that was forked.
    most: usize,
    all: Arc<SharedMemories>,
}

/// The same of all processes of a guest.
#[derive(Debug, Default)]
struct SharedMemories {
    bytes: AtomicUsize,
    /// What those may be together that were forked.
    most: AtomicUsize,
}

/// What a process that is forked may grow by: this part of what is left for those after it.
const PART_GROWN: usize = 32;

impl SharedMemory {
    /// Bytes of all processes, of which this one has so many now.
    fn tell(&self, bytes: usize) -> usize {
        // It never shrinks: who tells of less is late.
        let more = bytes.saturating_sub(self.bytes.fetch_max(bytes, Ordering::Relaxed));
        self.all.bytes.fetch_add(more, Ordering::Relaxed).saturating_add(more)
    }

    /// Another of so many bytes, which may grow to some more, of `most` for all that were forked; otherwise the bytes
    /// that there would be.
    fn fork(&self, bytes: usize, most: usize) -> Result<Self, usize> {
        let mut own = 0;
        let taken = self.all.most.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |all| {
            let left = most.checked_sub(all)?.checked_sub(bytes)?;
            own = bytes + left / PART_GROWN;
            Some(all + own)
        });
        taken.map_err(|all| all.saturating_add(bytes))?;
        self.all.bytes.fetch_add(bytes, Ordering::Relaxed);
        Ok(Self { bytes: AtomicUsize::new(bytes), most: own, all: Arc::clone(&self.all) })
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        self.all.bytes.fetch_sub(*self.bytes.get_mut(), Ordering::Relaxed);
        self.all.most.fetch_sub(self.most, Ordering::Relaxed);
    }
}

impl Growth {
    pub(crate) fn new(limits: &Limits, grown: &Arc<Grown>) -> Self {
        grown.begin();
        Self {
            grown: Arc::clone(grown),
            table_most: limits.table_elements,
            memory: 0,
            memories: Arc::default(),
            shared: Arc::default(),
            table: 0,
            held: 0,
            tables: Arc::default(),
        }
    }

    /// The same for another thread of the guest, which has tables of its own and as yet no memory; none if there is no
    /// room for them. This one's tables are at least as large as those that it begins with.
    pub(crate) fn sibling(&mut self) -> Option<Self> {
        let (tables, most) = (Arc::clone(&self.tables), self.tables_most());
        let hold = |held: usize| held.checked_add(self.table).filter(|held| *held <= most);
        if let Err(held) = tables.fetch_update(Ordering::Relaxed, Ordering::Relaxed, hold) {
            self.refuse_table(held.saturating_add(self.table).div_ceil(THREADS_TABLES));
            return None;
        }
        let (grown, memories) = (Arc::clone(&self.grown), Arc::clone(&self.memories));
        let (shared, table_most, held) = (Arc::clone(&self.shared), self.table_most, self.table);
        Some(Self { grown, table_most, memory: 0, memories, shared, table: 0, held, tables })
    }

    /// The same for another process that begins with a copy of this one's shared memory, of so many bytes; none if
    /// there is no room for that, or for its tables. And the bytes that its memory may be.
    pub(crate) fn fork(&mut self, bytes: usize) -> Option<(Self, usize)> {
        let most = self.grown.most.load(Ordering::Relaxed);
        let shared = match self.shared.fork(bytes, most) {
            Ok(shared) => Arc::new(shared),
            Err(enough) => {
                self.grown.asked(enough, false);
                self.refuse_memory(enough, most);
                return None;
            }
        };
        let most = shared.most;
        // Without room for its tables, what was taken is given back.
        let mut child = self.sibling()?;
        child.shared = shared;
        Some((child, most))
    }

    /// Whether a memory may grow beside so many bytes that threads share.
    pub(crate) fn may_grow(&mut self, shared: usize, current: usize, desired: usize, maximum: Option<usize>) -> bool {
        let shared = self.shared.tell(shared);
        if exceeds(desired, maximum) {
            return true;
        }
        let (more, most) = (desired.saturating_sub(current), self.grown.most.load(Ordering::Relaxed));
        // What it has already is its own, also if it may have less by now.
        let hold = |all: usize| all.checked_add(more).filter(|all| more == 0 || all.saturating_add(shared) <= most);
        let held = self.memories.fetch_update(Ordering::Relaxed, Ordering::Relaxed, hold);
        let (Ok(before) | Err(before)) = held;
        let total = before.saturating_add(more).saturating_add(shared);
        self.grown.asked(total, held.is_ok());
        if held.is_ok() {
            self.memory += more;
        } else {
            self.refuse_memory(total, most);
        }
        held.is_ok()
    }

    fn refuse_memory(&mut self, total: usize, most: usize) {
        let enough = total.div_ceil(1 << 20).next_power_of_two();
        let most = format!("{} of memory", mebibytes(most));
        refuse(&self.grown.memory_told, &most, &option("memory", format!("{enough}m")));
    }

    /// Whether a table may grow.
    pub(crate) fn may_grow_table(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> bool {
        if exceeds(desired, maximum) {
            return true;
        }
        let total = self.table.saturating_add(desired.saturating_sub(current));
        if total > self.table_most {
            self.refuse_table(total);
            return false;
        }
        if total > self.held {
            let (more, most) = (total - self.held, self.tables_most());
            let hold = |held: usize| held.checked_add(more).filter(|held| *held <= most);
            if let Err(held) = self.tables.fetch_update(Ordering::Relaxed, Ordering::Relaxed, hold) {
                self.refuse_table(held.saturating_add(more).div_ceil(THREADS_TABLES));
                return false;
            }
            self.held = total;
        }
        self.table = total;
        true
    }

    fn tables_most(&self) -> usize {
        self.table_most.saturating_mul(THREADS_TABLES)
    }

    fn refuse_table(&mut self, enough: usize) {
        let most = format!("{} elements in its tables", self.table_most);
        refuse(&self.grown.table_told, &most, &option("limit", format!("table-elements={enough}")));
    }

    /// What a memory that threads share has grown to, which nobody is asked for: it has the limit for its most.
    pub(crate) fn tell_shared(&self, bytes: usize) {
        self.grown.memory.store(self.shared.tell(bytes), Ordering::Relaxed);
    }

    /// Why a guest that fails now may have: the last memory that it asked for was refused.
    pub(crate) fn shortage(&self) -> Option<String> {
        let most = self.grown.most.load(Ordering::Relaxed);
        self.grown.is_short.load(Ordering::Relaxed).then(|| format!("it needs more than {}", mebibytes(most)))
    }
}

fn mebibytes(bytes: usize) -> String {
    match bytes {
        whole if whole.is_multiple_of(1 << 20) => format!("{} MiB", whole >> 20),
        bytes => format!("{bytes} bytes"),
    }
}

/// Tells the person once: a guest may ask again and again.
fn refuse(told: &AtomicBool, most: &str, flag: &str) {
    if !told.swap(true, Ordering::Relaxed) {
        tracing::warn!("the guest may not have more than {most}; to allow more, add `{flag}`");
    }
}

/// Whether the module's own maximum makes a growth fail, whatever is said of it: then it does not count.
fn exceeds(desired: usize, maximum: Option<usize>) -> bool {
    maximum.is_some_and(|maximum| desired > maximum)
}

impl Drop for Growth {
    fn drop(&mut self) {
        self.tables.fetch_sub(self.held, Ordering::Relaxed);
        self.memories.fetch_sub(self.memory, Ordering::Relaxed);
    }
}

impl Limits {
    /// The names that [`Limits::set`] takes, in the order of the fields; those of time are no numbers.
    pub const NAMES: &'static [&'static str] = &[
        "memory-bytes",
        "table-elements",
        "descriptors",
        "connections",
        "copy-bytes",
        "held-bytes",
        "random-bytes",
        "environment-bytes",
        "iovecs",
        "subscriptions",
        "header-bytes",
        "instances",
        "queue",
        "header-lines",
        "body-bytes",
        "threads",
    ];

    /// Sets the limit of this name; `false` if there is none, or the number does not fit it.
    pub fn set(&mut self, name: &str, value: u64) -> bool {
        let Ok(size) = usize::try_from(value) else { return false };
        match name {
            "memory-bytes" => self.memory_bytes = size,
            "table-elements" => self.table_elements = size,
            "descriptors" => self.descriptors = size,
            "connections" if size > 0 => self.connections = size,
            "copy-bytes" => self.copy_bytes = size,
            "held-bytes" => self.held_bytes = size,
            "random-bytes" => self.random_bytes = size,
            "environment-bytes" => self.environment_bytes = size,
            "header-bytes" => self.header_bytes = size,
            "queue" => self.queue = size,
            "header-lines" => self.header_lines = size,
            "body-bytes" => self.body_bytes = size,
            "threads" => self.threads = size,
            "iovecs" | "subscriptions" | "instances" => {
                let Ok(count) = u32::try_from(value) else { return false };
                match name {
                    "iovecs" => self.iovecs = count,
                    "subscriptions" => self.subscriptions = count,
                    _ => self.instances = count.max(1),
                }
            }
            _ => return false,
        }
        true
    }
}
