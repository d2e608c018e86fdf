//! Modules that answer by CGI: alone, by WAGI's `modules.toml`, by a `wasmer.toml` with WCGI.

use std::fs;
use std::os::unix::fs::symlink;

use rustix::process::Signal;

use crate::snapshot;
use crate::support::http::http;
use crate::support::{Ended, Folder, PATIENCE, Process, anyport, command_in, guests, root};

const GUEST: &str = "guests/cgi/cgi.wasm";

/// A folder with the guest in it.
fn folder() -> Folder {
    Folder::with("cgi.wasm", fs::read(root().join(GUEST)).expect("it is committed"))
}

fn ends(server: Process) -> Ended {
    let ended = server.end_by(Signal::TERM, PATIENCE);
    assert_eq!(ended.code(), 0, "{ended}");
    ended
}

#[test]
fn a_module_is_run_for_each_request() {
    let folder = Folder::with("note", "noted\n");
    let dir = format!("{}:/data:ro", folder.path().display());
    let words = ["run", "--cgi", "-p", "0:8080", "-e", "MINE=1", "--dir", &dir, GUEST, "one", "two"];
    let mut server = Process::spawn(command_in(&root(), words));
    let address = server.address();
    let told = http(address, "GET", "/env?a=b", None);
    for want in ["argv[0]=guests/cgi/cgi.wasm\nargv[1]=one\nargv[2]=two\n", "MINE=1\n", "QUERY_STRING=a=b\n"] {
        assert!(told.contains(want), "{want} in {told}");
    }
    assert!(http(address, "GET", "/file?/data/note", None).ends_with("\r\n\r\nnoted\n"));
    assert!(http(address, "POST", "/echo", Some("hello")).ends_with("\r\n\r\nhello"));
    ends(server);
}

#[test]
fn what_goes_wrong_is_told_with_the_id_of_its_request() {
    let mut server = Process::spawn(command_in(&root(), ["run", "--cgi", "-p", "0:8080", GUEST]));
    let address = server.address();
    for (path, status, line) in [
        ("/raw?hello%0a%0a", "502", "the head of the guest's answer is not right: the line `hello` has no colon"),
        ("/nothing", "502", "the head of the guest's answer is not right: there is none"),
        ("/raw?A:%20b%0a", "502", "the head of the guest's answer is not right: no empty line ends it"),
        ("/large-head?70000", "502", "it is longer than 65536 bytes; add `--limit header-bytes=131072`"),
        ("/exit?3", "500", "the guest exited with code 3 before it answered"),
        ("/trap", "500", "the guest failed before it answered: wasm `unreachable` instruction executed"),
    ] {
        let answer = http(address, "GET", path, None);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{path}: {answer}");
        let id = answer.lines().find_map(|line| line.strip_prefix("x-request-id: ")).expect("an id");
        let told = server.line(&format!("warning: request {id}: "));
        assert!(told.contains(line), "{path}: {told}");
    }
    // Of stderr each line is one of the log, whole or not.
    http(address, "GET", "/stderr", None);
    let told = server.line("a line for the log");
    assert!(told.starts_with("warning: guest, request "), "{told}");
    server.line(": no newline");
    ends(server);
    let words = ["run", "--cgi", "-p", "0:8080", "--max-instance-reuse", "2", "guests/wasmedge/hello/server.wasm"];
    let mut server = Process::spawn(command_in(&root(), words));
    server.line("`--max-instance-reuse` has no meaning for CGI");
    server.line("serves a port by itself: if it is no CGI program, leave out `--cgi`");
    // The port is not its own.
    let address = server.address();
    assert!(http(address, "GET", "/", None).starts_with("HTTP/1.1 500 "));
    ends(server);
}

#[test]
fn compiled_ahead_of_time() {
    let folder = folder();
    assert_eq!(folder.anyport(["compile", "cgi.wasm"]).code(), 0);
    let mut server = folder.spawn(["run", "--cgi", "--allow-precompiled", "-p", "0:8080", "cgi.cwasm"]);
    assert!(http(server.address(), "GET", "/requests", None).ends_with("\r\n\r\n1\n"));
    ends(server);
}

#[test]
fn modules_of_wagi() {
    let folder = folder();
    fs::create_dir(folder.path().join("files")).expect("it is ours");
    fs::write(folder.path().join("files/note"), "noted\n").expect("it is ours");
    let toml = r#"
        [[module]]
        route = "/all/..."
        module = "cgi.wasm"
        environment = { WHO = "all" }
        volumes = { "/data" = "files" }

        [[module]]
        route = "/greet"
        module = "file:cgi.wasm"
        entrypoint = "greet"

        [[module]]
        route = "/template/..."
        module = "cgi.wasm"
        argv = "run ${SCRIPT_NAME} ${ARGS}"
        http_max_concurrency = 1
    "#;
    let folder = folder.and("modules.toml", toml);
    // From elsewhere: its paths are beside it.
    let file = folder.path().join("modules.toml").display().to_string();
    let mut server = Process::spawn(command_in(&root(), ["run", "-p", "0:8080", "-e", "ALL=1", &file]));
    let address = server.address();
    let told = http(address, "GET", "/all/env?a&b=c", None);
    for want in [
        "argv[0]=/all/env\nargv[1]=a\nargv[2]=b=c\n",
        "WHO=all\n",
        "ALL=1\n",
        "SCRIPT_NAME=/all\n",
        "PATH_INFO=/env\n",
        "X_MATCHED_ROUTE=/all/...\n",
        &format!("X_FULL_URL=http://{address}/all/env?a&b=c\n"),
        "X_RAW_PATH_INFO=/env\n",
        "CONTENT_LENGTH=0\n",
    ] {
        assert!(told.contains(want), "{want} in {told}");
    }
    assert!(http(address, "GET", "/all/file?/data/note", None).ends_with("noted\n"));
    assert!(http(address, "GET", "/greet", None).ends_with("greetings\n"));
    let told = http(address, "GET", "/template/env?a&b", None);
    assert!(told.contains("argv[0]=run\nargv[1]=/template\nargv[2]=a\nargv[3]=b\n"), "{told}");
    assert!(http(address, "GET", "/other", None).starts_with("HTTP/1.1 404 "));
    let warning = server.line("http_max_concurrency");
    assert!(warning.contains("`http_max_concurrency` of `[[module]]` 3 of "), "{warning}");
    ends(server);
}

#[test]
fn a_package_with_wcgi() {
    let folder = folder();
    fs::create_dir(folder.path().join("public")).expect("it is ours");
    fs::write(folder.path().join("public/note"), "noted\n").expect("it is ours");
    let toml = r#"
        [package]
        name = "me/site"
        version = "0.1.0"
        description = "A site"

        [[module]]
        name = "site"
        source = "cgi.wasm"
        abi = "wasi"

        [[command]]
        name = "other"
        module = "site"
        runner = "wasi"

        [[command]]
        name = "site"
        module = "site"
        runner = "https://webc.org/runner/wcgi"

        [command.annotations.wasi]
        env = ["GREETING=hi=there"]
        main-args = ["-v"]

        [command.annotations.wcgi]
        dialect = "rfc-3875"

        [fs]
        "/app" = "public"
    "#;
    let folder = folder.and("wasmer.toml", toml);
    let mut server = folder.spawn(["run", "-p", "0:8080", "wasmer.toml", "more"]);
    let address = server.address();
    let told = http(address, "GET", "/env?a", None);
    for want in [
        "argv[0]=cgi.wasm\nargv[1]=-v\nargv[2]=more\n",
        "GREETING=hi=there\n",
        "SCRIPT_NAME=/env\n",
        "PATH_INFO=/env\n",
        "SCRIPT_FILENAME=/app/env\n",
        "DOCUMENT_ROOT=/app/\n",
    ] {
        assert!(told.contains(want), "{want} in {told}");
    }
    assert!(http(address, "GET", "/file?/app/note", None).ends_with("noted\n"));
    ends(server);
}

#[test]
fn manifests_that_cannot_be_served() {
    let run = |text: &str| folder().and("x.toml", text).anyport(["run", "-p", "0:8080", "x.toml"]).to_string();
    snapshot!(run("a = "), @"
    code 125
    --- stderr
    error: `x.toml` is no TOML: line 1: string values must be quoted, expected literal string
    ");
    snapshot!(run("a = 1"), @r#"
    code 125
    --- stderr
    error: `x.toml` names no CGI program: it has neither `[[module]]` nor `[[command]]`
    hint: `modules.toml` of WAGI and `wasmer.toml` with `runner = "wcgi"` are taken
    "#);
    snapshot!(run("[[module]]\nmodule = \"cgi.wasm\""), @"
    code 125
    --- stderr
    error: `[[module]]` 1 of `x.toml` has no `route`
    ");
    snapshot!(run("[[module]]\nmodule = \"cgi.wasm\"\nroute = \"hello\""), @"
    code 125
    --- stderr
    error: `route` of `[[module]]` 1 of `x.toml` is not right: it is a path such as `/hello`, or ↵
    `/hello/...` with all below
    ");
    snapshot!(run("[[module]]\nmodule = \"cgi.wasm\"\nroute = 1"), @"
    code 125
    --- stderr
    error: `route` of `[[module]]` 1 of `x.toml` is not right: it is text
    ");
    snapshot!(run("[[module]]\nmodule = \"oci:x/y:1\"\nroute = \"/\""), @"
    code 125
    --- stderr
    error: `module` of `[[module]]` 1 of `x.toml` is not right: `oci:x/y:1` is not on this machine
    hint: fetch it, and name the file
    ");
    snapshot!(run("[[module]]\nmodule = \"none.wasm\"\nroute = \"/\""), @"
    code 127
    --- stderr
    error: there is no file `none.wasm`
    ");
    snapshot!(run("[[module]]\nmodule = \"cgi.wasm\"\nroute = \"/\"\nvolumes = { \"/a\" = \"none\" }"), @"
    code 125
    --- stderr
    error: there is no directory `none`, which `[[module]]` 1 of `x.toml` wants as `/a`
    ");
    snapshot!(run("[[module]]\nmodule = \"cgi.wasm\"\nroute = \"/\"\nentrypoint = \"hi\""), @"
    code 126
    --- stderr
    error: `cgi.wasm` exports no function `hi` without parameters
    hint: build it as a command (a program with `main`) for `wasm32-wasip1`
    ");
    let twice = "[[module]]\nmodule = \"cgi.wasm\"\nroute = \"/\"\n";
    snapshot!(run(&twice.repeat(2)), @"
    code 125
    --- stderr
    error: `cgi.wasm` and `cgi.wasm` are both for `/`
    hint: give one of them another route
    ");
    snapshot!(run("[[command]]\nname = \"x\"\nmodule = \"x\"\nrunner = \"wasi\""), @"
    code 125
    --- stderr
    error: `x.toml` has no command of the runner `wcgi`
    hint: run its module by itself: `anyport run -p 8080:8080 module.wasm`
    ");
    let wcgi = "[[command]]\nname = \"x\"\nmodule = \"x\"\nrunner = \"wcgi\"\n";
    snapshot!(run(wcgi), @"
    code 125
    --- stderr
    error: `x.toml` has no module `x`
    ");
    snapshot!(run(&wcgi.repeat(2)), @r#"
    code 125
    --- stderr
    error: `x.toml` has several commands of the runner `wcgi`: `x`, `x`
    hint: name one of them in `[package]`: `entrypoint = "NAME"`
    "#);
    snapshot!(run(&wcgi.replace("\"x\"\nr", "\"a/b:x\"\nr")), @"
    code 125
    --- stderr
    error: the module `a/b:x` is another package's, and none is fetched
    hint: build the package with its module in it: `[[module]]` with `source`
    ");
    snapshot!(run(&format!("{wcgi}[command.annotations.wcgi]\ndialect = \"wcgi\"")), @"
    code 125
    --- stderr
    error: `dialect` of `wcgi` of `annotations` of the command `x` of `x.toml` is not right: `rfc-3875` ↵
    alone is known
    ");
    snapshot!(anyport(["run", "-p", "0:8080", "none.toml"]), @"
    code 127
    --- stderr
    error: `none.toml` cannot be read: No such file or directory (os error 2)
    ");
}

/// A package that somebody downloaded says where its files are; whoever runs it says what else it may have.
#[test]
fn a_manifest_gives_away_nothing_but_its_own_directory() {
    let outer = Folder::new();
    let package = outer.path().join("package");
    for folder in ["secret", "package/files"] {
        fs::create_dir_all(outer.path().join(folder)).expect("it is ours");
    }
    let outer = outer.and("secret/note", "secret\n");
    fs::write(package.join("files/note"), "noted\n").expect("it is ours");
    fs::write(package.join("cgi.wasm"), fs::read(root().join(GUEST)).expect("it is committed")).expect("it is ours");
    symlink("../secret", package.join("link")).expect("it is ours");
    symlink("files", package.join("inner")).expect("it is ours");
    let secret = outer.path().join("secret").canonicalize().expect("it is there");
    let secret = secret.to_str().expect("a plain path");
    let wagi = |host: &str| {
        format!("[[module]]\nmodule = \"cgi.wasm\"\nroute = \"/...\"\nvolumes = {{ \"/data\" = \"{host}\" }}\n")
    };
    let wasmer = |host: &str| {
        let command = "[[command]]\nname = \"x\"\nmodule = \"x\"\nrunner = \"wcgi\"\n";
        let module = "[[module]]\nname = \"x\"\nsource = \"cgi.wasm\"\n";
        format!("{module}{command}[fs]\n\"/data\" = \"{host}\"\n")
    };
    let manifests: [&dyn Fn(&str) -> String; 2] = [&wagi, &wasmer];
    let file = package.join("x.toml");
    for (manifest, read_only) in manifests.into_iter().zip(["", ":ro"]) {
        for host in [secret, "../secret", "files/../../secret", "link", "link/../secret", "inner/../../secret"] {
            fs::write(&file, manifest(host)).expect("it is ours");
            // From within, and from where a path of the manifest would lead to the file by chance.
            for (from, name) in [(&*package, "x.toml"), (outer.path(), "package/x.toml")] {
                let told = Process::spawn(command_in(from, ["run", "-p", "0:8080", name])).end().to_string();
                let told = told.replace(" ↵\n", " ");
                let outside = format!("wants `{secret}` as `/data`, which is outside of the file's own directory\n");
                assert!(told.contains(&outside), "{host}: {told}");
                let hint = format!("hint: to give it that directory, add `--dir {secret}:/data{read_only}`\n");
                assert!(told.contains(&hint), "{host}: {told}");
            }
            // What the hint says to type.
            let dir = format!("{secret}:/data{read_only}");
            let mut server = Process::spawn(command_in(&package, ["run", "-p", "0:8080", "--dir", &dir, "x.toml"]));
            assert!(http(server.address(), "GET", "/file?/data/note", None).ends_with("secret\n"));
            ends(server);
        }
        for host in ["files", "./files", "inner", "../package/files"] {
            fs::write(&file, manifest(host)).expect("it is ours");
            let mut server = Process::spawn(command_in(outer.path(), ["run", "-p", "0:8080", "package/x.toml"]));
            assert!(http(server.address(), "GET", "/file?/data/note", None).ends_with("noted\n"), "{host}");
            ends(server);
        }
        // Where we are is not looked at.
        fs::write(&file, manifest("secret")).expect("it is ours");
        let told =
            Process::spawn(command_in(outer.path(), ["run", "-p", "0:8080", "package/x.toml"])).end().to_string();
        assert!(told.contains("there is no directory `package/secret`"), "{told}");
    }
}

/// What a guest puts in the place of a directory that it was given leads the next request nowhere else.
#[test]
fn directories_are_opened_once() {
    let folder = Folder::new();
    for name in ["secret", "files/sub"] {
        fs::create_dir_all(folder.path().join(name)).expect("it is ours");
    }
    let folder = folder.and("secret/note", "secret\n").and("files/sub/note", "noted\n");
    let dir = format!("{}:/data", folder.path().join("files/sub").display());
    let mut server = Process::spawn(command_in(&root(), ["run", "--cgi", "-p", "0:8080", "--dir", &dir, GUEST]));
    let address = server.address();
    fs::rename(folder.path().join("files/sub"), folder.path().join("files/other")).expect("it is ours");
    symlink("../secret", folder.path().join("files/sub")).expect("it is ours");
    assert!(http(address, "GET", "/file?/data/note", None).ends_with("noted\n"));
    ends(server);
}

/// A module of WASIX has a memory that threads share, with threads or without.
#[test]
fn a_program_of_wasix() {
    let folder = Folder::with("note", "noted\n");
    let dir = format!("{}:/data:ro", folder.path().display());
    let guest = "guests/wasix/cgi.wasm";
    let words = ["run", "--cgi", "-p", "0:8080", "-e", "MINE=1", "--dir", &dir, guest, "one"];
    let mut server = Process::spawn(command_in(&root(), words));
    let address = server.address();
    let told = http(address, "GET", "/env?a=b", None);
    for want in ["argv[0]=guests/wasix/cgi.wasm\nargv[1]=one\n", "env MINE=1\n", "env QUERY_STRING=a=b\n"] {
        assert!(told.contains(want), "{want} in {told}");
    }
    assert!(http(address, "POST", "/body", Some("hello")).ends_with("body=5 hash=05e918d2\n"));
    assert!(http(address, "GET", "/thread", None).ends_with("thread: error=0 found=5050\n"));
    assert!(http(address, "GET", "/missing", None).starts_with("HTTP/1.1 404 "));
    let answer = http(address, "GET", "/trap", None);
    assert!(answer.starts_with("HTTP/1.1 500 "), "{answer}");
    server.line("the guest failed before it answered: wasm `unreachable` instruction executed");
    http(address, "GET", "/stderr", None);
    assert!(server.line("a line for the log").starts_with("warning: guest, request "));
    ends(server);
}

#[test]
fn what_is_no_program_of_cgi() {
    snapshot!(anyport(["run", "--cgi", GUEST]), @"
    code 125
    --- stderr
    error: `guests/cgi/cgi.wasm` serves HTTP requests, and no port is published for them
    hint: `anyport run --cgi -p 8080 guests/cgi/cgi.wasm` serves them on http://localhost:8080
    ");
    snapshot!(anyport(["run", "--cgi", "-p", "0:8080", "guests/wasi-http-0.2/echo/server.wasm"]), @"
    code 126
    --- stderr
    error: `guests/wasi-http-0.2/echo/server.wasm` is a component, and CGI is for modules
    hint: leave out `--cgi`: `anyport inspect` says how it is run
    ");
    let dialect = r#"(module (@custom "cgi-dialect" "wcgi") (memory (export "memory") 1) (func (export "_start")))"#;
    let folder = Folder::with("exits.wasm", guests::exits(0)).and("wcgi.wasm", guests::wasm(dialect));
    snapshot!(folder.anyport(["run", "--cgi", "-p", "0:8080", "wcgi.wasm"]), @"
    code 126
    --- stderr
    error: `wcgi.wasm` is a CGI program of the dialect `wcgi`, and not of RFC 3875
    hint: build it for the dialect `rfc-3875`
    ");
    snapshot!(folder.anyport(["run", "-p", "0:8080", "exits.wasm"]), @"
    code 0
    --- stderr
    warning: `exits.wasm` has no sockets, so nobody could answer at the published port; if it is a CGI ↵
    program (WAGI, WCGI), add `--cgi`
    ");
}

#[test]
fn a_module_may_say_that_it_is_one() {
    let wasm = guests::wasm(
        r#"(module (@custom "cgi-dialect" "rfc-3875") (memory (export "memory") 1) (func (export "_start")))"#,
    );
    let data = Folder::with("x.wasm", wasm).anyport(["inspect", "x.wasm"]).data().to_owned();
    assert!(data.contains("wants to: answer HTTP requests by CGI\n"), "{data}");
    assert!(data.contains("run: anyport run --cgi -p 8080 x.wasm\n"), "{data}");
}

/// The blocks of the document in this language.
fn blocks(language: &str) -> Vec<String> {
    let text = fs::read_to_string(root().join("docs/cgi.md")).expect("it is in the repository");
    let fence = format!("```{language}\n");
    let blocks = text.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap_or_default());
    blocks.map(str::to_owned).collect()
}

#[test]
fn the_page_of_the_documentation_is_true() {
    let (commands, files) = (blocks("sh"), blocks("toml"));
    let [modules, wasmer] = &files[..] else { panic!("{files:?}") };
    let wasm = fs::read(root().join(GUEST)).expect("it is committed");
    let folder = Folder::with("hello.wasm", wasm).and("modules.toml", modules).and("wasmer.toml", wasmer);
    for name in ["files", "public"] {
        fs::create_dir(folder.path().join(name)).expect("it is ours");
    }
    let told = [("/env", "X_MATCHED_ROUTE=/...\n"), ("/files/env", "GREETING=hi\n"), ("/env", "argv[1]=--verbose\n")];
    assert_eq!(commands.len(), told.len());
    for (command, (path, want)) in commands.iter().zip(told) {
        let words = command.trim().strip_prefix("anyport ").expect("a command of ours").replace("-p 8080", "-p 0:8080");
        let mut server = folder.spawn(words.split(' '));
        let answer = http(server.address(), "GET", path, None);
        assert!(answer.contains(want), "{command}: {answer}");
        ends(server);
    }
}
