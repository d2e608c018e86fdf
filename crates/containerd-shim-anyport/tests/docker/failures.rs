//! Images that cannot be run: `docker run` fails in words, and leaves no container running.

use serde_json::json;

use crate::support::container::unique;
use crate::support::{Image, Node, guest};

/// Runs an image that cannot be; what is said has to have these words.
fn refused(node: &Node, image: &Image, words: &[&str]) {
    let name = unique("refused");
    let ended = node.docker_run(image, &["-d", "--name", &name], &[]);
    let state = node.docker(["inspect", "--format", "{{.State.Status}} {{.State.Pid}}", &name]);
    node.docker(["rm", "-f", &name]).success();
    let said = ended.failure();
    for word in words {
        assert!(said.contains(word), "no `{word}` in: {ended}");
    }
    assert!(!said.contains("panicked"), "{ended}");
    assert_eq!(state.success(), "created 0");
}

pub(crate) fn a_file_that_is_no_module_is_refused_in_words(node: &Node) {
    let whole = guest("wasmedge/hello/server.wasm");
    let cases: [(&str, Vec<u8>, &[&str]); 4] = [
        ("text", b"#!/bin/sh\necho hello\n".to_vec(), &["/server.wasm", "WebAssembly"]),
        ("elf", b"\x7fELF\x02\x01\x01".to_vec(), &["/server.wasm", "WebAssembly"]),
        ("empty", vec![], &["/server.wasm"]),
        ("truncated", whole[..whole.len() / 2].to_vec(), &["/server.wasm"]),
    ];
    for (name, module, words) in cases {
        refused(node, &Image::of(&format!("bad-{name}"), module), words);
    }
}

pub(crate) fn an_entrypoint_that_is_missing_is_named(node: &Node) {
    let image = Image::hello().with("bad-entrypoint", "Entrypoint", json!(["/no-such.wasm"]));
    refused(node, &image, &["/no-such.wasm"]);
}

pub(crate) fn a_module_of_another_kind_is_refused_in_words(node: &Node) {
    let component = b"\0asm\x0d\0\x01\0".to_vec();
    refused(node, &Image::of("bad-component", component), &["component"]);
    // (module (import "wasix_64v1" "thread_id" (func (param i64) (result i32))))
    let wasix = b"\0asm\x01\0\0\0\x01\x06\x01\x60\x01\x7e\x01\x7f\x02\x18\x01\x0awasix_64v1\x09thread_id\0\0".to_vec();
    refused(node, &Image::of("bad-wasix", wasix), &["WASIX"]);
}
