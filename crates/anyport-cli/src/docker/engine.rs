//! What Docker says of itself, by its command: `docker version` and `docker info`.

use std::process::Command;

use serde_json::Value;

use super::{ask, brief};

/// In releases before 23, `--format json` is a template that says `json`.
const FORMAT: &str = "{{json .}}";

/// An engine that answers.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Engine {
    pub(super) name: String,
    pub(super) version: String,
    pub(super) containerd: Option<String>,
    /// Whether images are in containerd's store, which knows platforms that are not Linux or Windows.
    pub(super) has_image_store: bool,
    pub(super) cgroup_version: Option<String>,
    pub(super) limits_memory: bool,
}

/// Why there is no [`Engine`].
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NoEngine {
    /// There is no `docker` to ask.
    NoCommand,
    /// It says this.
    NoAnswer(String),
}

/// Asks the engine that `docker` is set to: `DOCKER_HOST`, or the context.
pub(super) fn find() -> Result<Engine, NoEngine> {
    let docker = |what: &str| ask(Command::new("docker").args([what, "--format", FORMAT]));
    let version = match docker("version") {
        Ok(version) => version,
        Err(why) if super::daemons::find_in(&std::env::var_os("PATH").unwrap_or_default(), "docker").is_none() => {
            tracing::debug!("no `docker`: {why}");
            return Err(NoEngine::NoCommand);
        }
        Err(why) => return Err(NoEngine::NoAnswer(why)),
    };
    let info = docker("info").map_err(NoEngine::NoAnswer)?;
    parse(&version.stdout, &info.stdout).ok_or_else(|| {
        let mut lines = version.stderr.lines().chain(info.stderr.lines());
        let said = lines.find(|line| !line.trim().is_empty() && !line.starts_with("WARNING"));
        NoEngine::NoAnswer(brief(said.unwrap_or("it says nothing of its server")))
    })
}

/// The engine in what `docker version` and `docker info` have said; nothing if no engine has answered.
fn parse(version: &str, info: &str) -> Option<Engine> {
    let version: Value = serde_json::from_str(version).ok()?;
    let info: Value = serde_json::from_str(info).unwrap_or_default();
    let text = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    let server = &version["Server"];
    let components = server["Components"].as_array().map(Vec::as_slice).unwrap_or_default();
    let of = |name: &str| components.iter().find(|component| component["Name"] == name);
    let status = info["DriverStatus"].as_array().map(Vec::as_slice).unwrap_or_default();
    Some(Engine {
        name: components.first().and_then(|engine| text(&engine["Name"])).unwrap_or_else(|| "Engine".to_owned()),
        version: text(&server["Version"]).or_else(|| of("Engine").and_then(|engine| text(&engine["Version"])))?,
        containerd: of("containerd").and_then(|component| text(&component["Version"])),
        has_image_store: status.iter().any(|pair| pair[1] == "io.containerd.snapshotter.v1"),
        cgroup_version: text(&info["CgroupVersion"]),
        limits_memory: info["MemoryLimit"].as_bool().unwrap_or(true),
    })
}

/// The first number of a version; `v2.1.9` and `20.10.24+dfsg1` are versions.
pub(super) fn major(version: &str) -> Option<u32> {
    version.trim_start_matches('v').split('.').next()?.parse().ok()
}

/// The first two numbers.
pub(super) fn minor(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.trim_start_matches('v').split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of Docker Engine 26.1.5 in Debian 13, with what matters of it.
    const VERSION: &str = r#"{"Client":{"Version":"28.2.2","ApiVersion":"1.45","Os":"linux","Arch":"amd64"},
        "Server":{"Platform":{"Name":""},"Components":[
            {"Name":"Engine","Version":"26.1.5+dfsg1","Details":{"ApiVersion":"1.45"}},
            {"Name":"containerd","Version":"1.7.24~ds1","Details":{"GitCommit":"1.7.24~ds1-6+deb13u1"}},
            {"Name":"runc","Version":"1.1.5+ds1"}],"Version":"26.1.5+dfsg1","ApiVersion":"1.45"}}"#;
    const INFO: &str = r#"{"ID":"36d8","Driver":"overlayfs",
        "DriverStatus":[["driver-type","io.containerd.snapshotter.v1"]],
        "MemoryLimit":true,"CgroupDriver":"cgroupfs","CgroupVersion":"1","ServerVersion":"26.1.5+dfsg1"}"#;

    #[test]
    fn an_engine_says_what_it_is() {
        let engine = parse(VERSION, INFO).expect("it answers");
        let expected = Engine {
            name: "Engine".to_owned(),
            version: "26.1.5+dfsg1".to_owned(),
            containerd: Some("1.7.24~ds1".to_owned()),
            has_image_store: true,
            cgroup_version: Some("1".to_owned()),
            limits_memory: true,
        };
        assert_eq!(engine, expected);
        let other =
            r#"{"Driver":"overlay2","DriverStatus":[["Backing Filesystem","extfs"],["Using metacopy","false"]]}"#;
        assert!(!parse(VERSION, other).expect("it answers").has_image_store);
        assert!(!parse(VERSION, r#"{"DriverStatus":null}"#).expect("it answers").has_image_store);
    }

    #[test]
    fn no_engine_is_none() {
        for version in
            [r#"{"Client":{"Version":"28.2.2"},"Server":null}"#, "", "json", "null", r#"{"Server":{"Version":""}}"#]
        {
            assert_eq!(parse(version, INFO), None, "{version}");
        }
    }

    #[test]
    fn versions_begin_with_numbers() {
        assert_eq!(["28.5.2", "v2.1.9", "20.10.24+dfsg1", "dev"].map(major), [Some(28), Some(2), Some(20), None]);
        assert_eq!(["1.6.20~ds1", "1.7", "2"].map(minor), [Some((1, 6)), Some((1, 7)), None]);
    }
}
