//! What makes a node of Kubernetes run pods with the shim: a piece of containerd's configuration, and a
//! `RuntimeClass`.

use super::RUNTIME;
use super::engine::major;

const RUNTIME_CLASS: &str = "\
apiVersion: node.k8s.io/v1
kind: RuntimeClass
metadata:
  name: anyport
handler: anyport
";

/// What to write where, for this version of containerd or for any.
pub(super) fn what_to_write(containerd: Option<&str>) -> String {
    // 1.x reads configurations of version 2, and 2.x those of both, but with the tables of their own.
    let tables: &[(&str, &str)] = match containerd.and_then(major) {
        Some(..=1) => &[OLD],
        Some(_) => &[NEW],
        None => &[NEW, OLD],
    };
    let mut text = String::new();
    for (versions, table) in tables {
        text += &format!(
            "# /etc/containerd/config.toml, for containerd {versions}; then `systemctl restart containerd`\n\
             [{table}.containerd.runtimes.anyport]\n  \
             runtime_type = \"{RUNTIME}\"\n  \
             pod_annotations = [\"io.anyport.*\"]\n  \
             container_annotations = [\"io.anyport.*\"]\n\n"
        );
    }
    text + "# once for the cluster: `kubectl apply -f` this file\n" + RUNTIME_CLASS
}

const NEW: (&str, &str) = ("2 (`version = 3`)", "plugins.'io.containerd.cri.v1.runtime'");
const OLD: (&str, &str) = ("1 (`version = 2`)", "plugins.\"io.containerd.grpc.v1.cri\"");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_containerd_has_its_own_table() {
        insta::assert_snapshot!(what_to_write(Some("1.7.24~ds1")), @r#"
        # /etc/containerd/config.toml, for containerd 1 (`version = 2`); then `systemctl restart containerd`
        [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.anyport]
          runtime_type = "io.containerd.anyport.v1"
          pod_annotations = ["io.anyport.*"]
          container_annotations = ["io.anyport.*"]

        # once for the cluster: `kubectl apply -f` this file
        apiVersion: node.k8s.io/v1
        kind: RuntimeClass
        metadata:
          name: anyport
        handler: anyport
        "#);
        let (old, new) = (OLD.1, NEW.1);
        let of = |version| [old, new].map(|table| what_to_write(version).contains(table));
        assert_eq!([of(Some("1.6.20")), of(Some("2.1.9")), of(None)], [[true, false], [false, true], [true, true]]);
    }
}
