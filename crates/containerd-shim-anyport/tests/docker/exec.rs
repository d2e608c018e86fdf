//! `docker exec`: a container has no programs, but the shim's own words work in it.

use crate::support::{Image, Node};

pub(crate) fn ps_shows_the_guest(node: &Node) {
    let container = node.start(&Image::hello(), &[], &[]);
    node.answer(container.address(8080), "POST", "/hello", "x");
    let shown = container.exec(&["anyport", "ps"]);
    assert!(shown.success().contains("/server.wasm") && shown.stdout.contains("8080"), "{shown}");
    let json = container.exec(&["anyport", "ps", "--json"]);
    let json: serde_json::Value =
        serde_json::from_str(json.success()).unwrap_or_else(|error| panic!("{error}: {json}"));
    assert!(json.to_string().contains("/server.wasm"), "{json}");
}

pub(crate) fn probe_tells_whether_a_server_answers(node: &Node) {
    let container = node.start(&Image::axum(), &["-e", "PORT=9100"], &[]);
    node.get(container.address(9100));
    container.exec(&["anyport", "probe", "http://127.0.0.1:9100/"]).success();
    container.exec(&["anyport", "probe", "http://localhost:9100/"]).success();
    for (url, why) in [("http://127.0.0.1:9100/no-such-page", "404"), ("http://127.0.0.1:9199/", "refused")] {
        let failed = container.exec(&["anyport", "probe", url]);
        assert_eq!(failed.code, 1, "{failed}");
        assert!(failed.failure().contains(why), "{failed}");
    }
}

pub(crate) fn an_unknown_command_is_not_run(node: &Node) {
    let container = node.start(&Image::hello(), &[], &[]);
    for words in [["/bin/sh", "-c"], ["no-such-program", "x"]] {
        let ended = container.exec(&words);
        assert_eq!(ended.code, 127, "{ended}");
        let said = ended.stdout.clone() + &ended.stderr;
        assert!(said.contains(words[0]) && said.contains("anyport"), "{ended}");
    }
    // The container does not notice.
    assert_eq!(node.answer(container.address(8080), "POST", "/hello", "x").body, "👋 Hello x\n");
}
