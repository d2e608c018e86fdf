//! What a guest is given of a container, and what is kept from it.

use std::fs;

use serde_json::json;

use crate::support::{Image, Node};

pub(crate) fn arguments_environment_and_folder_are_the_guests(node: &Node) {
    let image = Image::command().with("command-env", "Env", json!(["COLOR=red", "SHAPE=round"]));
    let words = ["env", "COLOR", "env", "SHAPE", "env", "HOST_ONLY", "say", "two words"];
    let ended = node.run_once(&image, &["-e", "COLOR=blue 👋"], &words);
    assert_eq!(ended.success(), "blue 👋\nround\n\ntwo words");
    let image =
        Image::command().with_file("data/in/it", b"relative").with("command-folder", "WorkingDir", json!("/data"));
    assert_eq!(node.run_once(&image, &[], &["cat", "in/it"]).success(), "relative");
}

pub(crate) fn volumes_are_files_of_the_guest(node: &Node) {
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    fs::write(folder.path().join("greeting"), "from the machine").expect("the folder is ours");
    let folder_path = folder.path().display();
    let (mount, read_only) = (format!("{folder_path}:/data"), format!("{folder_path}:/data:ro"));
    let words = ["list", "/data", "cat", "/data/greeting", "say", "", "write", "/data/answer", "from the guest"];
    let ended = node.run_once(&Image::command(), &["-v", &mount], &words);
    assert_eq!(ended.success(), "greeting\nfrom the machine\nwritten");
    assert_eq!(fs::read_to_string(folder.path().join("answer")).expect("it is there"), "from the guest");

    let refused =
        node.run_once(&Image::command(), &["-v", &read_only], &["cat", "/data/greeting", "write", "/data/x", "x"]);
    assert_eq!((refused.code, refused.stdout.as_str()), (1, "from the machine"), "{refused}");
    assert!(!folder.path().join("x").exists());

    // A named volume outlives its containers.
    let volume = ["-v", "kept:/kept"];
    node.run_once(&Image::command(), &volume, &["write", "/kept/x", "still here"]).success();
    assert_eq!(node.run_once(&Image::command(), &volume, &["cat", "/kept/x"]).success(), "still here");
    node.docker(["volume", "rm", "kept"]).success();
}

pub(crate) fn a_root_that_is_read_only_takes_no_files(node: &Node) {
    let words = ["write", "/made", "x", "cat", "/made"];
    assert_eq!(node.run_once(&Image::command(), &[], &words).success(), "written\nx");
    let options = ["--read-only", "--tmpfs", "/scratch"];
    let refused = node.run_once(&Image::command(), &options, &words);
    assert_eq!(refused.code, 1, "{refused}");
    assert!(refused.stderr.contains("write: "), "{refused}");
    let scratch = node.run_once(&Image::command(), &options, &["write", "/scratch/made", "x", "cat", "/scratch/made"]);
    assert_eq!(scratch.success(), "written\nx");
}

/// Serves with no rights at all, and reads only what that user may read.
pub(crate) fn a_user_without_rights_serves(node: &Node) {
    let options = ["--user", "1000:1001", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--read-only"];
    let container = node.start(&Image::hello(), &options, &[]);
    assert_eq!(node.answer(container.address(8080), "POST", "/hello", "x").body, "👋 Hello x\n");
    let status = fs::read_to_string(container.proc("status")).expect("it lives");
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(&format!("{name}:"))).unwrap_or_default();
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert_eq!((field("Uid"), field("Gid")), ("1000 1000 1000 1000".to_owned(), "1001 1001 1001 1001".to_owned()));
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(field(set), "0000000000000000", "{set}");
    }
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    let secret = folder.path().join("secret");
    fs::write(&secret, "x").expect("the folder is ours");
    let mut mode = fs::metadata(&secret).expect("it is there").permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut mode, 0o600);
    fs::set_permissions(&secret, mode).expect("it is ours");
    let mount = format!("{}:/secret", secret.display());
    let refused = node.run_once(&Image::command(), &["-v", &mount, "--user", "1000"], &["cat", "/secret"]);
    assert_eq!(refused.code, 1, "{refused}");
}

/// What Docker asks of every container, without a word on the command line.
pub(crate) fn the_default_restrictions_hold(node: &Node) {
    let container = node.start(&Image::hello(), &[], &[]);
    node.answer(container.address(8080), "POST", "/hello", "x");
    let status = fs::read_to_string(container.proc("status")).expect("it lives");
    assert!(status.contains("\nSeccomp:\t2\n"), "no filter of system calls: {status}");
    // Docker's 14 capabilities, not all.
    assert!(status.contains("\nCapBnd:\t00000000a80425fb\n"), "{status}");
    // What tells of the machine, and of the runtime itself, is not there.
    let mounts = fs::read_to_string(container.proc("mountinfo")).expect("it lives");
    for kind in ["proc", "sysfs", "cgroup", "cgroup2", "mqueue", "devpts"] {
        assert!(!mounts.contains(&format!(" - {kind} ")), "{kind} is mounted: {mounts}");
    }
}

pub(crate) fn the_host_is_out_of_sight(node: &Node) {
    let container = node.start(&Image::hello(), &[], &[]);
    node.answer(container.address(8080), "POST", "/hello", "x");
    let shared = |of: &str| {
        let theirs = fs::read_link(container.proc(&format!("ns/{of}"))).expect("it lives");
        theirs == fs::read_link(format!("/proc/{}/ns/{of}", node.pid)).expect("the node is up")
    };
    for of in ["mnt", "net", "pid", "ipc", "uts"] {
        assert!(!shared(of), "the {of} namespace is the node's");
    }
    // Nothing but what it is made of is mounted, and no descriptor leads out.
    let mounts = fs::read_to_string(container.proc("mountinfo")).expect("it lives");
    let places: Vec<&str> = mounts.lines().filter_map(|line| line.split(' ').nth(4)).collect();
    assert!(places.iter().all(|place| !place.contains("/var/lib") && !place.contains("/run/")), "{mounts}");
    let outside: Vec<String> = fs::read_dir(container.proc("fd"))
        .expect("it lives")
        .filter_map(|entry| Some(fs::read_link(entry.ok()?.path()).ok()?.display().to_string()))
        .filter(|file| file.starts_with("/var/lib/docker") || file.starts_with("/run/containerd/io"))
        .collect();
    assert!(outside.is_empty(), "{outside:?}");
    // The guest is alone: it is the first process, and its name is its own.
    let ended = node.run_once(&Image::command(), &["--hostname", "alone"], &["cat", "/etc/hostname", "list", "/"]);
    assert!(ended.success().starts_with("alone\n"), "{ended}");
    assert!(!ended.stdout.contains("home"), "{ended}");
}
