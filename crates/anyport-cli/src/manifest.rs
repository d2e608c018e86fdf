//! Files that name CGI programs: `modules.toml` of WAGI, and `wasmer.toml` with commands of the runner `wcgi`.

use std::path::{Path, PathBuf};

use anyport::Error;
use anyport::cgi::{Convention, Script};
use anyport::error::ErrorKind;
use anyport::server::Directory;
use toml::{Table, Value};

/// What a file names.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Manifest {
    /// Modules, with the requests that each answers and how.
    pub(crate) programs: Vec<(PathBuf, Script)>,
    /// Arguments of the program.
    pub(crate) args: Vec<String>,
    /// Whether arguments come from the request.
    pub(crate) is_wagi: bool,
    /// What is said there and has no meaning here.
    pub(crate) ignored: Vec<String>,
}

/// Whether a file may be one.
pub(crate) fn is_manifest(file: &Path) -> bool {
    file.extension().is_some_and(|extension| extension == "toml")
}

impl Manifest {
    /// Reads a file. What it mounts where one of `granted` is, is left out: whoever runs it has the last word.
    pub(crate) fn read(file: &Path, granted: &[Directory]) -> Result<Self, Error> {
        let name = file.display();
        let text = std::fs::read_to_string(file).map_err(|error| {
            let kind = match error.kind() {
                std::io::ErrorKind::NotFound => ErrorKind::NotFound,
                _ => ErrorKind::Host,
            };
            Error::new(kind, format!("`{name}` cannot be read: {error}"))
        })?;
        let folder = Folder { path: file.parent().unwrap_or_else(|| Path::new("")), granted };
        Self::parse(file, &text, folder)
    }

    fn parse(file: &Path, text: &str, folder: Folder<'_>) -> Result<Self, Error> {
        let name = file.display().to_string();
        let table: Table = text.parse().map_err(|error: toml::de::Error| {
            let line = error.span().map_or(1, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
            wrong(format!("`{name}` is no TOML: line {line}: {}", error.message().replace('\n', " ")))
        })?;
        let mut manifest = Self::default();
        let keys = Keys { table, place: name.clone() };
        if keys.table.contains_key("command") || keys.table.contains_key("package") {
            manifest.take_wasmer(folder, keys)?;
        } else if keys.table.contains_key("module") {
            manifest.take_wagi(folder, keys)?;
        } else {
            let hint = if keys.table.contains_key("spin_manifest_version") {
                "components of Spin are run one by one, by their files: `anyport run -p 8080 app.wasm`"
            } else {
                "`modules.toml` of WAGI and `wasmer.toml` with `runner = \"wcgi\"` are taken"
            };
            return Err(wrong(format!("`{name}` names no CGI program: it has neither `[[module]]` nor `[[command]]`"))
                .with_hint(hint));
        }
        Ok(manifest)
    }

    /// <https://github.com/deislabs/wagi/blob/main/docs/configuring_and_running.md>
    fn take_wagi(&mut self, folder: Folder<'_>, mut keys: Keys) -> Result<(), Error> {
        self.is_wagi = true;
        for (index, table) in keys.tables("module")?.into_iter().enumerate() {
            let mut module = Keys { table, place: format!("`[[module]]` {} of `{}`", index + 1, keys.place) };
            let mut script = Script::default();
            script.convention = Convention::Wagi;
            let route = module.required("route")?;
            script.route = route.parse().map_err(|why| module.wrong("route", why))?;
            let source = module.required("module")?;
            script.argv = module.text("argv")?;
            if let Some(entrypoint) = module.text("entrypoint")? {
                script.entrypoint = entrypoint;
            }
            script.env = module.map("environment")?;
            for (guest, host) in module.map("volumes")? {
                script.directories.extend(folder.directory(&guest, &host, false, &module)?);
            }
            self.programs.push((folder.module(&source, &module)?, script));
            module.rest(&mut self.ignored);
        }
        keys.rest(&mut self.ignored);
        Ok(())
    }

    /// <https://docs.wasmer.io/registry/manifest>
    fn take_wasmer(&mut self, folder: Folder<'_>, mut keys: Keys) -> Result<(), Error> {
        let entrypoint = match keys.table.get("package").and_then(|package| package.get("entrypoint")) {
            Some(Value::String(name)) => Some(name.clone()),
            _ => None,
        };
        let mut command = wcgi_command(&mut keys, entrypoint.as_deref())?;
        let wanted = command.required("module")?;
        let mut script = Script::default();
        script.convention = Convention::Wcgi;
        let mut annotations = command.table("annotations")?;
        if let Some(mut wasi) = annotations.as_mut().map(|keys| keys.table("wasi")).transpose()?.flatten() {
            for text in wasi.list("env")? {
                let Some((name, value)) = text.split_once('=') else {
                    return Err(wasi.wrong("env", "it is a list of `NAME=VALUE`"));
                };
                script.env.push((name.to_owned(), value.to_owned()));
            }
            self.args = wasi.list("main-args")?;
            // Which module it is, which `module` says too.
            wasi.text("atom")?;
            wasi.rest(&mut self.ignored);
        }
        if let Some(mut wcgi) = annotations.as_mut().map(|keys| keys.table("wcgi")).transpose()?.flatten() {
            match wcgi.text("dialect")?.as_deref() {
                None | Some("rfc-3875") => {}
                Some(_) => return Err(wcgi.wrong("dialect", "`rfc-3875` alone is known")),
            }
            wcgi.rest(&mut self.ignored);
        }
        if let Some(annotations) = annotations {
            annotations.rest(&mut self.ignored);
        }
        command.rest(&mut self.ignored);
        if let Some(mut fs) = keys.table("fs")? {
            for (guest, host) in fs.all()? {
                // Of a package: what a program writes there is not the package.
                script.directories.extend(folder.directory(&guest, &host, true, &fs)?);
            }
        }
        let source = keys.source_of(&wanted)?;
        self.programs.push((folder.module(&source, &keys)?, script));
        for (known, _) in ["package", "dependencies"].map(|known| (known, keys.table.remove(known))) {
            tracing::debug!("`{known}` of `{}` is not looked at", keys.place);
        }
        keys.rest(&mut self.ignored);
        Ok(())
    }
}

/// The command that is served: the only one of the runner, or the one that the package begins with.
fn wcgi_command(keys: &mut Keys, entrypoint: Option<&str>) -> Result<Keys, Error> {
    let mut found: Vec<(String, Keys)> = Vec::new();
    for table in keys.tables("command")? {
        let mut command = Keys { table, place: format!("a `[[command]]` of `{}`", keys.place) };
        let name = command.required("name")?;
        command.place = format!("the command `{name}` of `{}`", keys.place);
        let runner = command.text("runner")?;
        if runner.is_some_and(|runner| matches!(runner.as_str(), "wcgi" | "https://webc.org/runner/wcgi")) {
            found.push((name, command));
        }
    }
    let names: Vec<String> = found.iter().map(|(name, _)| format!("`{name}`")).collect();
    let chosen = match &found[..] {
        [] => {
            return Err(wrong(format!("`{}` has no command of the runner `wcgi`", keys.place))
                .with_hint("run its module by itself: `anyport run -p 8080:8080 module.wasm`"));
        }
        [_] => Some(0),
        several => several.iter().position(|(name, _)| Some(name.as_str()) == entrypoint),
    };
    match chosen {
        Some(index) => Ok(found.swap_remove(index).1),
        None => Err(wrong(format!("`{}` has several commands of the runner `wcgi`: {}", keys.place, names.join(", ")))
            .with_hint("name one of them in `[package]`: `entrypoint = \"NAME\"`")),
    }
}

/// A table of the file, whose keys are taken out one by one: what is left has no meaning here.
struct Keys {
    table: Table,
    /// Where it is, for messages.
    place: String,
}

impl Keys {
    fn wrong(&self, key: &str, why: &str) -> Error {
        wrong(format!("`{key}` of {} is not right: {why}", self.shown()))
    }

    fn shown(&self) -> String {
        if self.place.contains('`') { self.place.clone() } else { format!("`{}`", self.place) }
    }

    fn text(&mut self, key: &str) -> Result<Option<String>, Error> {
        match self.table.remove(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.wrong(key, "it is text")),
        }
    }

    fn required(&mut self, key: &str) -> Result<String, Error> {
        self.text(key)?.ok_or_else(|| wrong(format!("{} has no `{key}`", self.shown())))
    }

    fn list(&mut self, key: &str) -> Result<Vec<String>, Error> {
        let Some(value) = self.table.remove(key) else { return Ok(Vec::new()) };
        let texts =
            value.as_array().and_then(|list| list.iter().map(|item| item.as_str().map(str::to_owned)).collect());
        texts.ok_or_else(|| self.wrong(key, "it is a list of texts"))
    }

    fn map(&mut self, key: &str) -> Result<Vec<(String, String)>, Error> {
        match self.table(key)? {
            Some(mut keys) => keys.all(),
            None => Ok(Vec::new()),
        }
    }

    /// All keys with their texts.
    fn all(&mut self) -> Result<Vec<(String, String)>, Error> {
        let names: Vec<String> = self.table.keys().cloned().collect();
        names.into_iter().map(|name| Ok((name.clone(), self.required(&name)?))).collect()
    }

    fn table(&mut self, key: &str) -> Result<Option<Self>, Error> {
        match self.table.remove(key) {
            None => Ok(None),
            Some(Value::Table(table)) => Ok(Some(Self { table, place: format!("`{key}` of {}", self.shown()) })),
            Some(_) => Err(self.wrong(key, "it is a table")),
        }
    }

    fn tables(&mut self, key: &str) -> Result<Vec<Table>, Error> {
        let tables = match self.table.remove(key) {
            None => Some(Vec::new()),
            Some(Value::Array(list)) => list
                .into_iter()
                .map(|item| match item {
                    Value::Table(table) => Some(table),
                    _ => None,
                })
                .collect(),
            Some(_) => None,
        };
        tables.ok_or_else(|| self.wrong(key, &format!("it is written `[[{key}]]`")))
    }

    /// The file of a module of a package.
    fn source_of(&mut self, wanted: &str) -> Result<String, Error> {
        if wanted.contains(':') {
            return Err(wrong(format!("the module `{wanted}` is another package's, and none is fetched"))
                .with_hint("build the package with its module in it: `[[module]]` with `source`"));
        }
        for table in self.tables("module")? {
            let mut module = Self { table, place: format!("a `[[module]]` of `{}`", self.place) };
            if module.required("name")? == wanted {
                return module.required("source");
            }
        }
        Err(wrong(format!("`{}` has no module `{wanted}`", self.place)))
    }

    fn rest(self, ignored: &mut Vec<String>) {
        let place = self.shown();
        ignored.extend(self.table.keys().map(|key| format!("`{key}` of {place} has no meaning here")));
    }
}

/// Where a file is that names programs: somebody else may have written it, so it gives away nothing but what is there.
#[derive(Clone, Copy)]
struct Folder<'f> {
    path: &'f Path,
    /// What the person gives, inside of it or not.
    granted: &'f [Directory],
}

impl Folder<'_> {
    /// The file of a module.
    fn module(self, source: &str, keys: &Keys) -> Result<PathBuf, Error> {
        let path = match source.split_once(':') {
            Some(("file", path)) => path.strip_prefix("//").unwrap_or(path),
            Some((scheme, _)) if scheme.len() > 1 && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric()) => {
                return Err(keys
                    .wrong("module", &format!("`{source}` is not on this machine"))
                    .with_hint("fetch it, and name the file"));
            }
            _ => source,
        };
        Ok(self.path.join(path))
    }

    /// A directory that is mounted, unless the person has mounted one there.
    fn directory(self, guest: &str, host: &str, read_only: bool, keys: &Keys) -> Result<Option<Directory>, Error> {
        let is_there = |other: &Directory| other.guest.trim_end_matches('/') == guest.trim_end_matches('/');
        if self.granted.iter().any(is_there) {
            return Ok(None);
        }
        let (wanted, place) = (self.path.join(host), keys.shown());
        // As `..` and links lead.
        let Some(host) = wanted.canonicalize().ok().filter(|host| host.is_dir()) else {
            let wanted = wanted.display();
            return Err(wrong(format!("there is no directory `{wanted}`, which {place} wants as `{guest}`")));
        };
        // A path of no parts is where we are.
        let own = Path::new(".").join(self.path).canonicalize();
        if own.is_ok_and(|own| host.starts_with(own)) {
            return Ok(Some(Directory { host, guest: guest.to_owned(), read_only }));
        }
        let (outside, only) = (host.display(), if read_only { ":ro" } else { "" });
        Err(wrong(format!("{place} wants `{outside}` as `{guest}`, which is outside of the file's own directory"))
            .with_hint(format!("to give it that directory, add `--dir {outside}:{guest}{only}`")))
    }
}

fn wrong(what: String) -> Error {
    Error::new(ErrorKind::Host, what)
}
