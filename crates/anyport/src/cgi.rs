//! Programs that speak CGI (RFC 3875): which requests each answers, and what it is told of them.

use std::fmt;
use std::str::FromStr;

use crate::directory::Directory;

/// How one program answers requests: it is run anew for each, with the request in its environment and on its stdin,
/// and writes the answer to its stdout.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Script {
    /// The requests that it answers; all by default.
    pub route: Route,
    /// What it expects beside RFC 3875; nothing by default.
    pub convention: Convention,
    /// Its arguments as WAGI writes them: words with blanks in between, in which `${SCRIPT_NAME}` is the route, and
    /// the word `${ARGS}` each item of the query. Without, they are [`crate::Server::args`], behind its name; a program
    /// of WAGI has the path and each item of the query.
    pub argv: Option<String>,
    /// The function that is called, `_start` by default.
    pub entrypoint: String,
    /// Variables beside the server's own. Those that a person has set win over what a request says.
    pub env: Vec<(String, String)>,
    /// Directories beside the server's own.
    pub directories: Vec<Directory>,
    /// The artifact is machine code that [`crate::Runtime::precompile`] made, and nobody else.
    pub is_precompiled: bool,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            route: Route::Below(String::new()),
            convention: Convention::default(),
            argv: None,
            entrypoint: "_start".to_owned(),
            env: Vec::new(),
            directories: Vec::new(),
            is_precompiled: false,
        }
    }
}

/// Whose conventions a program follows, where they differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Convention {
    /// RFC 3875, and what servers have added since.
    #[default]
    Rfc3875,
    /// WAGI.
    Wagi,
    /// Wasmer's WCGI.
    Wcgi,
}

/// Which requests a program answers, by their path.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Route {
    /// Those of this path.
    Exact(String),
    /// Those of this path and of all below it; empty for all. Written `/path/...`.
    Below(String),
}

impl Route {
    /// Whether a path is of it.
    pub(crate) fn has(&self, path: &str) -> bool {
        match self {
            Self::Exact(exact) => exact == path,
            Self::Below(parent) => {
                path.strip_prefix(parent.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
        }
    }

    /// The part of each of its paths that is the program's name.
    pub(crate) fn script_name(&self) -> &str {
        match self {
            Self::Exact(path) | Self::Below(path) => path,
        }
    }

    /// The one of several that says the most of a path: an exact one, else the longest.
    pub(crate) fn weight(&self) -> (bool, usize) {
        (matches!(self, Self::Exact(_)), self.script_name().len())
    }
}

impl FromStr for Route {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if !text.starts_with('/') || text.contains(['?', '#', '%', '\0']) {
            return Err("it is a path such as `/hello`, or `/hello/...` with all below");
        }
        Ok(match text.strip_suffix("/...") {
            Some(parent) => Self::Below(parent.to_owned()),
            None => Self::Exact(text.to_owned()),
        })
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(path) => f.write_str(path),
            Self::Below(path) => write!(f, "{path}/..."),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes() {
        for (route, path, want) in [
            ("/", "/", true),
            ("/", "/a", false),
            ("/...", "/", true),
            ("/...", "/a/b", true),
            ("/...", "*", false),
            ("/a", "/a", true),
            ("/a", "/a/", false),
            ("/a/...", "/a", true),
            ("/a/...", "/a/", true),
            ("/a/...", "/a/b", true),
            ("/a/...", "/ab", false),
        ] {
            let parsed: Route = route.parse().expect("a route");
            assert_eq!(parsed.has(path), want, "{route} {path}");
            assert_eq!(parsed.to_string(), route);
        }
        for wrong in ["", "a", "/a?b", "/%41"] {
            assert!(wrong.parse::<Route>().is_err(), "{wrong}");
        }
        let weight = |route: &str| route.parse::<Route>().expect("a route").weight();
        assert!(weight("/") > weight("/a/..."));
        assert!(weight("/a/...") > weight("/..."));
    }
}
