//! Networks of containers.

use std::fs;
use std::net::SocketAddr;

use crate::support::container::{PLATFORM, unique};
use crate::support::{Image, Node, guest};

pub(crate) fn the_network_of_the_host_is_shared(node: &Node) {
    let container = node.start(&Image::hello(), &["--network", "host", "-e", "PORT=18080"], &[]);
    let server = SocketAddr::from(([127, 0, 0, 1], 18080));
    assert_eq!(node.answer(server, "POST", "/hello", "x").body, "👋 Hello x\n");
    container.docker(&["stop"]).success();
    assert!(node.ask(server, "POST", "/hello", "x").is_err());
}

pub(crate) fn no_network_is_none(node: &Node) {
    let container = node.start(&Image::hello(), &["--network", "none"], &[]);
    container.wait_for_log("8080");
    let interfaces = fs::read_to_string(container.proc("net/dev")).expect("it lives");
    assert_eq!(interfaces.lines().skip(2).filter(|line| !line.trim().starts_with("lo:")).count(), 0, "{interfaces}");
    // Its own loopback works.
    container.exec(&["anyport", "probe", "http://127.0.0.1:8080/"]).success();
    let lost = node.run_once(&Image::command(), &["--network", "none"], &["ask", "1.1.1.1", "80", "/"]);
    assert_eq!(lost.code, 1, "{lost}");
}

/// On a network of the user's the engine answers for names, by /etc/resolv.conf of the container.
pub(crate) fn containers_find_each_other_by_name(node: &Node) {
    let network = unique("network");
    node.docker(["network", "create", &network]).success();
    {
        let options = ["--network", &network, "--network-alias", "greeter"];
        let server = node.start(&Image::axum(), &options, &[]);
        node.get(server.address(8080));
        for host in [server.name.as_str(), "greeter"] {
            let asked = node.run_once(&Image::command(), &["--network", &network], &["ask", host, "8080", "/"]);
            assert_eq!(asked.success(), "hello from axum", "{asked}");
        }
        let unknown = node.run_once(&Image::command(), &["--network", &network], &["ask", "nobody", "8080", "/"]);
        assert_eq!(unknown.code, 1, "{unknown}");
        assert!(unknown.stderr.contains("lookup"), "{unknown}");
        // And what /etc/hosts says, without any server of names.
        let options = ["--network", &network, "--add-host", &format!("by-hosts:{}", server.address(8080).ip())];
        let asked = node.run_once(&Image::command(), &options, &["ask", "by-hosts", "8080", "/"]);
        assert_eq!(asked.success(), "hello from axum", "{asked}");
    }
    node.docker(["network", "rm", &network]).success();
}

pub(crate) fn compose_waits_until_a_service_is_healthy(node: &Node) {
    let platform = PLATFORM.trim_start_matches("--platform=");
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    let put = |name: &str, bytes: &[u8]| fs::write(folder.path().join(name), bytes).expect("the folder is ours");
    put("server.wasm", &guest("preview1/axum-fd3/server.wasm"));
    put("command.wasm", &guest("command/command.wasm"));
    let healthcheck = r#"HEALTHCHECK --interval=500ms --retries=20 CMD ["anyport","probe","http://127.0.0.1:8080/"]"#;
    put(
        "server.Dockerfile",
        format!("FROM scratch\nCOPY server.wasm /\n{healthcheck}\nENTRYPOINT [\"/server.wasm\"]\n").as_bytes(),
    );
    put("client.Dockerfile", b"FROM scratch\nCOPY command.wasm /\nENTRYPOINT [\"/command.wasm\"]\n");
    let service = |dockerfile: &str| {
        let build = format!("    build: {{ dockerfile: {dockerfile} }}\n    platform: {platform}\n");
        build + "    runtime: io.containerd.anyport.v1\n"
    };
    let compose = format!(
        "services:\n  server:\n{}  client:\n{}    depends_on: {{ server: {{ condition: service_healthy }} }}\n    \
         command: [ask, server, '8080', /, sleep, '600000']\n",
        service("server.Dockerfile"),
        service("client.Dockerfile"),
    );
    put("compose.yaml", compose.as_bytes());
    let project = unique("compose");
    let compose = |words: &[&str]| {
        let words = [&["compose", "-p", &project, "--ansi", "never"], words].concat();
        node.run_in(folder.path(), "docker", &words, None)
    };
    let up = compose(&["up", "--build", "--wait"]);
    let health = node.docker(["inspect", "--format", "{{.State.Health.Status}}", &format!("{project}-server-1")]);
    let logs = node.docker(["logs", &format!("{project}-client-1")]);
    compose(&["down", "--rmi", "all", "--timeout", "2"]).success();
    up.success();
    assert_eq!(health.success(), "healthy");
    assert_eq!(logs.success(), "hello from axum", "{logs}");
}
