//! The settings of the kernel that a container may have for itself.

use std::path::{Component, Path};

use oci_spec::runtime::{LinuxNamespaceType as Kind, Spec};

use super::procfs::Procfs;
use super::{Result, failed, namespaces, refused};

/// Refuses what would be a setting of the host.
///
/// A specification may name the host's network as the one to join.
pub(super) fn check(spec: &Spec, is_in_network_of_host: bool) -> Result<()> {
    for (name, _) in asked(spec) {
        let path = path_of(name);
        let is_plain = Path::new(&path).components().all(|part| matches!(part, Component::Normal(_)));
        let Some(kind) = namespace_of(&path).filter(|_| is_plain) else {
            return Err(refused(format!("the sysctl `{name}` is not the container's own: it would change the host")));
        };
        let is_of_host = kind == Kind::Network && is_in_network_of_host;
        if is_of_host || !namespaces::has(spec, kind) {
            let kind = if kind == Kind::Network { "network".to_owned() } else { kind.to_string() };
            return Err(namespaces::missing(&format!("the sysctl `{name}`"), &kind));
        }
    }
    Ok(())
}

/// Sets what has been checked.
pub(super) fn set(spec: &Spec, procfs: &Procfs) -> Result<()> {
    for (name, value) in asked(spec) {
        procfs
            .write(format!("sys/{}", path_of(name)), value)
            .map_err(|error| failed(format_args!("cannot set the sysctl `{name}` to `{value}`"), error))?;
    }
    Ok(())
}

fn asked(spec: &Spec) -> impl Iterator<Item = (&String, &String)> {
    spec.linux().as_ref().and_then(|linux| linux.sysctl().as_ref()).into_iter().flatten()
}

/// `net.ipv4.conf.eth0/1.rp_filter` and `net/ipv4/conf/eth0.1/rp_filter` are both used; the first
/// sign tells.
fn path_of(name: &str) -> String {
    let swap = |c| match c {
        '.' => '/',
        '/' => '.',
        c => c,
    };
    match name.find(['.', '/']) {
        Some(at) if name[at..].starts_with('.') => name.chars().map(swap).collect(),
        _ => name.to_owned(),
    }
}

/// The namespace that a setting belongs to. The host name has a field of its own.
fn namespace_of(path: &str) -> Option<Kind> {
    match path {
        "kernel/msgmax"
        | "kernel/msgmnb"
        | "kernel/msgmni"
        | "kernel/sem"
        | "kernel/shmall"
        | "kernel/shmmax"
        | "kernel/shmmni"
        | "kernel/shm_rmid_forced" => Some(Kind::Ipc),
        "kernel/domainname" => Some(Kind::Uts),
        path if path.starts_with("fs/mqueue/") => Some(Kind::Ipc),
        path if path.starts_with("net/") => Some(Kind::Network),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_paths() {
        assert_eq!(path_of("net.ipv4.conf.eth0/1.rp_filter"), "net/ipv4/conf/eth0.1/rp_filter");
        assert_eq!(path_of("net/ipv4/conf/eth0.1/rp_filter"), "net/ipv4/conf/eth0.1/rp_filter");
        assert_eq!(path_of("net"), "net");
    }
}
