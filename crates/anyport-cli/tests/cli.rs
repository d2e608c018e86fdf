//! What surrounds the commands: help, completions, manual, colours, pipes.

mod support;

use std::io::pipe;
use std::process::{Command, Stdio};

use support::{Ended, Folder, Process, anyport, guests, skip};

#[test]
fn help() {
    snapshot!(anyport(["--help"]).data(), @"
    One runtime for every WebAssembly HTTP server

    Usage: anyport [OPTIONS] <COMMAND>

    Commands:
      run          Run a server, or any command, until it ends [alias: serve]
      inspect      Say what a file is, what it needs, and who can run it [alias: explain]
      compile      Compile a module ahead of time, for this kind of machine
      cache        Show or empty the cache of compiled modules
      docker       Let Docker and Kubernetes run WebAssembly with anyport
      completions  Print a completion script for a shell [alias: completion]
      man          Print the manual page
      help         Print this message or the help of the given subcommand(s)

    Options:
      -h, --help     Print help
      -V, --version  Print version

    Global options:
          --cache-dir <DIR>  Keep compiled modules in this folder [env: ANYPORT_CACHE_DIR]
          --no-cache         Compile each time, and keep nothing
          --log <FILTER>     What to log on stderr: error, warn, info, debug, trace, or a filter such as
                             `anyport::hostcall=trace` [env: ANYPORT_LOG] [default: warn]
      -q, --quiet            Say nothing but errors

    A server for WasmEdge, for wasmtime's old --tcplisten, for Go or .NET: `anyport run -p 8080
    server.wasm`.
    ");
}

#[test]
fn help_of_run() {
    snapshot!(anyport(["run", "--help"]).data(), @"
    Run a server, or any command, until it ends

    Usage: anyport run [OPTIONS] <FILE> [ARGS]...

    Arguments:
      <FILE>...  The .wasm file, and the guest's arguments behind it

    Options:
          --trace[=<WORDS>]               Print each hostcall, as strace does; or some, by group or
                                          name: `--trace=sock,poll`, `--trace='!clock'`. Groups are
                                          args, clock, environ, fd, futex, path, poll, proc, random,
                                          sched, sock, thread, tty
          --cgi                           Run the module anew for each HTTP request, as a CGI program:
                                          the request is in its environment and on its stdin, the answer
                                          is what it writes to stdout. WAGI's `modules.toml` and a
                                          `wasmer.toml` with WCGI need no --cgi: they are a FILE by
                                          themselves
          --access-log[=<FORMAT[:FILE]>]  Write a line for each request to a service: `json`, `common`
                                          or `combined`, to stderr, or to a file as `json:FILE`
          --allow-precompiled             The file was made by `anyport compile` and by nobody else: run
                                          its machine code unchecked
      -h, --help                          Print help

    Network:
      -p, --publish <[ADDR:]HOST[:GUEST][/udp]>
              Publish a port of the guest, on 127.0.0.1 unless an address is given
          --listen <ADDR:PORT|unix:PATH>
              Publish the port of this address as the same port of the guest; or a Unix socket, as the
              first port that the guest binds [alias: --addr]
          --tcplisten <ADDR:PORT>
              Hand the guest a listener on this address, from descriptor 3 on
          --tls-cert <FILE>
              Take TLS on the published ports, with this certificate in PEM and those it was issued by;
              several for several names. It is read again when it changes
          --tls-key <FILE>
              The key of the certificate, in PEM
          --proxy-protocol
              Require a header of the PROXY protocol, version 1 or 2, at the begin of each connection,
              and take the client's address from it
          --x-forwarded
              Tell a service its client's address and scheme, in X-Forwarded-For and X-Forwarded-Proto,
              in place of what the client says
          --health <ADDR:PORT>
              Answer /healthz, /readyz and /status on this address
          --allow-net [<RULE>]
              Let the guest connect to HOST[:PORT], a CIDR, `private`, `public` or `any` [alias: --net]
          --allow-dns
              Let the guest look up any name; without it, those that an --allow-net rule could be about
          --ca-file <FILE>
              Let the guest's HTTP requests trust the certificates of this PEM file too

    Files and environment:
      -v, --dir <HOST[:GUEST][:ro]>  Let the guest use a directory; `:ro` for reading only [alias:
                                     --volume]
      -e, --env <NAME[=VALUE]>       Set a variable of the guest's environment, or pass on one of ours
          --env-file <FILE>          Set the variables of a file: NAME=VALUE lines, # for comments
          --inherit-env              Pass our whole environment on
          --config <NAME=VALUE>      Give the guest a value by `wasi:config`
          --config-file <FILE>       Give it the values of a file: NAME=VALUE lines, # for comments

    Limits:
      -m, --memory <SIZE>          The most memory the guest may have, such as 64m or 1g
          --max-connections <N>    The most connections that each guest holds at a time; others wait
                                   [default: 10000]
          --timeout <TIME>         How long a client waits for an answer, or for more of it: then a
                                   service says 504, or breaks off, and connections of other guests are
                                   closed; 0 for ever [default: 60s]
          --idle-timeout <TIME>    Close a connection on which nothing passes for so long; 0 for never
                                   [default: 5m]
          --header-timeout <TIME>  Close a connection that takes so long to send the head of a request
                                   to a service; 0 for never [default: 10s]
          --body-timeout <TIME>    End a request of whose body nothing comes for so long; 0 for never
                                   [default: 30s]
          --max-body <SIZE>        The largest body of a request to a service [default: 100m]
          --max-instances <N>      The most instances of a service at work at a time; other requests
                                   wait [default: 128]
          --max-queue <N>          The most requests that wait for an instance; others are answered with
                                   503 [default: 1024]
          --cpu-time <TIME>        End a guest that computes for so long without a look at its sockets;
                                   0 for never [default: 30s, once it serves a port]
          --limit <NAME=N>         Another limit: memory-bytes, table-elements, descriptors,
                                   connections, copy-bytes, held-bytes, random-bytes, environment-bytes,
                                   iovecs, subscriptions, header-bytes, header-lines, instances, queue,
                                   body-bytes, threads

    Workers:
          --workers <N|cores>             How many instances of the guest serve, each on a core of its
                                          own: a number, or `cores`. Each has a memory of its own: a
                                          guest that keeps sessions or counters there must stay with
                                          one. By default 1, and `cores` for wasi:http components and
                                          CGI
          --max-instance-reuse <N>        Requests that one instance of a wasi:http component answers
                                          before it is dropped: 1 by default for 0.2, 128 for 0.3. With
                                          more, a request may find what another left in the guest's
                                          memory
          --max-instance-concurrency <N>  Requests that one instance of a wasi:http 0.3 component
                                          answers at the same time: 16 by default
          --prewarm <N>                   Make so many instances of a wasi:http component for each
                                          worker before its port is open: the first requests find them
                                          ready
          --restart <WHEN>                When a guest is started again: `no`, `on-failure` (it failed
                                          after it had begun to serve) or `always` [default: on-failure]
          --drain-timeout <TIME>          After SIGTERM, SIGINT or SIGHUP, how long the guest may take
                                          to finish what it owes its clients; 0 for not at all [default:
                                          8s]

    Global options:
          --cache-dir <DIR>  Keep compiled modules in this folder [env: ANYPORT_CACHE_DIR]
          --no-cache         Compile each time, and keep nothing
          --log <FILTER>     What to log on stderr: error, warn, info, debug, trace, or a filter such as
                             `anyport::hostcall=trace` [env: ANYPORT_LOG] [default: warn]
      -q, --quiet            Say nothing but errors
    ");
}

#[test]
fn help_of_inspect() {
    snapshot!(anyport(["inspect", "--help"]).data(), @"
    Say what a file is, what it needs, and who can run it

    Usage: anyport inspect [OPTIONS] <FILE>

    Arguments:
      <FILE>  The file

    Options:
          --json  For scripts
      -h, --help  Print help

    Global options:
          --cache-dir <DIR>  Keep compiled modules in this folder [env: ANYPORT_CACHE_DIR]
          --no-cache         Compile each time, and keep nothing
          --log <FILTER>     What to log on stderr: error, warn, info, debug, trace, or a filter such as
                             `anyport::hostcall=trace` [env: ANYPORT_LOG] [default: warn]
      -q, --quiet            Say nothing but errors
    ");
}

#[test]
fn help_of_compile() {
    snapshot!(anyport(["compile", "--help"]).data(), @"
    Compile a module ahead of time, for this kind of machine

    Usage: anyport compile [OPTIONS] <FILE>

    Arguments:
      <FILE>  The .wasm file

    Options:
      -o, --output <FILE>  Where to write; the file's name with .cwasm by default
      -h, --help           Print help

    Global options:
          --cache-dir <DIR>  Keep compiled modules in this folder [env: ANYPORT_CACHE_DIR]
          --no-cache         Compile each time, and keep nothing
          --log <FILTER>     What to log on stderr: error, warn, info, debug, trace, or a filter such as
                             `anyport::hostcall=trace` [env: ANYPORT_LOG] [default: warn]
      -q, --quiet            Say nothing but errors
    ");
}

#[test]
fn help_of_cache() {
    snapshot!(anyport(["cache", "--help"]).data(), @"
    Show or empty the cache of compiled modules

    Usage: anyport cache [OPTIONS] <COMMAND>

    Commands:
      add    Compile files into it, so that their first start compiles nothing: in the build of an image
      path   Print where it is
      size   Print how large it is
      clear  Remove every entry
      help   Print this message or the help of the given subcommand(s)

    Options:
      -h, --help  Print help

    Global options:
          --cache-dir <DIR>  Keep compiled modules in this folder [env: ANYPORT_CACHE_DIR]
          --no-cache         Compile each time, and keep nothing
          --log <FILTER>     What to log on stderr: error, warn, info, debug, trace, or a filter such as
                             `anyport::hostcall=trace` [env: ANYPORT_LOG] [default: warn]
      -q, --quiet            Say nothing but errors
    ");
    snapshot!(anyport(["cache", "size", "--help"]).data(), @"
    Print how large it is

    Usage: anyport cache size [OPTIONS]

    Options:
          --json  For scripts
      -h, --help  Print help

    Global options:
          --cache-dir <DIR>  Keep compiled modules in this folder [env: ANYPORT_CACHE_DIR]
          --no-cache         Compile each time, and keep nothing
          --log <FILTER>     What to log on stderr: error, warn, info, debug, trace, or a filter such as
                             `anyport::hostcall=trace` [env: ANYPORT_LOG] [default: warn]
      -q, --quiet            Say nothing but errors
    ");
}

#[test]
fn help_of_docker() {
    snapshot!(anyport(["docker", "--help"]).data(), @"
    Let Docker and Kubernetes run WebAssembly with anyport

    Usage: anyport docker [OPTIONS] <COMMAND>

    Commands:
      install    Put the shim where containerd finds it, and check the rest
      check      Say what is there and what is missing, and what to do about it; ends with 1 if
                 something is missing
      uninstall  Remove the shim, and say what else there may be
      help       Print this message or the help of the given subcommand(s)

    Options:
      -h, --help  Print help

    Global options:
          --cache-dir <DIR>  Keep compiled modules in this folder [env: ANYPORT_CACHE_DIR]
          --no-cache         Compile each time, and keep nothing
          --log <FILTER>     What to log on stderr: error, warn, info, debug, trace, or a filter such as
                             `anyport::hostcall=trace` [env: ANYPORT_LOG] [default: warn]
      -q, --quiet            Say nothing but errors
    ");
    snapshot!(anyport(["docker", "install", "--help"]).data(), @"
    Put the shim where containerd finds it, and check the rest

    Usage: anyport docker install [OPTIONS]

    Options:
          --prefix <DIR>  A folder of containerd's PATH [default: /usr/local/bin]
          --shim <FILE>   The shim; the one beside this program by default
          --kubernetes    Print what containerd's configuration needs for Kubernetes, and a RuntimeClass
      -h, --help          Print help

    Global options:
          --cache-dir <DIR>  Keep compiled modules in this folder [env: ANYPORT_CACHE_DIR]
          --no-cache         Compile each time, and keep nothing
          --log <FILTER>     What to log on stderr: error, warn, info, debug, trace, or a filter such as
                             `anyport::hostcall=trace` [env: ANYPORT_LOG] [default: warn]
      -q, --quiet            Say nothing but errors
    ");
}

#[test]
fn help_of_completions_and_man() {
    snapshot!(anyport(["completions", "--help"]).data(), @"
    Print a completion script for a shell

    Usage: anyport completions [OPTIONS] <SHELL>

    Arguments:
      <SHELL>  The shell [possible values: bash, elvish, fish, powershell, zsh]

    Options:
      -h, --help  Print help

    Global options:
          --cache-dir <DIR>  Keep compiled modules in this folder [env: ANYPORT_CACHE_DIR]
          --no-cache         Compile each time, and keep nothing
          --log <FILTER>     What to log on stderr: error, warn, info, debug, trace, or a filter such as
                             `anyport::hostcall=trace` [env: ANYPORT_LOG] [default: warn]
      -q, --quiet            Say nothing but errors
    ");
    snapshot!(anyport(["man", "--help"]).data(), @"
    Print the manual page

    Usage: anyport man [OPTIONS] [COMMAND]...

    Arguments:
      [COMMAND]...  The page of this command, such as `cache add`, instead of the overview

    Options:
      -h, --help  Print help

    Global options:
          --cache-dir <DIR>  Keep compiled modules in this folder [env: ANYPORT_CACHE_DIR]
          --no-cache         Compile each time, and keep nothing
          --log <FILTER>     What to log on stderr: error, warn, info, debug, trace, or a filter such as
                             `anyport::hostcall=trace` [env: ANYPORT_LOG] [default: warn]
      -q, --quiet            Say nothing but errors
    ");
}

#[test]
fn version() {
    snapshot!(anyport(["--version"]).data(), @"anyport VERSION");
}

#[test]
fn no_command_is_answered_with_help() {
    let ended = anyport([""; 0]);
    assert_eq!((ended.code(), ended.stdout.as_str()), (125, ""));
    assert_eq!(ended.stderr, anyport(["--help"]).data());
}

#[test]
fn words_that_are_wrong() {
    snapshot!(anyport(["run", "--memry", "1g", "x.wasm"]), @"
    code 125
    --- stderr
    error: `anyport run` has no option `--memry`
    hint: there is `--memory`; `anyport run --help` lists all options
    ");
    snapshot!(anyport(["guests/wasmedge/hello/server.wasm"]), @"
    code 125
    --- stderr
    error: `guests/wasmedge/hello/server.wasm` is a file, and not a command
    hint: to run it: `anyport run guests/wasmedge/hello/server.wasm`
    ");
    snapshot!(anyport(["run", "--net", "guests/wasmedge/hello/server.wasm"]), @"
    code 125
    --- stderr
    error: `--net` does not say what to allow, and `guests/wasmedge/hello/server.wasm` is a file
    hint: `anyport run --net any guests/wasmedge/hello/server.wasm` allows every host, `--net HOST:PORT` ↵
    one
    ");
    snapshot!(anyport(["run", "--memory-page-limit", "100", "x.wasm"]), @"
    code 125
    --- stderr
    error: `--memory-page-limit` is an option of WasmEdge, and not of anyport
    hint: `--memory SIZE` is the limit, in bytes: a page has 64k
    ");
    snapshot!(anyport(["man", "nope"]), @"
    code 125
    --- stderr
    error: there is no command `nope`
    hint: `anyport --help` lists them
    ");
}

/// Runs a tool on text; `None` if it is not installed.
fn tool(program: &str, words: &[&str], text: &str) -> Option<Ended> {
    let folder = Folder::with("text", text);
    let mut command = Command::new(program);
    command.args(words).arg(folder.path().join("text"));
    if Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
        skip(&format!("`{program}` is not installed"));
        return None;
    }
    Some(Process::spawn(command).end())
}

/// Options with which a server is kept at work.
const OF_A_SERVICE: [&str; 7] =
    ["workers", "restart", "drain-timeout", "idle-timeout", "cpu-time", "max-connections", "allow-dns"];

#[test]
fn completions() {
    for (shell, syntax_check, wanted) in [
        ("bash", Some("-n"), "complete -F _anyport"),
        ("zsh", Some("-n"), "#compdef anyport"),
        ("fish", Some("--no-execute"), "complete -c anyport"),
        ("elvish", None, "edit:completion:arg-completer[anyport]"),
        ("powershell", None, "Register-ArgumentCompleter"),
    ] {
        let ended = anyport(["completions", shell]);
        assert!(ended.data().contains(wanted), "{shell}");
        for option in ["publish", "tcplisten", "allow-net", "allow-precompiled"].iter().chain(&OF_A_SERVICE) {
            assert!(ended.stdout.contains(option), "{shell}: {option}");
        }
        if let Some(checked) = syntax_check.and_then(|word| tool(shell, &[word], &ended.stdout)) {
            assert_eq!((checked.code(), checked.stderr.as_str()), (0, ""), "{shell}");
        }
    }
}

#[test]
fn manual_pages() {
    for (words, wanted) in [
        (&["man"][..], ".TH anyport 1"),
        (&["man", "run"], ".TH anyport-run 1"),
        (&["man", "inspect"], ".TH anyport-inspect 1"),
        (&["man", "cache", "add"], ".TH anyport-cache-add 1"),
        (&["man", "anyport-docker-install"], ".TH anyport-docker-install 1"),
    ] {
        let ended = anyport(words);
        assert!(ended.data().contains(wanted), "{ended}");
        let words = ended.stdout.replace("\\-", "-");
        assert!(wanted != ".TH anyport-run 1" || OF_A_SERVICE.iter().all(|option| words.contains(option)), "{ended}");
        if let Some(rendered) = tool("groff", &["-man", "-Tascii", "-P-bou", "-ww"], &ended.stdout) {
            assert_eq!((rendered.code(), rendered.stderr.as_str()), (0, ""), "{words:?}");
            assert!(rendered.stdout.contains("SYNOPSIS"));
        }
    }
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let folder = Folder::with("x.wasm", guests::exits(0));
    for words in [
        &["inspect", "x.wasm"][..],
        &["inspect", "--json", "x.wasm"],
        &["completions", "bash"],
        &["man"],
        &["--help"],
        &["cache", "size"],
    ] {
        let (reader, writer) = pipe().expect("a pipe");
        drop(reader);
        let mut command = folder.command(words);
        command.stdin(Stdio::null()).stdout(writer).stderr(Stdio::piped());
        let ended = Process::start(&mut command).end();
        assert_eq!((ended.code(), ended.stderr.as_str()), (0, ""), "{words:?}");
    }
}

#[test]
fn a_full_disk_is_an_error() {
    let full = std::fs::File::options().write(true).open("/dev/full").expect("Linux has it");
    let mut command = support::command_in(&support::root(), ["man"]);
    command.stdin(Stdio::null()).stdout(full).stderr(Stdio::piped());
    snapshot!(Process::start(&mut command).end(), @"
    code 125
    --- stderr
    error: stdout cannot be written: No space left on device (os error 28)
    ");
}

/// Closed streams at the start: descriptors that are opened later must not become them.
#[test]
fn closed_streams_are_no_panic() {
    let folder = Folder::with("x.wasm", guests::exits(7)).and("cat.wasm", guests::cat());
    for (closed, file, code) in [
        ("0<&-", "x.wasm", 7),
        ("1>&-", "x.wasm", 7),
        ("2>&-", "x.wasm", 7),
        ("0<&- 1>&- 2>&-", "x.wasm", 7),
        ("0<&-", "cat.wasm", 0),
    ] {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("exec \"$@\" {closed}"), "sh", env!("CARGO_BIN_EXE_anyport"), "run", file]);
        command.current_dir(folder.path()).env("ANYPORT_CACHE_DIR", support::shared_cache());
        assert_eq!(Process::spawn(command).end().code(), code, "{closed} {file}");
    }
}

#[test]
fn a_log_filter_that_is_none_is_told() {
    let folder = Folder::with("x.wasm", guests::exits(0));
    snapshot!(folder.anyport(["run", "--log", "a=b=c", "x.wasm"]), @"
    code 0
    --- stderr
    warning: `--log a=b=c` is not a filter, so warnings are shown
    ");
    let mut command = folder.command(["run", "x.wasm"]);
    command.env("ANYPORT_LOG", "anyport::hostcall=trace");
    snapshot!(Process::spawn(command).end(), @"
    code 0
    --- stderr
    proc_exit(rval=0) = exit
    ");
}

/// What `anyport` writes to a terminal; `None` where there is no `script` to make one.
fn on_a_terminal(folder: &Folder, words: &str, no_color: &str) -> Option<Ended> {
    if Command::new("script").arg("--version").stdout(Stdio::null()).status().is_err() {
        skip("`script` (util-linux) is not installed");
        return None;
    }
    let mut command = Command::new("script");
    command.args(["-qec", &format!("'{}' {words}", env!("CARGO_BIN_EXE_anyport")), "/dev/null"]);
    command.current_dir(folder.path()).env("ANYPORT_CACHE_DIR", support::shared_cache()).env("NO_COLOR", no_color);
    command.env("TERM", "xterm").env("SHELL", "/bin/sh");
    Some(Process::spawn(command).end())
}

const ESCAPE: char = '\x1b';

#[test]
fn colours_are_for_terminals_that_want_them() {
    let folder = Folder::with("x.wasm", guests::binds(8080, 1));
    let coloured = "\x1b[1;33mwarning:\x1b[0m the guest may not bind";
    if let Some(ended) = on_a_terminal(&folder, "run x.wasm", "") {
        assert!(ended.stdout.contains(coloured), "{ended}");
    }
    if let Some(ended) = on_a_terminal(&folder, "run x.wasm", "1") {
        assert!(!ended.stdout.contains(ESCAPE), "{ended}");
    }
    for words in [&["run", "x.wasm"][..], &["run", "--nope"], &["--help"], &["run", "--log", "trace", "x.wasm"]] {
        let ended = folder.anyport(words);
        assert!(!ended.stdout.contains(ESCAPE) && !ended.stderr.contains(ESCAPE), "{words:?}: {ended}");
    }
}

#[test]
fn a_slow_compilation_shows_a_spinner_on_a_terminal_alone() {
    let folder = Folder::with("slow.wasm", guests::slow_to_compile()).and("fast.wasm", guests::exits(0));
    if let Some(ended) = on_a_terminal(&folder, "run --no-cache slow.wasm", "") {
        assert!(ended.stdout.contains("compiling slow.wasm"), "{ended}");
    }
    if let Some(ended) = on_a_terminal(&folder, "run fast.wasm", "") {
        assert_eq!(ended.data(), "");
    }
    let ended = folder.anyport(["run", "--no-cache", "slow.wasm"]);
    assert_eq!((ended.data(), ended.stderr.as_str()), ("", ""));
}
