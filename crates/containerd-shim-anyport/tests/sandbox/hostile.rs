//! Images that try to get out while their container is made.

use std::os::unix::fs::symlink;

use super::*;

#[test]
fn links_of_an_image_lead_nowhere_else() {
    on_private_host(|| {
        let bundle = Bundle::like_docker();
        let outside = bundle.path().join("outside");
        fs::create_dir(&outside).unwrap();
        // All the way up, by names, and by the host's own path.
        symlink("../../../../../..", bundle.rootfs().join("etc")).unwrap();
        symlink(&outside, bundle.rootfs().join("sys")).unwrap();
        let error = bundle.start_error();
        assert!(error.contains("cannot mount sysfs at /sys (type sysfs): the destination is a link"), "{error}");
        fs::remove_file(bundle.rootfs().join("sys")).unwrap();
        let [root, hosts] = bundle.ask(["list /", "read /hosts"]);
        assert_eq!(root, "dev etc hosts proc resolv.conf sys");
        assert_eq!(hosts, "127.0.0.1 localhost\n");
        assert!(!Path::new("/hosts").exists() && fs::read_dir(&outside).unwrap().next().is_none());
    });
}

#[test]
fn a_link_in_place_of_proc_is_refused() {
    on_private_host(|| {
        for target in ["../../..", "/", "/tmp", "/proc/self", "nowhere"] {
            let bundle = Bundle::like_docker();
            symlink(target, bundle.rootfs().join("proc")).unwrap();
            let error = bundle.start_error();
            assert!(error.contains("cannot mount proc at /proc (type proc): "), "{error}");
            bundle.nothing_is_left();
        }
        let bundle = Bundle::like_docker();
        fs::write(bundle.rootfs().join("proc"), "").unwrap();
        assert!(bundle.start_error().contains("is not a folder in the image"));
    });
}

#[test]
fn what_a_link_names_is_made_inside() {
    on_private_host(|| {
        let bundle = Bundle::like_docker();
        let etc = bundle.rootfs().join("etc");
        fs::create_dir(&etc).unwrap();
        // What images of distributions with systemd have; the target is not there.
        symlink("../run/systemd/resolve/stub-resolv.conf", etc.join("resolv.conf")).unwrap();
        symlink("../../../../../../../..//absent/./hosts", etc.join("hosts")).unwrap();
        let [resolv, stub, hosts] =
            bundle.ask(["read /etc/resolv.conf", "read /run/systemd/resolve/stub-resolv.conf", "read /absent/hosts"]);
        assert_eq!((resolv.as_str(), stub), ("nameserver 10.0.0.2\n", resolv.clone()));
        assert_eq!(hosts, "127.0.0.1 localhost\n");
        assert!(!Path::new("/absent").exists() && !Path::new("/run/systemd/resolve/stub-resolv.conf").exists());
    });
}

#[test]
fn a_circle_of_links_ends() {
    on_private_host(|| {
        let bundle = Bundle::like_docker();
        symlink("resolv.conf", bundle.rootfs().join("hosts")).unwrap();
        symlink("hosts", bundle.rootfs().join("resolv.conf")).unwrap();
        symlink(".", bundle.rootfs().join("etc")).unwrap();
        assert!(bundle.start_error().contains("a circle of links"), "{}", bundle.start_error());
    });
}

#[test]
fn nothing_is_mounted_over_proc() {
    on_private_host(|| {
        let mut bundle = Bundle::like_docker();
        fs::create_dir(bundle.rootfs().join("proc")).unwrap();
        symlink("/proc/sys", bundle.rootfs().join("data")).unwrap();
        for destination in ["/proc/self/attr", "/proc/sys/kernel", "/proc", "/data", "/data/kernel", "/x/../proc/bus"] {
            let mount = json!({"destination": destination, "type": "tmpfs", "source": "tmpfs"});
            bundle.add_mount(mount);
            let error = bundle.start_error();
            let is_told = error.contains("is inside of /proc") || error.contains("only a file system of type proc");
            assert!(is_told, "{destination}: {error}");
            bundle.spec["mounts"].as_array_mut().unwrap().pop();
        }
        // What lxcfs makes up may be.
        let meminfo = bundle.path().join("hosts");
        bundle
            .add_mount(json!({"destination": "/proc/meminfo", "type": "bind", "source": meminfo, "options": ["bind"]}));
        let [meminfo] = bundle.ask(["read /proc/meminfo"]);
        assert_eq!(meminfo, "127.0.0.1 localhost\n");
    });
}

#[test]
fn the_root_itself_is_no_place() {
    on_private_host(|| {
        for destination in ["/", "/..", "/up"] {
            let mut bundle = Bundle::like_docker();
            symlink("../../../..", bundle.rootfs().join("up")).unwrap();
            bundle.add_mount(json!({"destination": destination, "type": "tmpfs", "source": "tmpfs"}));
            assert!(bundle.start_error().contains("is the container's root itself"), "{destination}");
        }
    });
}

#[test]
fn devices_of_an_image_are_not_trusted() {
    on_private_host(|| {
        let mut bundle = Bundle::like_docker();
        // Without a /dev of its own, the image's is used: its links are not followed.
        bundle.spec["mounts"]
            .as_array_mut()
            .unwrap()
            .retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
        let outside = bundle.path().join("outside");
        fs::create_dir(&outside).unwrap();
        symlink(&outside, bundle.rootfs().join("dev")).unwrap();
        let question = format!("mode {}/null", outside.display());
        assert_eq!(bundle.ask([&question, "write /dev/null"]), ["20666 0:0 1:3", "done"]);
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    });
}

#[test]
fn devices_of_an_image_and_of_a_volume_cannot_be_opened() {
    on_private_host(|| {
        let mut bundle = Bundle::like_docker();
        let volume = bundle.path().join("volume");
        fs::create_dir(&volume).unwrap();
        for folder in [&bundle.rootfs(), &volume] {
            let null = rustix::fs::makedev(1, 3);
            let kind = rustix::fs::FileType::CharacterDevice;
            rustix::fs::mknodat(rustix::fs::CWD, folder.join("device"), kind, 0o666.into(), null).unwrap();
        }
        bundle.add_mount(json!({"destination": "/volume", "type": "bind", "source": volume, "options": ["rbind"]}));
        let answers = bundle.ask(["write /device", "write /volume/device", "write /dev/null"]);
        let refused = refused_with(libc::EACCES);
        assert_eq!(answers, [refused.as_str(), &refused, "done"]);
    });
}

#[test]
fn a_folder_that_is_the_hosts_is_not_entered() {
    on_private_host(|| {
        let mut bundle = Bundle::like_docker();
        let host = fs::File::open("/").unwrap();
        let fd = std::os::fd::AsRawFd::as_raw_fd(&host);
        // The descriptor is inherited by nobody; the words are those of CVE-2024-21626.
        for folder in [format!("/proc/self/fd/{fd}"), format!("/proc/self/fd/{fd}/../..")] {
            bundle.spec["process"]["cwd"] = json!(folder);
            let mut container = bundle.start();
            let first = container.line();
            assert!(first.starts_with("error ") || container.ask("folder").starts_with('/'), "{first}");
            if first == "ready" {
                assert_eq!(container.ask("list /"), "dev etc proc sys");
            }
        }
    });
}
