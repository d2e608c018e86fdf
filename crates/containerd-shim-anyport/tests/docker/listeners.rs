//! Servers of plain preview1, which can open no socket: where the listener that they are handed listens.

use serde_json::json;

use crate::support::container::Container;
use crate::support::node::Suite;
use crate::support::{Image, Node};

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
