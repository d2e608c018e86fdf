//! Servers that open no socket, or no fd: where the listener of plain preview1 listens, and components.

use serde_json::json;

use crate::support::container::Container;
use crate::support::node::Suite;
use crate::support::{Image, Node, guest};

fn listens(container: &Container<'_>, port: u16) {
    assert_eq!(container.node.get(container.address(port)).body, "hello from axum\n");
    let log = container.log();
    assert!(log.contains(&port.to_string()), "no word of port {port} in: {log}");
    // The guest may use nothing else.
    if port != 8080 {
        assert!(container.node.ask(container.address(8080), "GET", "/", "").is_err());
    }
}

pub(crate) fn a_preview1_server_listens_on_8080(node: &Node) {
    listens(&node.start(&Image::axum(), &[], &[]), 8080);
}

pub(crate) fn a_preview1_server_listens_on_port(node: &Node) {
    listens(&node.start(&Image::axum(), &["-e", "PORT=9001"], &[]), 9001);
}

/// The engine tells a runtime nothing of it but the image's name, in whose configuration it is; Docker 26
/// tells not even that.
pub(crate) fn a_preview1_server_listens_on_the_exposed_port(node: &Node) {
    let image = Image::axum().with("axum-exposed", "ExposedPorts", json!({ "9002/tcp": {} }));
    let port = if node.suite == Suite::Trixie { 8080 } else { 9002 };
    listens(&node.start(&image, &[], &[]), port);
}

pub(crate) fn a_preview1_server_listens_where_an_annotation_says(node: &Node) {
    let options = ["--annotation", "io.anyport.listen=9003", "-e", "PORT=9001"];
    listens(&node.start(&Image::axum(), &options, &[]), 9003);
}

pub(crate) fn a_preview1_server_listens_where_a_variable_says(node: &Node) {
    listens(&node.start(&Image::axum(), &["-e", "io.anyport.listen=9004", "-e", "PORT=9001"], &[]), 9004);
}

/// Each is compiled and linked within the container's own process, and finds its port as the others do.
pub(crate) fn a_cgi_program_answers(node: &Node) {
    let image = Image::of("cgi", guest("cgi/cgi.wasm"));
    let container = node.start(&image, &["-p", "8080", "-e", "io.anyport.cgi=true", "-e", "GREETING=Salut"], &[]);
    let answer = node.answer(container.published(8080), "POST", "/env", "Bob");
    assert!(answer.body.contains("REQUEST_METHOD=POST"), "{answer:?}");
    assert!(answer.body.contains("GREETING=Salut"), "{answer:?}");
}

pub(crate) fn components_of_every_world_answer(node: &Node) {
    for (name, file) in [
        ("http-02", "wasi-http-0.2/echo/server.wasm"),
        ("http-03", "wasi-http-0.3/echo/server.wasm"),
        ("sockets-02", "wasi-sockets-0.2/echo/server.wasm"),
        ("sockets-03", "wasi-sockets-0.3/hello/server.wasm"),
    ] {
        let container = node.start(&Image::of(name, guest(file)), &["-p", "8080", "-e", "PORT=8080"], &[]);
        let answer = node.answer(container.published(8080), "POST", "/hello", "Bob");
        assert_eq!(answer.body, "👋 Hello Bob\n", "{name}");
    }
}
