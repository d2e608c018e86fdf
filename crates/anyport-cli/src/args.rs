//! The words that a person types; what they mean is in `plan.rs`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::builder::{OsStringValueParser, TypedValueParser as _};
use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};
use clap_complete::Shell;

const AFTER_HELP: &str = "\
A server for WasmEdge, for wasmtime's old --tcplisten, for Go or .NET: `anyport run -p 8080 server.wasm`.";

/// One runtime for every WebAssembly HTTP server.
#[derive(Debug, Parser)]
#[command(name = "anyport", version, max_term_width = 100, arg_required_else_help = true)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,

    #[command(flatten)]
    pub(crate) global: Global,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Global {
    /// Keep compiled modules in this folder
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "ANYPORT_CACHE_DIR",
        hide_env_values = true,
        // Unlike clap's own, it takes an empty variable, as one of a service's file may be.
        value_parser = OsStringValueParser::new().map(PathBuf::from),
        help_heading = "Global options"
    )]
    pub(crate) cache_dir: Option<PathBuf>,

    /// Compile each time, and keep nothing
    #[arg(long, global = true, help_heading = "Global options")]
    pub(crate) no_cache: bool,

    /// What to log on stderr: error, warn, info, debug, trace, or a filter such as `anyport::hostcall=trace`
    #[arg(long, global = true, value_name = "FILTER", default_value = DEFAULT_LOG, help_heading = "Global options")]
    #[arg(env = "ANYPORT_LOG", hide_env_values = true)]
    pub(crate) log: String,

    /// Say nothing but errors
    #[arg(short, long, global = true, help_heading = "Global options")]
    pub(crate) quiet: bool,
}

impl Global {
    /// The cache's folder, if one is named: an empty variable names none.
    pub(crate) fn named_cache(&self) -> Option<&Path> {
        self.cache_dir.as_deref().filter(|folder| !folder.as_os_str().is_empty())
    }

    /// What to log: an empty variable asks for nothing special.
    pub(crate) fn filter(&self) -> &str {
        match self.log.as_str() {
            _ if self.quiet => "error",
            "" => DEFAULT_LOG,
            filter => filter,
        }
    }
}

/// What a person must know, and no more.
pub(crate) const DEFAULT_LOG: &str = "warn";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a server, or any command, until it ends
    #[command(visible_alias = "serve")]
    Run(Box<Run>),
    /// Say what a file is, what it needs, and who can run it
    #[command(visible_alias = "explain")]
    Inspect(Inspect),
    /// Compile a module ahead of time, for this kind of machine
    Compile(Compile),
    /// Show or empty the cache of compiled modules
    Cache {
        #[command(subcommand)]
        command: CacheCommand,
    },
    /// Let Docker and Kubernetes run WebAssembly with anyport
    Docker {
        #[command(subcommand)]
        command: DockerCommand,
    },
    /// Print a completion script for a shell
    #[command(visible_alias = "completion")]
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print the manual page
    Man {
        /// The page of this command, such as `cache add`, instead of the overview
        command: Vec<String>,
    },
}

#[derive(Debug, Args)]
#[command(override_usage = "anyport run [OPTIONS] <FILE> [ARGS]...")]
pub(crate) struct Run {
    /// The .wasm file, and the guest's arguments behind it
    // One argument for both: what stands behind the file is never ours, or a guest's arguments could
    // give it permissions.
    #[arg(value_name = "FILE", trailing_var_arg = true, required = true, value_hint = ValueHint::FilePath)]
    pub(crate) file_and_args: Vec<OsString>,

    /// Publish a port of the guest, on 127.0.0.1 unless an address is given
    #[arg(short, long, value_name = "[ADDR:]HOST[:GUEST][/udp]", help_heading = "Network")]
    pub(crate) publish: Vec<String>,

    /// Publish the port of this address as the same port of the guest; or a Unix socket, as the first
    /// port that the guest binds
    #[arg(long, visible_alias = "addr", alias = "http-addr", value_name = "ADDR:PORT|unix:PATH")]
    #[arg(help_heading = "Network")]
    pub(crate) listen: Vec<String>,

    /// Hand the guest a listener on this address, from descriptor 3 on
    #[arg(long, value_name = "ADDR:PORT", help_heading = "Network")]
    pub(crate) tcplisten: Vec<String>,

    /// Take TLS on the published ports, with this certificate in PEM and those it was issued by; several for
    /// several names. It is read again when it changes
    #[arg(long, value_name = "FILE", help_heading = "Network", value_hint = ValueHint::FilePath)]
    pub(crate) tls_cert: Vec<PathBuf>,

    /// The key of the certificate, in PEM
    #[arg(long, value_name = "FILE", help_heading = "Network", value_hint = ValueHint::FilePath)]
    pub(crate) tls_key: Vec<PathBuf>,

    /// Require a header of the PROXY protocol, version 1 or 2, at the begin of each connection, and take the
    /// client's address from it
    #[arg(long, help_heading = "Network")]
    pub(crate) proxy_protocol: bool,

    /// Tell a service its client's address and scheme, in X-Forwarded-For and X-Forwarded-Proto, in place of
    /// what the client says
    #[arg(long, help_heading = "Network")]
    pub(crate) x_forwarded: bool,

    /// Answer /healthz, /readyz and /status on this address
    #[arg(long, value_name = "ADDR:PORT", help_heading = "Network")]
    pub(crate) health: Option<String>,

    /// Let the guest connect to HOST[:PORT], a CIDR, `private`, `public` or `any`
    #[arg(long, visible_alias = "net", value_name = "RULE", help_heading = "Network")]
    // Without a rule it is refused by a sentence of ours: Wasmer has it so.
    #[arg(num_args = 0..=1, default_missing_value = "")]
    pub(crate) allow_net: Vec<String>,

    /// Let the guest look up any name; without it, those that an --allow-net rule could be about
    #[arg(long, help_heading = "Network")]
    pub(crate) allow_dns: bool,

    /// Let the guest's HTTP requests trust the certificates of this PEM file too
    #[arg(long, value_name = "FILE", help_heading = "Network")]
    pub(crate) ca_file: Vec<PathBuf>,

    /// Let the guest use a directory; `:ro` for reading only
    #[arg(
        short = 'v',
        long = "dir",
        visible_alias = "volume",
        value_name = "HOST[:GUEST][:ro]",
        help_heading = "Files and environment"
    )]
    pub(crate) dir: Vec<String>,

    /// The same in the order of old Wasmer versions
    #[arg(long, value_name = "GUEST:HOST", hide = true)]
    pub(crate) mapdir: Vec<String>,

    /// Set a variable of the guest's environment, or pass on one of ours
    #[arg(short, long, value_name = "NAME[=VALUE]", help_heading = "Files and environment")]
    pub(crate) env: Vec<String>,

    /// Set the variables of a file: NAME=VALUE lines, # for comments
    #[arg(long, value_name = "FILE", help_heading = "Files and environment")]
    pub(crate) env_file: Vec<PathBuf>,

    /// Pass our whole environment on
    #[arg(long, alias = "forward-host-env", help_heading = "Files and environment")]
    pub(crate) inherit_env: bool,

    /// Give the guest a value by `wasi:config`
    #[arg(long, value_name = "NAME=VALUE", help_heading = "Files and environment")]
    pub(crate) config: Vec<String>,

    /// Give it the values of a file: NAME=VALUE lines, # for comments
    #[arg(long, value_name = "FILE", help_heading = "Files and environment")]
    pub(crate) config_file: Vec<PathBuf>,

    /// The most memory the guest may have, such as 64m or 1g
    #[arg(short, long, value_name = "SIZE", help_heading = "Limits")]
    pub(crate) memory: Option<String>,

    /// The most connections that each guest holds at a time; others wait [default: 10000]
    #[arg(long, value_name = "N", help_heading = "Limits", allow_negative_numbers = true)]
    pub(crate) max_connections: Option<String>,

    /// How long a client waits for an answer, or for more of it: then a service says 504, or breaks off, and
    /// connections of other guests are closed; 0 for ever [default: 60s]
    #[arg(long, allow_hyphen_values = true, value_name = "TIME", help_heading = "Limits")]
    pub(crate) timeout: Option<String>,

    /// Close a connection on which nothing passes for so long; 0 for never [default: 5m]
    #[arg(long, allow_hyphen_values = true, value_name = "TIME", help_heading = "Limits")]
    pub(crate) idle_timeout: Option<String>,

    /// Close a connection that takes so long to send the head of a request to a service; 0 for never
    /// [default: 10s]
    #[arg(long, allow_hyphen_values = true, value_name = "TIME", help_heading = "Limits")]
    pub(crate) header_timeout: Option<String>,

    /// End a request of whose body nothing comes for so long; 0 for never [default: 30s]
    #[arg(long, allow_hyphen_values = true, value_name = "TIME", help_heading = "Limits")]
    pub(crate) body_timeout: Option<String>,

    /// The largest body of a request to a service [default: 100m]
    #[arg(long, value_name = "SIZE", help_heading = "Limits", allow_negative_numbers = true)]
    pub(crate) max_body: Option<String>,

    /// The most instances of a service at work at a time; other requests wait [default: 128]
    #[arg(long, value_name = "N", help_heading = "Limits", allow_negative_numbers = true)]
    pub(crate) max_instances: Option<String>,

    /// The most requests that wait for an instance; others are answered with 503 [default: 1024]
    #[arg(long, value_name = "N", help_heading = "Limits", allow_negative_numbers = true)]
    pub(crate) max_queue: Option<String>,

    /// End a guest that computes for so long without a look at its sockets; 0 for never [default: 30s,
    /// once it serves a port]
    #[arg(long, allow_hyphen_values = true, value_name = "TIME", help_heading = "Limits")]
    pub(crate) cpu_time: Option<String>,

    /// Another limit: memory-bytes, table-elements, descriptors, connections, copy-bytes, held-bytes,
    /// random-bytes, environment-bytes, iovecs, subscriptions, header-bytes, header-lines, instances, queue,
    /// body-bytes, threads
    #[arg(long, value_name = "NAME=N", help_heading = "Limits")]
    pub(crate) limit: Vec<String>,

    /// How many instances of the guest serve, each on a core of its own: a number, or `cores`. Each has
    /// a memory of its own: a guest that keeps sessions or counters there must stay with one. By default 1, and
    /// `cores` for wasi:http components and CGI
    #[arg(long, value_name = "N|cores", help_heading = "Workers", allow_negative_numbers = true)]
    pub(crate) workers: Option<String>,

    /// Requests that one instance of a wasi:http component answers before it is dropped: 1 by default for 0.2, 128
    /// for 0.3. With more, a request may find what another left in the guest's memory
    #[arg(long, alias = "max-instance-reuse-count", value_name = "N", help_heading = "Workers")]
    #[arg(allow_negative_numbers = true)]
    pub(crate) max_instance_reuse: Option<String>,

    /// Requests that one instance of a wasi:http 0.3 component answers at the same time: 16 by default
    #[arg(long, alias = "max-instance-concurrent-reuse-count", value_name = "N", help_heading = "Workers")]
    #[arg(allow_negative_numbers = true)]
    pub(crate) max_instance_concurrency: Option<String>,

    /// Make so many instances of a wasi:http component for each worker before its port is open: the first requests
    /// find them ready
    #[arg(long, value_name = "N", help_heading = "Workers", allow_negative_numbers = true)]
    pub(crate) prewarm: Option<String>,

    /// When a guest is started again: `no`, `on-failure` (it failed after it had begun to serve) or `always`
    #[arg(long, value_name = "WHEN", default_value = "on-failure", hide_possible_values = true)]
    #[arg(help_heading = "Workers")]
    pub(crate) restart: When,

    /// After SIGTERM, SIGINT or SIGHUP, how long the guest may take to finish what it owes its clients; 0 for not
    /// at all
    #[arg(long, allow_hyphen_values = true, value_name = "TIME", default_value = "8s", help_heading = "Workers")]
    pub(crate) drain_timeout: String,

    /// Print each hostcall, as strace does; or some, by group or name: `--trace=sock,poll`, `--trace='!clock'`.
    /// Groups are args, clock, environ, fd, futex, path, poll, proc, random, sched, sock, thread, tty
    // An `=` is required, so that the file may stand behind it.
    #[arg(long, value_name = "WORDS", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    pub(crate) trace: Option<String>,

    /// Run the module anew for each HTTP request, as a CGI program: the request is in its environment and on its
    /// stdin, the answer is what it writes to stdout. WAGI's `modules.toml` and a `wasmer.toml` with WCGI need no
    /// --cgi: they are a FILE by themselves
    #[arg(long)]
    pub(crate) cgi: bool,

    /// Write a line for each request to a service: `json`, `common` or `combined`, to stderr, or to a file as
    /// `json:FILE`
    // An `=` is required, so that the file may stand behind it.
    #[arg(long, value_name = "FORMAT[:FILE]", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    pub(crate) access_log: Option<String>,

    /// The file was made by `anyport compile` and by nobody else: run its machine code unchecked
    #[arg(long)]
    pub(crate) allow_precompiled: bool,

    /// Options of wasmtime: tcplisten=ADDR and others are taken, or explained
    #[arg(short = 'S', value_name = "OPTION[=VALUE]", hide = true)]
    pub(crate) wasi: Vec<String>,

    /// Options of wasmtime: max-memory-size=N and max-table-elements=N are taken, others are explained
    #[arg(short = 'W', value_name = "OPTION[=VALUE]", hide = true)]
    pub(crate) wasm: Vec<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum When {
    No,
    OnFailure,
    Always,
}

#[derive(Debug, Args)]
pub(crate) struct Inspect {
    /// The file
    #[arg(value_hint = ValueHint::FilePath)]
    pub(crate) file: PathBuf,

    /// For scripts
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Compile {
    /// The .wasm file
    #[arg(value_hint = ValueHint::FilePath)]
    pub(crate) file: PathBuf,

    /// Where to write; the file's name with .cwasm by default
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum CacheCommand {
    /// Compile files into it, so that their first start compiles nothing: in the build of an image
    Add {
        /// The .wasm files
        #[arg(value_name = "FILE", required = true, value_hint = ValueHint::FilePath)]
        files: Vec<PathBuf>,
    },
    /// Print where it is
    Path,
    /// Print how large it is
    Size {
        /// For scripts
        #[arg(long)]
        json: bool,
    },
    /// Remove every entry
    Clear,
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum DockerCommand {
    /// Put the shim where containerd finds it, and check the rest
    Install(Install),
    /// Say what is there and what is missing, and what to do about it; ends with 1 if something is missing
    Check {
        /// For scripts
        #[arg(long)]
        json: bool,
    },
    /// Remove the shim, and say what else there may be
    Uninstall {
        /// The folder that it is in
        #[arg(long, value_name = "DIR", default_value = PREFIX, value_hint = ValueHint::DirPath)]
        prefix: PathBuf,
    },
}

/// In the PATH of a service of systemd's, and nobody's but root's.
const PREFIX: &str = "/usr/local/bin";

#[derive(Clone, Debug, Args)]
pub(crate) struct Install {
    /// A folder of containerd's PATH
    #[arg(long, value_name = "DIR", default_value = PREFIX, value_hint = ValueHint::DirPath)]
    pub(crate) prefix: PathBuf,

    /// The shim; the one beside this program by default
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) shim: Option<PathBuf>,

    /// Print what containerd's configuration needs for Kubernetes, and a RuntimeClass
    #[arg(long)]
    pub(crate) kubernetes: bool,
}
