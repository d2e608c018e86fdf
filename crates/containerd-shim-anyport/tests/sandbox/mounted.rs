//! Volumes and images.

use super::*;

/// A folder of the host with a file, and another mounted below it.
fn volume(bundle: &Bundle) -> PathBuf {
    let volume = bundle.path().join("volume");
    fs::create_dir_all(volume.join("inner")).unwrap();
    fs::write(volume.join("file"), "of the host\n").unwrap();
    mount_rootfs(&[mount_of("tmpfs", "tmpfs", &[])], &volume.join("inner")).unwrap();
    fs::write(volume.join("inner/file"), "of the inner\n").unwrap();
    volume
}

fn mount_of(kind: &str, source: &str, options: &[&str]) -> RootfsMount {
    let options = options.iter().map(|word| (*word).to_owned()).collect();
    RootfsMount { kind: kind.to_owned(), source: source.to_owned(), target: String::new(), options }
}

#[test]
fn volumes_are_what_their_options_say() {
    on_private_host(|| {
        let mut bundle = Bundle::like_docker();
        let volume = volume(&bundle);
        let options = [
            ("/rw", json!(["rbind", "rprivate"])),
            ("/ro", json!(["rbind", "ro", "rprivate", "nosuid", "noexec"])),
            ("/rro", json!(["rbind", "rro", "rprivate"])),
            ("/one", json!(["bind"])),
        ];
        for (destination, options) in options {
            bundle.add_mount(json!({"destination": destination, "type": "bind", "source": volume, "options": options}));
        }
        let mut container = bundle.start();
        container.is_ready();
        assert_eq!(container.ask("read /rw/inner/file"), "of the inner\n");
        assert_eq!(container.ask("write /rw/new"), "done");
        let refused = refused_with(libc::EROFS);
        assert_eq!(
            (container.ask("write /ro/new"), container.ask("write /rro/new")),
            (refused.clone(), refused.clone())
        );
        // Read-only is said of what is named, and by `rro` of all below.
        assert_eq!(
            (container.ask("write /ro/inner/new"), container.ask("write /rro/inner/new")),
            ("done".into(), refused)
        );
        assert_eq!(container.ask("list /one/inner"), "");
        assert!(container.ask("mount /ro").starts_with("ro,nosuid,nodev,noexec,"), "{}", container.ask("mount /ro"));
        container.end();
        assert_eq!(fs::read_to_string(volume.join("new")).unwrap(), "written\n");
        unmount_rootfs(&volume.join("inner")).unwrap();
        bundle.nothing_is_left();
    });
}

/// Through it a guest would write the memory of the runtime that it runs in.
#[test]
fn a_procfs_below_a_volume_is_only_read() {
    on_private_host(|| {
        let mut bundle = Bundle::like_docker();
        let volume = bundle.path().join("a volume");
        fs::create_dir_all(volume.join("proc")).unwrap();
        mount_rootfs(&[mount_of("proc", "proc", &[])], &volume.join("proc")).unwrap();
        bundle.add_mount(json!({"destination": "/host", "type": "bind", "source": volume, "options": ["rbind"]}));
        let mut container = bundle.start();
        container.is_ready();
        let shown = [container.ask("mount /host"), container.ask("mount /host/proc")];
        assert!(shown[0].starts_with("rw,") && shown[1].starts_with("ro,"), "{shown:?}");
        container.end();
        unmount_rootfs(&volume.join("proc")).unwrap();
        bundle.nothing_is_left();
    });
}

/// Before Linux 5.12 there is no `mount_setattr`.
#[test]
fn an_older_kernel_will_do() {
    on_private_host(|| {
        let mut bundle = Bundle::like_docker();
        let volume = volume(&bundle);
        for (destination, options) in
            [("/ro", json!(["rbind", "ro", "noexec", "noatime"])), ("/rw", json!(["bind", "nosuid"]))]
        {
            bundle.add_mount(json!({"destination": destination, "type": "bind", "source": volume, "options": options}));
        }
        bundle.spec["root"]["readonly"] = json!(true);
        bundle.without.push("mount_setattr");
        let mut container = bundle.start();
        container.is_ready();
        assert!(container.ask("mount /").starts_with("ro,"), "{}", container.ask("mount /"));
        assert!(container.ask("mount /ro").starts_with("ro,nodev,noexec,noatime "), "{}", container.ask("mount /ro"));
        assert!(container.ask("mount /rw").starts_with("rw,nosuid,nodev,relatime "), "{}", container.ask("mount /rw"));
        assert!(
            container.ask("mount /proc/sys").starts_with("ro,nosuid,nodev,noexec"),
            "{}",
            container.ask("mount /proc")
        );
        let refused = refused_with(libc::EROFS);
        assert_eq!((container.ask("write /new"), container.ask("write /ro/new")), (refused.clone(), refused.clone()));
        assert_eq!((container.ask("write /proc/self/mem"), container.ask("write /rw/new")), (refused, "done".into()));
        container.end();
        bundle.add_mount(json!({"destination": "/rro", "type": "bind", "source": volume, "options": ["rbind", "rro"]}));
        let error = bundle.start_error();
        assert!(error.contains("at /rro (type bind): Function not implemented"), "{error}");
        unmount_rootfs(&volume.join("inner")).unwrap();
        bundle.nothing_is_left();
    });
}

#[test]
fn what_the_host_mounts_later_is_seen_where_asked_for() {
    on_private_host(|| {
        let mut bundle = Bundle::like_docker();
        let volume = volume(&bundle);
        // The volume is a mount that spreads.
        mount_rootfs(&[mount_of("bind", volume.to_str().unwrap(), &["rbind"])], &volume).unwrap();
        mount_change(&volume, MountPropagationFlags::SHARED).unwrap();
        for (destination, word) in [("/slave", "rslave"), ("/private", "rprivate")] {
            let options = json!(["rbind", word]);
            bundle.add_mount(json!({"destination": destination, "type": "bind", "source": volume, "options": options}));
        }
        let mut container = bundle.start();
        container.is_ready();
        fs::create_dir(volume.join("later")).unwrap();
        mount_rootfs(&[mount_of("tmpfs", "tmpfs", &[])], &volume.join("later")).unwrap();
        fs::write(volume.join("later/file"), "").unwrap();
        assert_eq!(
            (container.ask("list /slave/later"), container.ask("list /private/later")),
            ("file".into(), "".into())
        );
        container.end();
        unmount_rootfs(&volume.join("later")).unwrap();
        unmount_rootfs(&volume).unwrap();
        unmount_rootfs(&volume.join("inner")).unwrap();
        bundle.nothing_is_left();
    });
}

#[test]
fn a_container_shares_what_it_is_told_to() {
    on_private_host(|| {
        let mut bundle = Bundle::like_docker();
        let volume = volume(&bundle);
        mount_rootfs(&[mount_of("bind", volume.to_str().unwrap(), &["rbind"])], &volume).unwrap();
        mount_change(&volume, MountPropagationFlags::SHARED).unwrap();
        bundle.add_mount(
            json!({"destination": "/shared", "type": "bind", "source": volume, "options": ["rbind", "rshared"]}),
        );
        bundle.add_mount(json!({"destination": "/shared/fresh", "type": "tmpfs", "source": "mine"}));
        bundle.spec["linux"]["rootfsPropagation"] = json!("shared");
        let mut container = bundle.start();
        container.is_ready();
        let mounts = container.ask("mounts");
        let line = mounts.lines().find(|line| line.split(' ').nth(4) == Some("/shared")).unwrap();
        assert!(line.contains("shared:"), "{mounts}");
        let host = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        assert!(host.lines().any(|line| line.contains(" mine ") && line.contains("/volume/fresh")), "{host}");
        // But nothing else of the container's is there.
        let places = host.lines().filter(|line| line.contains(bundle.rootfs().to_str().unwrap())).count();
        assert_eq!(places, 0, "{host}");
        container.end();
        for path in ["fresh", "", "inner"] {
            unmount_rootfs(&volume.join(path)).unwrap();
        }
    });
}

#[test]
fn what_is_in_a_folder_is_copied_up() {
    on_private_host(|| {
        let mut bundle = Bundle::like_docker();
        let data = bundle.rootfs().join("data");
        fs::create_dir_all(data.join("inner")).unwrap();
        fs::write(data.join("inner/file"), "of the image\n").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", data.join("link")).unwrap();
        std::os::unix::fs::chown(data.join("inner/file"), Some(3), Some(4)).unwrap();
        let options = json!(["tmpcopyup", "ro"]);
        bundle.add_mount(json!({"destination": "/data", "type": "tmpfs", "source": "tmpfs", "options": options}));
        let [file, mode, link, write] =
            bundle.ask(["read /data/inner/file", "mode /data/inner/file", "link /data/link", "write /data/new"]);
        assert_eq!((file.as_str(), link.as_str()), ("of the image\n", "/etc/passwd"));
        assert_eq!(mode, "100644 3:4 0:0");
        assert_eq!(write, refused_with(libc::EROFS));
    });
}

#[test]
fn a_mount_that_fails_is_told() {
    on_private_host(|| {
        let cases = [
            (
                json!({"destination": "/a", "type": "bind", "source": "/not/there"}),
                "/not/there at /a (type bind): No such",
            ),
            (
                json!({"destination": "/a", "type": "nofs", "source": "x"}),
                "x at /a (type nofs): the kernel knows no such type",
            ),
            (
                json!({"destination": "/a", "type": "tmpfs", "source": "x", "options": ["size=many"]}),
                "x at /a (type tmpfs): Invalid argument",
            ),
            (
                json!({"destination": "/a", "type": "tmpfs", "source": "x", "options": ["color=red"]}),
                "Unknown parameter 'color'",
            ),
            (
                json!({"destination": "/etc", "type": "bind", "source": "/dev/null"}),
                "the source is a file and the destination a folder",
            ),
            (json!({"destination": "/a"}), "the mount at /a has no type"),
        ];
        for (mount, told) in cases {
            let mut bundle = Bundle::like_docker();
            bundle.add_mount(mount);
            let error = bundle.start_error();
            assert!(error.contains(told), "{error}");
            bundle.nothing_is_left();
        }
    });
}

#[test]
fn an_image_that_is_only_read_lacks_its_mount_points() {
    on_private_host(|| {
        let bundle = Bundle::like_docker();
        let (rootfs, image) = (bundle.rootfs(), bundle.path().join("image"));
        fs::create_dir_all(image.join("etc")).unwrap();
        for folder in ["proc", "sys", "dev"] {
            fs::create_dir(image.join(folder)).unwrap();
        }
        mount_rootfs(&[mount_of("bind", image.to_str().unwrap(), &["rbind", "ro"])], &rootfs).unwrap();
        let error = bundle.start_error();
        let told = "at /etc/hosts (type bind): the image has no such file, and its file system is read-only";
        assert!(error.contains(told), "{error}");
        unmount_rootfs(&rootfs).unwrap();
        bundle.nothing_is_left();
    });
}

#[test]
fn an_overlay_of_many_layers_is_mounted() {
    on_private_host(|| {
        let bundle = Bundle::like_docker();
        let layers: Vec<PathBuf> = (0..100)
            .map(|number| bundle.path().join(format!("layers-of-a-long-name-{}/{number}/fs", "x".repeat(40))))
            .collect();
        for (number, layer) in layers.iter().enumerate() {
            fs::create_dir_all(layer).unwrap();
            fs::write(layer.join(format!("file-{number}")), "").unwrap();
        }
        let (upper, work) = (bundle.path().join("upper"), bundle.path().join("work"));
        fs::create_dir(&upper).unwrap();
        fs::create_dir(&work).unwrap();
        let lower: Vec<&str> = layers.iter().map(|layer| layer.to_str().unwrap()).collect();
        let options = [
            format!("lowerdir={}", lower.join(":")),
            format!("upperdir={}", upper.display()),
            format!("workdir={}", work.display()),
        ];
        assert!(layers.iter().map(|layer| path_bytes(layer)).sum::<usize>() > 8000);
        let folder = std::env::current_dir().unwrap();
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        mount_rootfs(&[mount_of("overlay", "overlay", &options)], &bundle.rootfs()).unwrap();
        assert_eq!(std::env::current_dir().unwrap(), folder);
        assert_eq!(fs::read_dir(bundle.rootfs()).unwrap().count(), 100);
        let mut container = bundle.start();
        container.is_ready();
        assert_eq!(container.ask("write /file-7"), "done");
        assert!(container.ask("mount /").contains(" overlay "));
        // It lives on when the host lets go, and holds nothing of the host's.
        unmount_rootfs(&bundle.rootfs()).unwrap();
        assert_eq!(container.ask("read /file-7"), "written\n");
        container.end();
        assert_eq!(fs::read_to_string(upper.join("file-7")).unwrap(), "written\n");
        bundle.nothing_is_left();
    });
}

#[test]
fn images_are_mounted_all_or_none() {
    on_private_host(|| {
        let bundle = Bundle::like_docker();
        let good = mount_of("tmpfs", "tmpfs", &["mode=700", "ro", "X-containerd.note=1"]);
        let bad = mount_of("nofs", "image", &[]);
        let error = mount_rootfs(&[good.clone(), bad], &bundle.rootfs()).unwrap_err().to_string();
        assert!(error.contains("cannot mount the image image at ") && error.contains("(type nofs): "), "{error}");
        bundle.nothing_is_left();
        let mapped = mount_of("tmpfs", "tmpfs", &["uidmap=0:1:2"]);
        assert!(mount_rootfs(&[mapped], &bundle.rootfs()).unwrap_err().to_string().contains("maps users"));
        // Twice there, once gone; and gone already.
        mount_rootfs(&[good.clone(), good.clone()], &bundle.rootfs()).unwrap();
        unmount_rootfs(&bundle.rootfs()).unwrap();
        bundle.nothing_is_left();
        unmount_rootfs(&bundle.rootfs()).unwrap();
        unmount_rootfs(Path::new("/not/there")).unwrap();
        let below = RootfsMount { target: "../a/b".to_owned(), ..mount_of("tmpfs", "tmpfs", &[]) };
        mount_rootfs(&[below], &bundle.rootfs()).unwrap();
        assert!(bundle.rootfs().join("a/b").exists());
        unmount_rootfs(&bundle.rootfs().join("a/b")).unwrap();
        bundle.nothing_is_left();
    });
}
