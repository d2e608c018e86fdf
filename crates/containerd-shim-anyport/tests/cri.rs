//! Pods, as Kubernetes' kubelet makes them: by the Container Runtime Interface of a real containerd.

#[macro_use]
mod support;
#[path = "cri/messages.rs"]
mod messages;

use std::collections::HashMap;
use std::fs;
use std::net::SocketAddr;

use messages::*;
use prost::Message;
use support::container::unique;
use support::{Image, Node, PATIENCE, until};
use tonic::transport::{Channel, Endpoint};

behaviours! {
    trixie sid {
        a_pod_serves_at_its_address_and_at_a_port_of_the_host,
        probes_and_figures_of_a_container,
        two_containers_share_the_network_of_a_pod,
        an_exit_code_and_a_log_are_kept,
        memory_beyond_the_limit_of_a_pod_is_told,
        a_preview1_server_listens_where_an_annotation_of_the_pod_says,
    } alone {
        a_pod_leaves_nothing_behind,
    }
}

/// A pod, gone with its containers when it is dropped.
struct Pod<'a> {
    node: &'a Node,
    client: Client,
    config: PodConfig,
    id: String,
}

impl<'a> Pod<'a> {
    fn run(node: &'a Node, change: impl FnOnce(&mut PodConfig)) -> Self {
        pause_image(node);
        let client = Client::of(node);
        let name = unique("pod");
        let uid = format!("{}-{name}", std::process::id());
        let metadata = PodMetadata { name: name.clone(), uid, namespace: "default".to_owned() };
        let mut config = PodConfig {
            metadata: Some(metadata),
            hostname: name.clone(),
            log_directory: format!("/run/pods/{name}"),
            linux: Some(LinuxPod { cgroup_parent: format!("/{}", node.id) }),
            ..PodConfig::default()
        };
        change(&mut config);
        let request = RunPod { config: Some(config.clone()), runtime_handler: "anyport".to_owned() };
        let Id { id } = client.call("RunPodSandbox", request);
        Self { node, client, config, id }
    }

    fn start(&self, image: &Image, change: impl FnOnce(&mut ContainerConfig)) -> String {
        import(self.node, image);
        let name = unique(&image.name);
        let mut config = ContainerConfig {
            log_path: format!("{name}.log"),
            metadata: Some(ContainerMetadata { name }),
            image: Some(ImageSpec { image: image.reference() }),
            ..ContainerConfig::default()
        };
        change(&mut config);
        let (pod_sandbox_id, sandbox_config) = (self.id.clone(), Some(self.config.clone()));
        let request = CreateContainer { pod_sandbox_id, config: Some(config), sandbox_config };
        let Id { id } = self.client.call("CreateContainer", request);
        let Nothing {} = self.client.call("StartContainer", Id { id: id.clone() });
        id
    }

    fn address(&self, port: u16) -> SocketAddr {
        let PodStatus { status } = self.client.call("PodSandboxStatus", Id { id: self.id.clone() });
        let status = status.expect("a pod has a state");
        assert_eq!((status.state, status.runtime_handler.as_str()), (0, "anyport"));
        let ip = status.network.expect("a pod has a network").ip;
        SocketAddr::new(ip.parse().expect("an address"), port)
    }

    fn state(&self, container: &str) -> ContainerState {
        let ContainerStatus { status } = self.client.call("ContainerStatus", Id { id: container.to_owned() });
        status.expect("a container has a state")
    }

    fn exec(&self, container: &str, words: &[&str]) -> Executed {
        let cmd = words.iter().map(|word| (*word).to_owned()).collect();
        self.client.call("ExecSync", Exec { container_id: container.to_owned(), cmd, timeout: 20 })
    }

    /// The logs of all its containers, as containerd writes them.
    fn log(&self) -> String {
        let files = fs::read_dir(self.node.path(&self.config.log_directory)).into_iter().flatten().flatten();
        files.map(|file| fs::read_to_string(file.path()).unwrap_or_default()).collect()
    }
}

impl Drop for Pod<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            support::tell(&format!("{}\n{}", self.log(), self.node.last_words()));
            let _ = self.client.ask::<_, Nothing>("StopPodSandbox", Id { id: self.id.clone() });
            let _ = self.client.ask::<_, Nothing>("RemovePodSandbox", Id { id: self.id.clone() });
            return;
        }
        let Nothing {} = self.client.call("StopPodSandbox", Id { id: self.id.clone() });
        let Nothing {} = self.client.call("RemovePodSandbox", Id { id: self.id.clone() });
    }
}

/// The image that a pod is made of: the shim plays its only process, so it needs no more than a name.
fn pause_image(node: &Node) {
    let mut image = Image::of("pause", vec![]);
    image.platform = (if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }, "linux");
    import_as(node, &image, "localhost/pause:1");
}

fn import(node: &Node, image: &Image) {
    import_as(node, image, &image.reference());
}

fn import_as(node: &Node, image: &Image, reference: &str) {
    node.once(reference, || {
        let words = ["-n", "k8s.io", "images", "import", "--all-platforms", "-"];
        node.run("ctr", words, Some(&image.archive_as(reference))).success();
        // The interface hears of it by an event.
        let client = Client::of(node);
        until("the image", || {
            let spec = ImageSpec { image: reference.to_owned() };
            let status = client.ask_service("ImageService", "ImageStatus", ImageRequest { image: Some(spec) });
            status.ok().and_then(|ImageStatus { image }| image)
        });
    });
}

/// A client of containerd's socket.
struct Client {
    runtime: tokio::runtime::Runtime,
    channel: Channel,
}

impl Client {
    fn of(node: &Node) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let socket = format!("unix://{}", node.path("/run/containerd/containerd.sock").display());
        let endpoint = Endpoint::from_shared(socket).expect("a path is an address");
        let channel = runtime.block_on(endpoint.connect()).expect("containerd is up");
        Self { runtime, channel }
    }

    /// A call that has to succeed.
    fn call<Q, A>(&self, name: &str, request: Q) -> A
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        self.ask(name, request).unwrap_or_else(|status| panic!("{name}: {status:?}"))
    }

    fn ask<Q, A>(&self, name: &str, request: Q) -> Result<A, tonic::Status>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        self.ask_service("RuntimeService", name, request)
    }

    fn ask_service<Q, A>(&self, service: &str, name: &str, request: Q) -> Result<A, tonic::Status>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let mut client = tonic::client::Grpc::new(self.channel.clone());
        let path = format!("/runtime.v1.{service}/{name}").parse().expect("a path");
        let codec = tonic_prost::ProstCodec::<Q, A>::default();
        let answer = self.runtime.block_on(async {
            client.ready().await.map_err(|error| tonic::Status::unavailable(error.to_string()))?;
            tokio::time::timeout(PATIENCE, client.unary(tonic::Request::new(request), path, codec))
                .await
                .map_err(|_| tonic::Status::deadline_exceeded("no answer"))?
        });
        answer.map(tonic::Response::into_inner)
    }
}

fn a_pod_serves_at_its_address_and_at_a_port_of_the_host(node: &Node) {
    let pod = Pod::run(node, |pod| pod.port_mappings = vec![PortMapping { container_port: 8080, host_port: 18090 }]);
    let container = pod.start(&Image::hello(), |_| {});
    // The host's own address: what a port of the host is for.
    let gateway = SocketAddr::from(([10, 88, 0, 1], 18090));
    for server in [pod.address(8080), gateway] {
        assert_eq!(node.answer(server, "POST", "/hello", "Bob Morane").body, "👋 Hello Bob Morane\n", "{server}");
    }
    assert_eq!(pod.state(&container).state, 1);
    let Nothing {} = pod.client.call("StopContainer", StopContainer { container_id: container.clone(), timeout: 10 });
    let state = pod.state(&container);
    assert_eq!((state.state, state.exit_code), (2, 0), "{state:?}");
    let Nothing {} = pod.client.call("RemoveContainer", Id { id: container });
}

/// What liveness and readiness probes and autoscalers ask.
fn probes_and_figures_of_a_container(node: &Node) {
    let pod = Pod::run(node, |_| {});
    let container = pod.start(&Image::hello(), |_| {});
    node.answer(pod.address(8080), "POST", "/hello", "x");
    let healthy = pod.exec(&container, &["anyport", "ps"]);
    assert_eq!(healthy.exit_code, 0, "{healthy:?}");
    assert!(String::from_utf8_lossy(&healthy.stdout).contains("/server.wasm"), "{healthy:?}");
    let failed = pod.exec(&container, &["anyport", "probe", "http://127.0.0.1:8099/"]);
    assert_eq!(failed.exit_code, 1, "{failed:?}");
    let stats = until("figures", || {
        let ContainerStats { stats } = pod.client.call("ContainerStats", Id { id: container.clone() });
        let stats = stats?;
        Some((stats.cpu?.used?.value, stats.memory?.used?.value))
    });
    assert!(stats.0 > 0 && stats.1 > 100_000, "{stats:?}");
}

fn two_containers_share_the_network_of_a_pod(node: &Node) {
    let pod = Pod::run(node, |_| {});
    pod.start(&Image::axum(), |_| {});
    node.get(pod.address(8080));
    let client = pod.start(&Image::command(), |config| {
        config.args = ["ask", "127.0.0.1", "8080", "/"].map(str::to_owned).to_vec();
    });
    until("the end of the client", || (pod.state(&client).state == 2).then_some(()));
    assert_eq!(pod.state(&client).exit_code, 0);
    assert!(pod.log().contains("hello from axum"), "{}", pod.log());
}

fn an_exit_code_and_a_log_are_kept(node: &Node) {
    let pod = Pod::run(node, |_| {});
    let container = pod.start(&Image::command(), |config| {
        config.args = ["env", "COLOR", "exit", "42"].map(str::to_owned).to_vec();
        config.envs = vec![KeyValue { key: "COLOR".to_owned(), value: "blue".to_owned() }];
    });
    until("its end", || (pod.state(&container).state == 2).then_some(()));
    assert_eq!(pod.state(&container).exit_code, 42);
    assert!(pod.log().contains(" stdout F blue\n"), "{}", pod.log());
}

fn memory_beyond_the_limit_of_a_pod_is_told(node: &Node) {
    let pod = Pod::run(node, |_| {});
    let container = pod.start(&Image::command(), |config| {
        config.args = ["grow", "200"].map(str::to_owned).to_vec();
        config.linux = Some(LinuxContainer { resources: Some(Resources { memory_limit_in_bytes: 64 << 20 }) });
    });
    until("its end", || (pod.state(&container).state == 2).then_some(()));
    until("the reason", || (pod.state(&container).reason == "OOMKilled").then_some(()));
    assert_eq!(pod.state(&container).exit_code, 137);
}

fn a_preview1_server_listens_where_an_annotation_of_the_pod_says(node: &Node) {
    let annotations = HashMap::from([("io.anyport.listen".to_owned(), "9005".to_owned())]);
    let pod = Pod::run(node, |pod| pod.annotations = annotations);
    pod.start(&Image::axum(), |_| {});
    assert_eq!(node.get(pod.address(9005)).body, "hello from axum\n");
}

fn a_pod_leaves_nothing_behind(node: &Node) {
    let serve = || {
        let pod = Pod::run(node, |_| {});
        let container = pod.start(&Image::hello(), |_| {});
        node.answer(pod.address(8080), "POST", "/hello", "x");
        container
    };
    serve();
    let before = node.traces();
    serve();
    node.wait_for_traces(&before);
}
