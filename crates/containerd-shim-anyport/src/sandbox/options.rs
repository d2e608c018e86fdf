//! The words of a mount's options, and what they mean.

use rustix::mount::{MountAttrFlags, MountPropagationFlags};

use super::sys::Attributes;
use super::{Result, refused};

/// The options of one mount, told apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Options {
    /// An existing folder or file is shown here too; `recursive` with what is mounted below it.
    pub(super) bind: bool,
    pub(super) recursive: bool,
    /// What holds for this mount.
    pub(super) attributes: Attributes,
    /// What holds for it and all that are below.
    pub(super) recursive_attributes: Attributes,
    /// One after the other, as `mount --make-…` would.
    pub(super) propagation: Vec<MountPropagationFlags>,
    /// What is in the folder is copied into the file system that is mounted over it.
    pub(super) copy_up: bool,
    /// What the file system itself is told: words, and names with a value.
    pub(super) words: Vec<String>,
    pub(super) values: Vec<(String, String)>,
}

impl Options {
    pub(super) fn parse(words: &[String]) -> Result<Self> {
        let mut options = Self::default();
        for word in words {
            options.add(word)?;
        }
        Ok(options)
    }

    /// Whether what is mounted shall be only read.
    pub(super) fn is_readonly(&self) -> bool {
        (self.attributes.set | self.recursive_attributes.set) & READONLY != 0
    }

    /// The value of an option of the file system, the last one if there are several.
    pub(super) fn value(&self, name: &str) -> Option<&str> {
        self.values.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    fn add(&mut self, word: &str) -> Result<()> {
        match word {
            "" | "defaults" | "loud" | "async" | "nolazytime" | "nomand" | "noiversion" => {}
            "bind" => self.bind = true,
            "rbind" => (self.bind, self.recursive) = (true, true),
            "tmpcopyup" => self.copy_up = true,
            "idmap" | "ridmap" => {
                return Err(refused(format!("the mount option `{word}` is asked for, but anyport does not map users")));
            }
            "remount" => return Err(refused("the mount option `remount` is asked for, which anyport does not do")),
            // These are the file system's and the kernel's own flags.
            "silent" => {}
            "sync" | "dirsync" | "lazytime" | "mand" | "iversion" => self.words.push(word.to_owned()),
            word => {
                if let Some(propagation) = propagation(word) {
                    self.propagation.push(propagation);
                } else if let Some(change) = attribute(word) {
                    merge(&mut self.attributes, change);
                } else if let Some(change) = word.strip_prefix('r').and_then(attribute) {
                    merge(&mut self.recursive_attributes, change);
                } else if let Some((name, value)) = word.split_once('=') {
                    self.values.push((name.to_owned(), value.to_owned()));
                } else {
                    self.words.push(word.to_owned());
                }
            }
        }
        Ok(())
    }
}

pub(super) const NODEV: u64 = MountAttrFlags::MOUNT_ATTR_NODEV.bits() as u64;
pub(super) const READONLY: u64 = MountAttrFlags::MOUNT_ATTR_RDONLY.bits() as u64;
const ATIME: u64 = MountAttrFlags::MOUNT_ATTR__ATIME.bits() as u64;

/// How mounts spread between namespaces, by the words of mount options and of `rootfsPropagation`.
pub(super) fn propagation(word: &str) -> Option<MountPropagationFlags> {
    let (word, recursive) = match word {
        "rshared" | "rslave" | "rprivate" | "runbindable" => (&word[1..], MountPropagationFlags::REC),
        word => (word, MountPropagationFlags::empty()),
    };
    let kind = match word {
        "shared" => MountPropagationFlags::SHARED,
        "slave" => MountPropagationFlags::DOWNSTREAM,
        "private" => MountPropagationFlags::PRIVATE,
        "unbindable" => MountPropagationFlags::UNBINDABLE,
        _ => return None,
    };
    Some(kind | recursive)
}

/// What a word sets and clears. The ways of access times exclude each other.
fn attribute(word: &str) -> Option<Attributes> {
    let set = |flag: MountAttrFlags| Attributes { set: u64::from(flag.bits()), clear: 0 };
    let clear = |flag: MountAttrFlags| Attributes { set: 0, clear: u64::from(flag.bits()) };
    let access = |flag: MountAttrFlags| Attributes { set: u64::from(flag.bits()), clear: ATIME };
    Some(match word {
        "ro" => set(MountAttrFlags::MOUNT_ATTR_RDONLY),
        "rw" => clear(MountAttrFlags::MOUNT_ATTR_RDONLY),
        "nosuid" => set(MountAttrFlags::MOUNT_ATTR_NOSUID),
        "suid" => clear(MountAttrFlags::MOUNT_ATTR_NOSUID),
        "nodev" => set(MountAttrFlags::MOUNT_ATTR_NODEV),
        "dev" => clear(MountAttrFlags::MOUNT_ATTR_NODEV),
        "noexec" => set(MountAttrFlags::MOUNT_ATTR_NOEXEC),
        "exec" => clear(MountAttrFlags::MOUNT_ATTR_NOEXEC),
        "nosymfollow" => set(MountAttrFlags::MOUNT_ATTR_NOSYMFOLLOW),
        "symfollow" => clear(MountAttrFlags::MOUNT_ATTR_NOSYMFOLLOW),
        "nodiratime" => set(MountAttrFlags::MOUNT_ATTR_NODIRATIME),
        "diratime" => clear(MountAttrFlags::MOUNT_ATTR_NODIRATIME),
        "noatime" => access(MountAttrFlags::MOUNT_ATTR_NOATIME),
        "strictatime" => access(MountAttrFlags::MOUNT_ATTR_STRICTATIME),
        "relatime" | "atime" | "norelatime" | "nostrictatime" => access(MountAttrFlags::MOUNT_ATTR_RELATIME),
        _ => return None,
    })
}

/// The later word wins.
fn merge(into: &mut Attributes, change: Attributes) {
    into.set = (into.set & !change.clear & !if change.set & ATIME != 0 { ATIME } else { 0 }) | change.set;
    into.clear = (into.clear & !change.set) | change.clear;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Options {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        Options::parse(&words).unwrap()
    }

    #[test]
    fn words_are_told_apart() {
        let options = parse(&["rbind", "rprivate", "ro", "nosuid", "rnoexec", "size=64k", "newinstance"]);
        assert!(options.bind && options.recursive && options.is_readonly());
        assert_eq!(options.propagation, [MountPropagationFlags::PRIVATE | MountPropagationFlags::REC]);
        assert_eq!(options.attributes.set, 1 | 2);
        assert_eq!(options.recursive_attributes.set, 8);
        assert_eq!((options.value("size"), options.value("mode")), (Some("64k"), None));
        assert_eq!(options.words, ["newinstance"]);
    }

    #[test]
    fn the_last_word_wins() {
        let options = parse(&["ro", "rw", "noatime", "strictatime"]);
        assert_eq!(options.attributes, Attributes { set: 0x20, clear: 1 | 0x70 });
        assert_eq!(parse(&["rw", "ro"]).attributes, Attributes { set: 1, clear: 0 });
        assert_eq!(parse(&["noatime", "relatime"]).attributes, Attributes { set: 0, clear: 0x70 });
    }

    #[test]
    fn what_is_not_done_is_said() {
        for word in ["idmap", "remount"] {
            assert!(Options::parse(&[word.to_owned()]).unwrap_err().to_string().contains(word));
        }
    }
}
