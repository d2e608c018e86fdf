//! How options are spelt in messages: as a person types them who runs this program.

use std::fmt::Display;
use std::sync::OnceLock;

/// Who types options, and so how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Spelling {
    /// `--cpu-time 60s`.
    CommandLine,
    /// `-e io.anyport.cpu-time=60s`, and what `docker run` has a word for as that.
    Container,
}

static SPELLING: OnceLock<Spelling> = OnceLock::new();

/// Chooses the spelling of this process: the first choice counts. Without one it is the command line's.
pub fn choose(spelling: Spelling) {
    let _ = SPELLING.set(spelling);
}

/// An option with its value, as it is typed.
pub(crate) fn option(name: &str, value: impl Display) -> String {
    spell(SPELLING.get().copied().unwrap_or(Spelling::CommandLine), name, &value.to_string())
}

/// What lets clients reach a port of the guest, as `-p` writes it.
pub(crate) fn publish(ports: impl Display) -> String {
    spell_publish(SPELLING.get().copied().unwrap_or(Spelling::CommandLine), &ports.to_string())
}

fn spell_publish(spelling: Spelling, ports: &str) -> String {
    match spelling {
        Spelling::CommandLine => format!("-p {ports}"),
        // What the guest binds there is public, or it is handed these listeners.
        Spelling::Container => spell(spelling, "listen", ports.rsplit(':').next().unwrap_or(ports)),
    }
}

fn spell(spelling: Spelling, name: &str, value: &str) -> String {
    match (spelling, name) {
        (Spelling::CommandLine, _) if value.is_empty() => format!("--{name}"),
        (Spelling::CommandLine, _) | (Spelling::Container, "memory") => format!("--{name} {value}"),
        // Who starts the container must say so, and not its image.
        (Spelling::Container, "allow-net") => format!("--annotation io.anyport.allow-net={value}"),
        (Spelling::Container, _) if value.is_empty() => format!("-e io.anyport.{name}=true"),
        (Spelling::Container, _) => format!("-e io.anyport.{name}={value}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_types_its_own() {
        for (spelling, name, value, want) in [
            (Spelling::CommandLine, "cpu-time", "60s", "--cpu-time 60s"),
            (Spelling::CommandLine, "allow-dns", "", "--allow-dns"),
            (Spelling::Container, "cpu-time", "60s", "-e io.anyport.cpu-time=60s"),
            (Spelling::Container, "allow-dns", "", "-e io.anyport.allow-dns=true"),
            (Spelling::Container, "memory", "64m", "--memory 64m"),
            (Spelling::Container, "allow-net", "10.0.0.1", "--annotation io.anyport.allow-net=10.0.0.1"),
        ] {
            assert_eq!(spell(spelling, name, value), want);
        }
        assert_eq!(spell_publish(Spelling::CommandLine, "80:80"), "-p 80:80");
        assert_eq!(spell_publish(Spelling::Container, "0.0.0.0:8080:80"), "-e io.anyport.listen=80");
    }
}
