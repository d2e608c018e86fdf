//! What a container may do: users, capabilities, limits, labels, and system calls.

use super::*;

/// Like Docker's own profile in what matters: most is allowed, some only with some arguments, `clone3`
/// does not exist, and all else is forbidden.
fn profile() -> Value {
    let forbidden =
        ["unshare", "mount", "setns", "ptrace", "keyctl", "bpf", "socket", "clone", "clone3", "personality"];
    // The table of names is in other modules of this program: any name will do that is not forbidden.
    let allowed: Vec<&str> = syscalls::names().filter(|name| !forbidden.contains(name)).collect();
    json!({
        "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1,
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": [
            {"names": allowed, "action": "SCMP_ACT_ALLOW"},
            {"names": ["s390_pci_mmio_read", "not_a_call"], "action": "SCMP_ACT_ALLOW"},
            {"names": ["socket"], "action": "SCMP_ACT_ALLOW",
                "args": [{"index": 0, "value": 40, "op": "SCMP_CMP_NE"}]},
            {"names": ["personality"], "action": "SCMP_ACT_ALLOW",
                "args": [{"index": 0, "value": 0, "op": "SCMP_CMP_EQ"}, {"index": 0, "value": 8, "op": "SCMP_CMP_EQ"}]},
            {"names": ["clone"], "action": "SCMP_ACT_ALLOW",
                "args": [{"index": 0, "value": 2_114_060_288, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]},
            {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
        ],
    })
}

fn call(number: libc::c_long, arguments: [libc::c_long; 3]) -> String {
    let [first, second, third] = arguments;
    format!("call {number} {first} {second} {third}")
}

#[test]
fn a_server_works_under_a_profile_like_dockers() {
    on_private_host(|| {
        let mut bundle = Bundle::like_docker().with_server();
        bundle.spec["process"]["user"] = json!({"uid": 1000, "gid": 1000});
        bundle.spec["process"]["capabilities"] = json!(null);
        bundle.spec["linux"]["seccomp"] = profile();
        let [work, mode, unshare, clone3, new_user, vsock, inet, personality, other] = bundle.ask([
            "work /app.wasm",
            "status Seccomp",
            &call(libc::SYS_unshare, [0x1000_0000, 0, 0]),
            &call(libc::SYS_clone3, [0, 0, 0]),
            &call(libc::SYS_clone, [0x1000_0000, 0, 0]),
            &call(libc::SYS_socket, [40, 1, 0]),
            &call(libc::SYS_socket, [2, 1, 0]),
            &call(libc::SYS_personality, [8, 0, 0]),
            &call(libc::SYS_personality, [7, 0, 0]),
        ]);
        assert_eq!((work.as_str(), mode.as_str()), ("👋 Hello Bob\n", "2"));
        assert_eq!((unshare, new_user), (refused_with(libc::EPERM), refused_with(libc::EPERM)));
        assert_eq!(clone3, refused_with(libc::ENOSYS));
        assert_eq!(vsock, refused_with(libc::EPERM));
        assert!(!inet.starts_with("error"), "{inet}");
        assert_eq!(personality, "0");
        assert_eq!(other, refused_with(libc::EPERM));
    });
}

#[test]
fn calls_that_are_too_new_do_not_exist() {
    on_private_host(|| {
        let mut bundle = Bundle::like_docker();
        bundle.spec["linux"]["seccomp"] = profile();
        let [newer, negative] = bundle.ask([&call(2000, [0, 0, 0]), &call(-1, [0, 0, 0])]);
        assert_eq!((newer, negative), (refused_with(libc::ENOSYS), refused_with(libc::ENOSYS)));
        // Numbers of x86-64 with 32-bit pointers would pass by rules that forbid.
        #[cfg(target_arch = "x86_64")]
        {
            bundle.spec["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{"names": ["getpid"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13}]});
            let [plain, x32, other] = bundle.ask([
                &call(libc::SYS_getpid, [0, 0, 0]),
                &call(libc::SYS_getpid | 0x4000_0000, [0, 0, 0]),
                &call(libc::SYS_getppid, [0, 0, 0]),
            ]);
            assert_eq!((plain, x32), (refused_with(libc::EACCES), refused_with(libc::ENOSYS)));
            assert_eq!(other, "0");
        }
    });
}

#[test]
fn arguments_are_compared_in_every_way() {
    on_private_host(|| {
        let big = 0x1_0000_0005_i64;
        // The operator, its values, and which of the arguments it holds for.
        let cases = [
            ("SCMP_CMP_EQ", 5, 0, vec![5]),
            ("SCMP_CMP_NE", 5, 0, vec![4, 6, big]),
            ("SCMP_CMP_LT", 5, 0, vec![4]),
            ("SCMP_CMP_LE", 5, 0, vec![4, 5]),
            ("SCMP_CMP_GT", 5, 0, vec![6, big]),
            ("SCMP_CMP_GE", 5, 0, vec![5, 6, big]),
            ("SCMP_CMP_MASKED_EQ", 0b110, 0b100, vec![4, 5, big]),
        ];
        for (operator, value, value_two, holds) in cases {
            let mut bundle = Bundle::like_docker();
            bundle.spec["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
                {"names": ["getpriority"], "action": "SCMP_ACT_ERRNO", "errnoRet": 77, "args": [
                    {"index": 2, "value": value, "valueTwo": value_two, "op": operator}]},
                {"names": ["getpriority"], "action": "SCMP_ACT_ERRNO", "errnoRet": 78}]});
            let mut container = bundle.start();
            container.is_ready();
            for argument in [4, 5, 6, big] {
                let expected = if holds.contains(&argument) { 77 } else { 78 };
                let answer = container.ask(&call(libc::SYS_getpriority, [0, 0, argument]));
                assert_eq!(answer, refused_with(expected), "{operator} {value} {value_two}: {argument}");
            }
            container.end();
        }
    });
}

#[test]
fn a_profile_may_name_any_action() {
    on_private_host(|| {
        for action in ["SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_KILL_THREAD", "SCMP_ACT_TRAP"] {
            let mut bundle = Bundle::like_docker();
            bundle.spec["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": [
                "SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"],
                "syscalls": [{"names": ["getpriority"], "action": action}]});
            let mut container = bundle.start();
            container.is_ready();
            let question = format!("{}\n", call(libc::SYS_getpriority, [0, 0, 0]));
            container.child.stdin.as_mut().unwrap().write_all(question.as_bytes()).unwrap();
            if action == "SCMP_ACT_KILL_PROCESS" || action == "SCMP_ACT_TRAP" {
                let mut rest = String::new();
                container.answers.read_to_string(&mut rest).unwrap();
                assert!(!container.child.wait().unwrap().success(), "{action}: {rest}");
            }
        }
        let mut bundle = Bundle::like_docker();
        bundle.spec["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
            {"names": ["getppid"], "action": "SCMP_ACT_LOG"}, {"names": ["sync"], "action": "SCMP_ACT_TRACE"}]});
        let [logged, traced] = bundle.ask([&call(libc::SYS_getppid, [0, 0, 0]), &call(libc::SYS_sync, [0, 0, 0])]);
        // Nobody traces.
        assert_eq!((logged.as_str(), traced), ("0", refused_with(libc::ENOSYS)));
        bundle.spec["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_NOTIFY"});
        assert!(bundle.start_error().contains("SCMP_ACT_NOTIFY"));
        bundle.spec["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
            {"names": ["read"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 6, "value": 1, "op": "SCMP_CMP_EQ"}]}]});
        assert!(bundle.start_error().contains("compares argument 6"));
    });
}

#[test]
fn root_has_only_the_capabilities_it_is_given() {
    on_private_host(|| {
        let [bounding, effective, permitted, ambient, privileges, groups] = Bundle::like_docker().ask([
            "status CapBnd",
            "status CapEff",
            "status CapPrm",
            "status CapAmb",
            "status NoNewPrivs",
            "status Groups",
        ]);
        // CAP_KILL is 5 and CAP_NET_BIND_SERVICE 10.
        for set in [bounding, effective, permitted] {
            assert_eq!(set, "0000000000000420");
        }
        assert_eq!((ambient.as_str(), privileges.as_str(), groups.as_str()), ("0000000000000000", "1", ""));
    });
}

#[test]
fn a_user_has_what_it_is_given() {
    on_private_host(|| {
        let mut bundle = Bundle::like_docker();
        let service = json!(["CAP_NET_BIND_SERVICE"]);
        bundle.spec["process"]["user"] = json!({"uid": 1000, "gid": 100, "umask": 0o77, "additionalGids": [5, 6]});
        bundle.spec["process"]["capabilities"] = json!({"bounding": ["CAP_NET_BIND_SERVICE", "CAP_CHOWN"],
            "effective": service, "permitted": service, "inheritable": service, "ambient": service});
        let [uid, gid, groups, effective, bounding, ambient, umask] = bundle.ask([
            "status Uid",
            "status Gid",
            "status Groups",
            "status CapEff",
            "status CapBnd",
            "status CapAmb",
            "status Umask",
        ]);
        assert_eq!((uid.as_str(), gid.as_str(), groups.as_str()), ("1000 1000 1000 1000", "100 100 100 100", "5 6"));
        for set in [effective, ambient] {
            assert_eq!(set, "0000000000000400");
        }
        assert_eq!((bounding.as_str(), umask.as_str()), ("0000000000000401", "0077"));
        // Nothing said is no capability at all.
        bundle.spec["process"]["capabilities"] = json!(null);
        let [bounding, write] = bundle.ask(["status CapBnd", "write /new"]);
        assert_eq!((bounding.as_str(), write), ("0000000000000000", refused_with(libc::EACCES)));
        bundle.spec["process"]["user"] = json!({"uid": u32::MAX, "gid": 0});
        assert!(bundle.start_error().contains("the user 4294967295 is none"));
    });
}

#[test]
fn all_capabilities_are_those_that_there_are() {
    on_private_host(|| {
        let mut bundle = Bundle::like_docker();
        let all = json!(["CAP_CHOWN", "CAP_SYS_ADMIN", "CAP_SYS_RESOURCE", "CAP_AUDIT_READ", "CAP_CHECKPOINT_RESTORE"]);
        bundle.spec["process"]["capabilities"] =
            json!({"bounding": all, "effective": all, "permitted": all, "inheritable": all, "ambient": all});
        let [effective] = bundle.ask(["status CapEff"]);
        let wanted = 1_u64 | 1 << 21 | 1 << 24 | 1 << 37 | 1 << 40;
        let own = fs::read_to_string("/proc/self/status").unwrap();
        let own = own.lines().find_map(|line| line.strip_prefix("CapPrm:\t")).unwrap();
        assert_eq!(effective, format!("{:016x}", wanted & u64::from_str_radix(own, 16).unwrap()));
    });
}

#[test]
fn limits_are_set() {
    on_private_host(|| {
        let mut bundle = Bundle::like_docker();
        bundle.spec["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}]);
        bundle.spec["process"]["oomScoreAdj"] = json!(500);
        let [limit, score] = bundle.ask(["limit", "read /proc/self/oom_score_adj"]);
        assert_eq!((limit.as_str(), score.as_str()), ("Some(100) Some(200)", "500\n"));
        bundle.spec["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 200, "hard": 100}]);
        assert!(bundle.start_error().contains("cannot set the limit RLIMIT_NOFILE to 200 (hard: 100)"));
    });
}

#[test]
fn labels_that_the_kernel_does_not_have_are_refused() {
    on_private_host(|| {
        let mut bundle = Bundle::like_docker();
        bundle.spec["process"]["apparmorProfile"] = json!("no-such-profile-of-anyport");
        let error = bundle.start_error();
        assert!(error.contains("cannot take on the AppArmor profile `no-such-profile-of-anyport`: "), "{error}");
        let mut bundle = Bundle::like_docker();
        bundle.spec["process"]["selinuxLabel"] = json!("system_u:system_r:no_such_t:s0");
        let error = bundle.start_error();
        assert!(error.contains("the SELinux label `system_u:system_r:no_such_t:s0`"), "{error}");
    });
}
