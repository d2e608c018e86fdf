//! What a process gives up before it runs anything of the container's.

use std::io;

use oci_spec::runtime::{Linux, PosixRlimit, PosixRlimitType, Process, User};
use rustix::fs::{Gid, Mode, Uid};
use rustix::process::{Resource, Rlimit, setrlimit, umask};
use rustix::thread::{
    set_keep_capabilities, set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

use super::capabilities::Wanted;
use super::procfs::Procfs;
use super::rootfs::has_selinux;
use super::{Result, failed, refused, seccomp};

/// Makes the calling process, which has a single thread and is inside of the container, what its
/// specification says: limits, labels, user, capabilities, and a filter of system calls.
///
/// Nothing is gained again by running a file (`no_new_privs`), whatever the specification says: a
/// guest cannot run files, and it lets the filter come last, when all rights are gone.
pub(crate) fn drop_privileges(process: &Process, linux: Option<&Linux>) -> Result<()> {
    // What is asked for and impossible is told before anything is changed.
    let filter = linux.and_then(|linux| linux.seccomp().as_ref()).map(seccomp::Filter::new).transpose()?;
    let procfs = Procfs::open().map_err(|error| failed("cannot open a /proc of the container's processes", error))?;
    for limit in process.rlimits().iter().flatten() {
        limit_resource(limit)?;
    }
    if let Some(adjustment) = process.oom_score_adj() {
        adjust_oom_score(&procfs, adjustment)?;
    }
    take_on_profile(&procfs, process.apparmor_profile().as_deref().unwrap_or_default())?;
    take_on_label(&procfs, process.selinux_label().as_deref().unwrap_or_default())?;
    drop(procfs);

    let wanted = Wanted::new(process.capabilities().as_ref()).for_user(process.user().uid());
    wanted.bound()?;
    become_user(process.user())?;
    wanted.keep()?;
    set_no_new_privs(true).map_err(|errno| failed("cannot set `no_new_privs`", errno))?;
    umask(Mode::from_raw_mode(process.user().umask().unwrap_or(0o022) & 0o777));
    filter.map_or(Ok(()), |filter| filter.install())
}

fn limit_resource(limit: &PosixRlimit) -> Result<()> {
    let resource = match limit.typ() {
        PosixRlimitType::RlimitCpu => Resource::Cpu,
        PosixRlimitType::RlimitFsize => Resource::Fsize,
        PosixRlimitType::RlimitData => Resource::Data,
        PosixRlimitType::RlimitStack => Resource::Stack,
        PosixRlimitType::RlimitCore => Resource::Core,
        PosixRlimitType::RlimitRss => Resource::Rss,
        PosixRlimitType::RlimitNproc => Resource::Nproc,
        PosixRlimitType::RlimitNofile => Resource::Nofile,
        PosixRlimitType::RlimitMemlock => Resource::Memlock,
        PosixRlimitType::RlimitAs => Resource::As,
        PosixRlimitType::RlimitLocks => Resource::Locks,
        PosixRlimitType::RlimitSigpending => Resource::Sigpending,
        PosixRlimitType::RlimitMsgqueue => Resource::Msgqueue,
        PosixRlimitType::RlimitNice => Resource::Nice,
        PosixRlimitType::RlimitRtprio => Resource::Rtprio,
        PosixRlimitType::RlimitRttime => Resource::Rttime,
    };
    let bounded = |value: u64| (value != u64::MAX).then_some(value);
    let new = Rlimit { current: bounded(limit.soft()), maximum: bounded(limit.hard()) };
    setrlimit(resource, new).map_err(|errno| {
        let (soft, hard) = (limit.soft(), limit.hard());
        failed(format_args!("cannot set the limit {} to {soft} (hard: {hard})", limit.typ()), errno)
    })
}

fn adjust_oom_score(procfs: &Procfs, adjustment: i32) -> Result<()> {
    const FILE: &str = "self/oom_score_adj";
    let wanted = adjustment.to_string();
    // To lower it takes a right that a shim inside of a container lacks; to leave it does not.
    if procfs.read(FILE).is_ok_and(|now| now.trim() == wanted) {
        return Ok(());
    }
    procfs
        .write(FILE, &wanted)
        .map_err(|error| failed(format_args!("cannot set the OOM score adjustment to {adjustment}"), error))
}

/// The profile holds from now on, not from the next file that is run: none will be.
fn take_on_profile(procfs: &Procfs, profile: &str) -> Result<()> {
    if profile.is_empty() {
        return Ok(());
    }
    let word = format!("changeprofile {profile}");
    let written = match procfs.write_self("attr/apparmor/current", &word) {
        // Before Linux 5.8 there is one file for all.
        Err(error) if error.kind() == io::ErrorKind::NotFound => procfs.write_self("attr/current", &word),
        result => result,
    };
    written.map_err(|error| {
        failed(format_args!("cannot take on the AppArmor profile `{profile}`"), error)
            .with_hint("see with `aa-status` whether AppArmor is on and has the profile")
    })
}

fn take_on_label(procfs: &Procfs, label: &str) -> Result<()> {
    if label.is_empty() {
        return Ok(());
    }
    if !has_selinux(procfs) {
        return Err(refused(format!("the SELinux label `{label}` is asked for, but SELinux is not enabled")));
    }
    procfs.write_self("attr/current", label).map_err(|error| {
        failed(format_args!("cannot take on the SELinux label `{label}`"), error)
            .with_hint("the policy must allow the shim's domain to change to it by itself (`dyntransition`)")
    })
}

/// The permitted capabilities stay until [`Wanted::keep`] says which.
fn become_user(user: &User) -> Result<()> {
    let whole = |id: u32, what: &str| {
        // All ones say "no change" to the kernel.
        if id == u32::MAX { Err(refused(format!("the {what} {id} is none"))) } else { Ok(id) }
    };
    let uid = Uid::from_raw(whole(user.uid(), "user")?);
    let gid = Gid::from_raw(whole(user.gid(), "group")?);
    let mut groups = Vec::new();
    for group in user.additional_gids().iter().flatten() {
        groups.push(Gid::from_raw(whole(*group, "group")?));
    }
    set_keep_capabilities(true).map_err(|errno| failed("cannot keep capabilities", errno))?;
    set_thread_groups(&groups).map_err(|errno| failed("cannot set the supplementary groups", errno))?;
    set_thread_res_gid(gid, gid, gid).map_err(|errno| failed(format_args!("cannot become group {gid}"), errno))?;
    set_thread_res_uid(uid, uid, uid).map_err(|errno| failed(format_args!("cannot become user {uid}"), errno))?;
    set_keep_capabilities(false).map_err(|errno| failed("cannot let capabilities go", errno))
}
