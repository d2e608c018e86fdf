//! What a container is: its own root, names, processes and network, and no rights.

use super::*;

#[test]
fn a_container_sees_only_its_own() {
    on_private_host(|| {
        let bundle = Bundle::like_docker();
        let [root, hosts, resolv, hostname, pid, init, folder] = bundle.ask([
            "list /",
            "read /etc/hosts",
            "read /etc/resolv.conf",
            "hostname",
            "pid",
            "list /proc/1/task",
            "folder",
        ]);
        assert_eq!(root, "dev etc proc sys");
        assert_eq!(hosts, "127.0.0.1 localhost\n");
        assert_eq!(resolv, "nameserver 10.0.0.2\n");
        assert_eq!((hostname.as_str(), pid.as_str(), folder.as_str()), ("wasmservice", "1", "/"));
        assert!(init.starts_with('1'), "{init}");
        assert_ne!(rustix::system::uname().nodename().to_bytes(), b"wasmservice");
    });
}

#[test]
fn nothing_of_the_host_is_mounted_in_a_container() {
    on_private_host(|| {
        let bundle = Bundle::like_docker();
        let [mounts, root, proc, sys, dev, cgroup] =
            bundle.ask(["mounts", "mount /", "mount /proc", "mount /sys", "mount /dev", "mount /sys/fs/cgroup"]);
        let places: Vec<&str> = mounts.lines().map(|line| line.split(' ').nth(4).unwrap()).collect();
        let known = |place: &&str| {
            ["/", "/proc", "/sys", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue", "/etc/hosts", "/etc/resolv.conf"]
                .contains(place)
                || place.starts_with("/sys/fs/cgroup")
                || ["/proc/kcore", "/proc/acpi", "/proc/keys", "/sys/firmware", "/proc/sys", "/proc/bus"]
                    .contains(place)
        };
        let unknown: Vec<&&str> = places.iter().filter(|place| !known(place)).collect();
        assert!(unknown.is_empty(), "{unknown:?}\n{mounts}");
        assert!(root.starts_with("rw,"), "{root}");
        assert!(proc.starts_with("ro,nosuid,nodev,noexec"), "{proc}");
        assert!(sys.starts_with("ro,nosuid,nodev,noexec"), "{sys}");
        assert!(dev.starts_with("rw,nosuid tmpfs tmpfs rw,size=65536k,mode=755"), "{dev}");
        assert!(cgroup.starts_with("ro,nosuid,nodev,noexec"), "{cgroup}");
        // None of them tells the host of anything, nor is told.
        assert!(mounts.lines().all(|line| !line.contains("shared:") && !line.contains("master:")), "{mounts}");
    });
}

#[test]
fn a_container_has_its_devices() {
    on_private_host(|| {
        let mut bundle = Bundle::like_docker();
        bundle.spec["linux"]["devices"] = json!([
            {"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o640, "uid": 5, "gid": 6},
            {"path": "/dev/deep/er/pipe", "type": "p"},
        ]);
        let [list, null, fuse, pipe, write, ptmx, stdin] = bundle.ask([
            "list /dev",
            "mode /dev/null",
            "mode /dev/fuse",
            "mode /dev/deep/er/pipe",
            "write /dev/null",
            "link /dev/ptmx",
            "link /dev/stdin",
        ]);
        let all = "deep fd full fuse mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero";
        assert_eq!(list, all);
        assert_eq!(null, "20666 0:0 1:3");
        assert_eq!(fuse, "20640 5:6 10:229");
        assert_eq!(pipe, "10666 0:0 0:0");
        assert_eq!((write.as_str(), ptmx.as_str(), stdin.as_str()), ("done", "pts/ptmx", "/proc/self/fd/0"));
    });
}

#[test]
fn masked_paths_are_empty_and_readonly_ones_not_written() {
    on_private_host(|| {
        let [kcore, keys, acpi, firmware, sysctl] = Bundle::like_docker().ask([
            "mode /proc/kcore",
            "read /proc/keys",
            "list /proc/acpi",
            "list /sys/firmware",
            "write /proc/sys/net/ipv4/ip_forward",
        ]);
        // What the kernel of this machine lacks is not masked.
        assert!(kcore == refused_with(libc::ENOENT) || kcore.ends_with("1:3"), "{kcore}");
        assert!(keys.is_empty() || keys == refused_with(libc::ENOENT), "{keys}");
        for empty in [acpi, firmware] {
            assert!(empty.is_empty() || empty == refused_with(libc::ENOENT), "{empty}");
        }
        assert_eq!(sysctl, refused_with(libc::EROFS));
    });
}

#[test]
fn a_root_that_is_only_read_is_not_written() {
    on_private_host(|| {
        let mut bundle = Bundle::like_docker();
        bundle.spec["root"]["readonly"] = json!(true);
        bundle.spec["process"]["cwd"] = json!("/made/for/it");
        bundle.add_mount(json!({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid"]}));
        bundle.add_mount(json!({"destination": "/ro", "type": "tmpfs", "source": "tmpfs", "options": ["ro"]}));
        fs::create_dir(bundle.rootfs().join("ro")).unwrap();
        let [root, tmp, ro, folder, mode, kept] =
            bundle.ask(["write /new", "write /tmp/new", "write /ro/new", "folder", "mode /tmp", "mode /ro"]);
        assert_eq!(kept, "40755 0:0 0:0");
        assert_eq!((root, ro), (refused_with(libc::EROFS), refused_with(libc::EROFS)));
        assert_eq!((tmp.as_str(), folder.as_str(), mode.as_str()), ("done", "/made/for/it", "41777 0:0 0:0"));
        assert!(!bundle.rootfs().join("new").exists());
    });
}

#[test]
fn memory_of_the_process_is_not_written() {
    on_private_host(|| {
        let mut bundle = Bundle::like_docker();
        bundle
            .add_mount(json!({"destination": "/host", "type": "bind", "source": "/proc", "options": ["rbind", "rw"]}));
        bundle.spec["linux"]["readonlyPaths"] = json!([]);
        for folder in ["/proc/self", "/proc/thread-self", "/proc/1", "/proc/1/task/2", "/host/self"] {
            let [answer] = bundle.ask([&format!("write {folder}/mem")]);
            assert_eq!(answer, refused_with(libc::EROFS), "{folder}");
        }
    });
}

#[test]
fn a_network_of_its_own_has_loopback() {
    on_private_host(|| {
        let bundle = Bundle::like_docker().with_server();
        let [interfaces, flags, work] =
            bundle.ask(["list /sys/class/net", "read /sys/class/net/lo/flags", "work /app.wasm"]);
        assert!(interfaces.split(' ').any(|name| name == "lo"), "{interfaces}");
        // IFF_UP and IFF_LOOPBACK.
        assert_eq!(flags, "0x9\n");
        assert_eq!(work, "👋 Hello Bob\n");
    });
}

#[test]
fn a_pod_is_joined() {
    on_private_host(|| {
        let pod = Bundle::like_docker();
        let mut sandbox = pod.start();
        sandbox.is_ready();
        let mut bundle = Bundle::like_docker();
        let path = |name: &str| format!("/proc/{}/ns/{name}", sandbox.pid());
        bundle.spec["linux"]["namespaces"] = json!([{"type": "mount"}, {"type": "network", "path": path("net")},
            {"type": "uts", "path": path("uts")}, {"type": "ipc", "path": path("ipc")},
            {"type": "pid", "path": path("pid")}]);
        bundle.spec["hostname"] = json!("pod");
        let links = ["net", "ipc", "uts", "pid", "mnt"].map(|name| format!("link /proc/thread-self/ns/{name}"));
        let mut member = bundle.start();
        member.is_ready();
        let own = links.each_ref().map(|question| member.ask(question));
        // The sandbox's process 1 sees the member's processes.
        let seen = sandbox.ask("list /proc");
        assert!(seen.split(' ').any(|name| name == member.ask("pid")), "{seen}");
        let theirs = links.each_ref().map(|question| sandbox.ask(question));
        assert_eq!(own[..4], theirs[..4]);
        assert_ne!(own[4], theirs[4]);
        assert_eq!(sandbox.ask("hostname"), "pod");
        member.end();
        sandbox.end();
    });
}

#[test]
fn another_process_joins_a_container() {
    on_private_host(|| {
        let mut bundle = Bundle::like_docker();
        bundle.spec["process"]["cwd"] = json!("/work");
        let mut container = bundle.start();
        container.is_ready();
        bundle.spec["process"]["user"] = json!({"uid": 1000, "gid": 1000, "additionalGids": [7]});
        let join = json!({"spec": bundle.spec, "join": container.pid()});
        let namespace = PidNamespace::Join(format!("/proc/{}/ns/pid", container.pid()).into());
        let mut process = Container::start(&namespace, &join);
        process.is_ready();
        for question in ["list /", "hostname", "link /proc/thread-self/ns/net", "link /proc/thread-self/ns/mnt"] {
            assert_eq!(process.ask(question), container.ask(question), "{question}");
        }
        assert_eq!(process.ask("folder"), "/work");
        assert_eq!(process.ask("status Uid"), "1000 1000 1000 1000");
        assert_eq!(process.ask("status Groups"), "7");
        // Nothing is started for whom capabilities would be kept.
        assert_eq!(process.ask("status CapEff"), "0000000000000000");
        assert_eq!(container.ask("status CapEff"), "0000000000000420");
        assert_ne!(process.ask("pid"), "1");
        process.end();
        container.end();
        bundle.nothing_is_left();
    });
}

#[test]
fn sysctls_are_the_containers_own() {
    on_private_host(|| {
        let mut bundle = Bundle::like_docker();
        let file = "/proc/sys/net/ipv4/ip_unprivileged_port_start";
        let before = fs::read_to_string(file).unwrap();
        bundle.spec["linux"]["sysctl"] = json!({"net.ipv4.ip_unprivileged_port_start": "7",
            "kernel.shm_rmid_forced": "1", "net/ipv4/ip_forward": "1"});
        let [port, shm, forward] = bundle.ask([
            &format!("read {file}"),
            "read /proc/sys/kernel/shm_rmid_forced",
            "read /proc/sys/net/ipv4/ip_forward",
        ]);
        assert_eq!((port.as_str(), shm.as_str(), forward.as_str()), ("7\n", "1\n", "1\n"));
        assert_eq!(fs::read_to_string(file).unwrap(), before);

        bundle.spec["linux"]["sysctl"] = json!({"kernel.panic": "1"});
        assert!(bundle.start_error().contains("the sysctl `kernel.panic` is not the container's own"));
        bundle.spec["linux"]["sysctl"] = json!({"net/../kernel/panic": "1"});
        assert!(bundle.start_error().contains("is not the container's own"));
        bundle.spec["linux"]["sysctl"] = json!({"net.not_there": "1"});
        assert!(bundle.start_error().contains("cannot set the sysctl `net.not_there` to `1`: No such file"));
        bundle.spec["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1"});
        bundle.spec["linux"]["namespaces"] = json!([{"type": "mount"}, {"type": "uts"}]);
        assert!(bundle.start_error().contains("no network namespace of its own"), "{}", bundle.start_error());
        bundle.spec["linux"]["namespaces"] =
            json!([{"type": "mount"}, {"type": "uts"}, {"type": "network", "path": "/proc/self/ns/net"}]);
        assert!(bundle.start_error().contains("it would change the host"), "{}", bundle.start_error());
    });
}

#[test]
fn a_cgroup_namespace_is_optional() {
    on_private_host(|| {
        let mut bundle = Bundle::like_docker();
        let [with] = bundle.ask(["list /sys/fs/cgroup"]);
        bundle.spec["linux"]["namespaces"] =
            json!([{"type": "mount"}, {"type": "network"}, {"type": "uts"}, {"type": "ipc"}]);
        let [without, pid] = bundle.ask(["list /sys/fs/cgroup", "pid"]);
        assert_eq!(with, without);
        assert!(!with.is_empty());
        assert_ne!(pid, "1");
    });
}

#[test]
fn one_hierarchy_of_cgroups_is_mounted_as_it_is() {
    on_private_host(|| {
        let host = Path::new("/sys/fs/cgroup");
        let unified =
            RootfsMount { kind: "cgroup2".to_owned(), source: "cgroup2".to_owned(), ..RootfsMount::default() };
        mount_rootfs(&[unified], host).unwrap();
        let mut bundle = Bundle::like_docker();
        for namespace in [Some("cgroup"), None] {
            if namespace.is_none() {
                bundle.spec["linux"]["namespaces"].as_array_mut().unwrap().pop();
            }
            let [mount, files, write] =
                bundle.ask(["mount /sys/fs/cgroup", "list /sys/fs/cgroup", "write /sys/fs/cgroup/cgroup.procs"]);
            assert!(mount.starts_with("ro,nosuid,nodev,noexec") && mount.contains(" cgroup2 "), "{mount}");
            assert!(files.contains("cgroup.procs"), "{files}");
            assert_eq!(write, refused_with(libc::EROFS));
        }
    });
}

#[test]
fn what_cannot_be_a_container_is_refused() {
    on_private_host(|| {
        let mut bundle = Bundle::like_docker();
        bundle.spec["linux"]["namespaces"] = json!([{"type": "mount"}, {"type": "user"}]);
        assert!(bundle.start_error().contains("userns-remap"));
        bundle.spec["linux"]["namespaces"] = json!([{"type": "uts"}]);
        assert!(bundle.start_error().contains("no mount namespace of its own"));
        bundle.spec["linux"]["namespaces"] = json!([{"type": "mount"}]);
        assert!(bundle.start_error().contains("`hostname` is set, but the container has no uts namespace"));
        bundle.spec["linux"]["namespaces"] = json!([{"type": "mount"}, {"type": "network", "path": "/not/there"}]);
        assert!(bundle.start_error().starts_with("cannot open the network namespace /not/there: "));
        let mut bundle = Bundle::like_docker();
        bundle.spec["root"]["path"] = json!("nowhere");
        assert!(bundle.start_error().contains("as the container's root: No such file"), "{}", bundle.start_error());
    });
}
