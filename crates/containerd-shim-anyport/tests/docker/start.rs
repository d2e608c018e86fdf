//! From a module to a server that answers.

use std::fs;
use std::thread;

use crate::support::container::{Container, RUNTIME, unique};
use crate::support::node::Suite;
use crate::support::web::Answer;
use crate::support::{Image, Node, guest, until};

const DOCKERFILE: &str = "FROM scratch\nCOPY server.wasm /server.wasm\nENTRYPOINT [\"/server.wasm\"]\n";

/// What people type, to the letter: build, run, ask.
pub(crate) fn three_lines_and_a_server_answers(node: &Node) {
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    fs::write(folder.path().join("server.wasm"), guest("wasmedge/hello/server.wasm")).expect("the folder is ours");
    // An image of the same bytes as another test's is the same image, and may be gone with it.
    let dockerfile = format!("{DOCKERFILE}LABEL test={}\n", unique("start"));
    fs::write(folder.path().join("Dockerfile"), dockerfile).expect("the folder is ours");
    let script = |lines: &str| node.run_in(folder.path(), "sh", &["sh", "-ec", lines], None);
    script("docker buildx build --platform wasi/wasm32 -t wasmservice --load .").success();
    // While others build too, the engine may know the name a moment later.
    until("the image", || (script("docker image inspect wasmservice").code == 0).then_some(()));
    let run = "docker run -dp 8080:8080 --name=wasmservice --runtime=io.containerd.anyport.v1 --platform=wasi/wasm32 \
               wasmservice";
    script(run).success();
    let answer = until("an answer", || {
        let asked = script("curl -sS -d 'Bob Morane' -X POST http://127.0.0.1:8080/hello");
        (asked.code == 0).then_some(asked.stdout)
    });
    let removed = script("docker rm -f wasmservice");
    assert_eq!(answer, "👋 Hello Bob Morane\n");
    removed.success();
}

pub(crate) fn every_address_of_the_machine_answers(node: &Node) {
    let container = node.start(&Image::hello(), &["-p", "8080"], &[]);
    let published = container.published(8080);
    let hello = |answer: Answer| assert_eq!(answer.body, "👋 Hello Bob Morane\n");
    hello(node.answer(published, "POST", "/hello", "Bob Morane"));
    hello(node.answer(container.address(8080), "POST", "/hello", "Bob Morane"));
    for host in ["localhost", "[::1]"] {
        let port = container.node.docker(["port", &container.name, "8080"]);
        // Docker gives IPv6 a port of its own where it may.
        let line = port.success().lines().find(|line| host == "localhost" || line.starts_with('[')).expect("a line");
        let port = line.rsplit(':').next().unwrap_or_default();
        let asked = node.shell(&format!("curl -sS -d 'Bob Morane' http://{host}:{port}/hello"));
        assert_eq!(asked.success(), "👋 Hello Bob Morane");
    }
}

/// The image specification's own name of the platform.
pub(crate) fn the_platform_wasi_wasm_is_as_good(node: &Node) {
    let mut image = Image::hello();
    image.name = "hello-wasm".to_owned();
    image.platform = ("wasm", "wasi");
    let name = node.load(&image);
    let container = unique("wasm");
    node.docker(["run", "-d", "--name", &container, RUNTIME, "--platform=wasi/wasm", &name]).success();
    let container = Container { node, name: container };
    assert_eq!(node.answer(container.address(8080), "POST", "/hello", "x").body, "👋 Hello x\n");
}

/// An artifact: the layer is the module, and there is no file in the image.
pub(crate) fn a_module_without_files_is_an_image(node: &Node) {
    let mut image = Image::hello();
    image.name = "artifact".to_owned();
    image.platform = ("wasm", "wasi");
    image.files.clear();
    image.artifact = Some(("application/wasm", guest("wasmedge/hello/server.wasm")));
    let name = node.load(&image);
    let container = unique("artifact");
    let run = node.docker(["run", "-d", "--name", &container, RUNTIME, "--platform=wasi/wasm", &name]);
    if node.suite == Suite::Trixie {
        // Docker 26 does not tell containerd which image a container is of.
        assert!(run.failure().contains("its image is not known"), "{run}");
        node.docker(["rm", "-f", &container]).success();
        return;
    }
    run.success();
    let container = Container { node, name: container };
    assert_eq!(node.answer(container.address(8080), "POST", "/hello", "x").body, "👋 Hello x\n");
}

pub(crate) fn ten_containers_of_an_image_start_at_once(node: &Node) {
    let image = Image::hello();
    thread::scope(|scope| {
        let starts: Vec<_> = (0..10).map(|_| scope.spawn(|| node.start(&image, &["-P"], &[]))).collect();
        for start in starts {
            let container = start.join().expect("it starts");
            let answer = node.answer(container.address(8080), "POST", "/hello", &container.name);
            assert_eq!(answer.body, format!("👋 Hello {}\n", container.name));
        }
    });
}

/// Of a module that this node has never seen, the first start compiles; the log says so.
pub(crate) fn a_second_start_compiles_nothing(node: &Node) {
    // A name in a custom section makes it another module.
    let mut module = guest("command/command.wasm");
    let name = format!("{}-{}", node.id, std::process::id());
    let length = u8::try_from(name.len()).expect("it is short");
    module.extend([0, length + 1, length]);
    module.extend(name.bytes());
    let image = Image::of("fresh", module);
    let start = || {
        let container = node.start(&image, &["-e", "io.anyport.log=debug"], &["say", "here"]);
        assert_eq!(container.wait(), 0);
        let log = container.log();
        assert!(log.contains("here"), "{log}");
        log
    };
    let first = start();
    assert!(first.contains("is compiled"), "{first}");
    let second = start();
    assert!(second.contains("is taken from the cache") && !second.contains("is compiled"), "{second}");
}
