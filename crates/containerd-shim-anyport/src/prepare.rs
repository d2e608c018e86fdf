//! Finds the module of a container and compiles it, in a process of its own that gives its memory back:
//! the compiler needs more than all the rest.
//!
//! The module is a file of the container, else a layer of its image in containerd's content store. What
//! comes out is an opened file of the node's cache, which only root can write to.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Resource, Rlimit};

use anyport::cache::Cache;
use anyport::error::ErrorKind;
use anyport::{Artifact, Error, Runtime};

use crate::bundle::{Bundle, options_of};
use crate::content::{Content, Image};
use crate::control::{AsyncControl, Control, Failure, FromPrepare, Prepare, Prepared};
use crate::log;

/// Where compiled modules are kept, unless `ANYPORT_CACHE_DIR` of containerd's environment names another
/// folder. Root's own, mode 0700.
const CACHE_FOLDER: &str = "/var/lib/anyport/cache";

/// How long containerd may take to tell of an image: it is only about labels and ports where the module
/// is a file.
const CONTENT_TIMEOUT: Duration = Duration::from_secs(5);

/// CPU time to compile a module in: the largest known take a minute.
const CPU_SECONDS: u64 = 600;

/// What it may have of the machine's memory, and how long it may take in all.
const ADDRESS_BYTES: u64 = 16 << 30;
const TIMEOUT: Duration = Duration::from_secs(900);

/// The largest module that is read, as `anyport run` has it.
const MODULE_BYTES: u64 = 1 << 30;

/// A module that is being prepared.
pub(crate) struct Preparing {
    control: AsyncControl,
    child: tokio::process::Child,
}

impl Preparing {
    /// Starts the process.
    pub(crate) async fn start(request: &Prepare, stderr: &OwnedFd) -> Result<Self, Error> {
        let failed = |error: io::Error| Error::host(format!("the module's compiler cannot be started: {error}"));
        let (control, theirs) = Control::pair().map_err(failed)?;
        let child = Command::new("/proc/self/exe");
        let mut child = tokio::process::Command::from(child);
        child
            .arg("prepare")
            .stdin(theirs)
            .stdout(Stdio::null())
            .stderr(stderr.try_clone().map_err(failed)?)
            .kill_on_drop(true);
        let child = child.spawn().map_err(failed)?;
        let control = control.into_async().map_err(failed)?;
        control.send(request, &[]).await.map_err(failed)?;
        Ok(Self { control, child })
    }

    /// Its answer: what is known of the module, and the compiled module.
    pub(crate) async fn done(mut self) -> Result<(Prepared, OwnedFd), Error> {
        let answer = tokio::time::timeout(TIMEOUT, self.control.receive()).await;
        // Not a zombie, whatever it was doing.
        let _ = self.child.kill().await;
        let answer = answer.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        match answer {
            Ok((FromPrepare::Prepared(prepared), descriptors)) => {
                let module = descriptors.into_iter().next();
                Ok((prepared, module.ok_or_else(|| Error::host("the compiled module did not arrive".to_owned()))?))
            }
            Ok((FromPrepare::Failed(failure), _)) => Err(failure.into()),
            Err(error) => Err(Error::host(format!("the module's compiler ended: {error}"))
                .with_hint("it may have been out of memory or time; the kernel's log tells")),
        }
    }
}

/// The process itself.
pub(crate) fn run() -> io::Result<()> {
    // A module that keeps the compiler busy without end must not keep the node busy, and where memory is
    // short this is the first to go: the shim is as dear to the kernel as containerd.
    for (resource, most) in [(Resource::Cpu, CPU_SECONDS), (Resource::As, ADDRESS_BYTES)] {
        rustix::process::setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })?;
    }
    let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
    let control = Control::from_stdin()?;
    let (request, _) = control.receive::<Prepare>()?;
    match prepare(&request) {
        Ok((prepared, module)) => control.send(&FromPrepare::Prepared(prepared), &[module.as_fd()]),
        Err(error) => control.send(&FromPrepare::Failed(Failure::from(&error)), &[]),
    }
}

fn prepare(request: &Prepare) -> Result<(Prepared, File), Error> {
    let bundle = Bundle::open(&request.container.bundle)?;
    // Those of labels are not known yet, and what is wrong with them is told later.
    let options = bundle.options(&BTreeMap::new());
    log::start(options.get("log").map_or("warn", String::as_str), None)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Error::host(format!("containerd cannot be asked: {error}")))?;
    // The client's connection is the runtime's from the start.
    let _entered = runtime.enter();
    let content = Content::new(&request.address, &request.namespace);
    let known = runtime.block_on(async {
        tokio::time::timeout(CONTENT_TIMEOUT, image_of(&content, &request.container.id))
            .await
            .unwrap_or_else(|_| Err(Error::host(format!("it did not answer within {CONTENT_TIMEOUT:?}"))))
    });
    let (labels, image) = match known {
        Ok(known) => known,
        Err(error) => {
            tracing::warn!("the labels and layers of the image are not known: {error}");
            Default::default()
        }
    };
    let name = request.args.first().cloned().unwrap_or_default();
    let (artifact, origin) = match find_file(&bundle, &name, &request.cwd)? {
        Some((path, file)) => (read(&path, file)?, format!("the file {}", path.display())),
        None => match runtime.block_on(find_layer(&content, image.as_ref()))? {
            Some(found) => found,
            None => return Err(missing(&name, image.is_some())),
        },
    };
    let exposed = image.map(|image| image.exposed_tcp()).unwrap_or_default();
    let module = compile(&artifact)?;
    let name = if name.is_empty() || name == "/" { artifact.name().to_owned() } else { name };
    Ok((Prepared { name, origin, labels, exposed, memory_limit: None }, module))
}

/// The options in the labels of an image and of the container over them, and the image.
async fn image_of(content: &Content, id: &str) -> Result<(BTreeMap<String, String>, Option<Image>), Error> {
    let container = content.container(id).await?;
    // An image that was removed meanwhile, or one that nobody named.
    let image = match container.image.as_str() {
        "" => None,
        name => content.image(name).await.map_err(|error| tracing::warn!("{error}")).ok(),
    };
    let words = |labels: &BTreeMap<String, String>| {
        options_of(labels.iter().map(|(name, value)| (name.as_str(), value.as_str()))).collect::<BTreeMap<_, _>>()
    };
    let mut labels = image.as_ref().map(|image| words(&image.config.labels)).unwrap_or_default();
    labels.extend(words(&container.labels));
    Ok((labels, image))
}

/// The first word of the command line, as a file of the container; nothing if there is none of this name.
fn find_file(bundle: &Bundle, name: &str, cwd: &Path) -> Result<Option<(PathBuf, File)>, Error> {
    if name.is_empty() {
        return Ok(None);
    }
    for folder in [cwd, Path::new("/")] {
        let path = folder.join(name);
        match bundle.open_file(&path) {
            Ok(file) => return Ok(Some((path, file))),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
            Err(error) => {
                return Err(Error::new(
                    ErrorKind::NotRunnable,
                    format!("`{}` cannot be read: {error}", path.display()),
                ));
            }
        }
    }
    Ok(None)
}

fn read(path: &Path, file: File) -> Result<Artifact, Error> {
    let name = path.display().to_string();
    let unreadable = |why: String| Error::new(ErrorKind::NotRunnable, format!("`{name}` cannot be read: {why}"));
    let mut bytes = Vec::new();
    let length = file.take(MODULE_BYTES + 1).read_to_end(&mut bytes).map_err(|error| unreadable(error.to_string()))?;
    if length as u64 > MODULE_BYTES {
        return Err(unreadable("it is larger than 1 GiB".to_owned()));
    }
    Ok(Artifact::from_bytes(name, bytes))
}

/// The layer of the image that is a module.
async fn find_layer(content: &Content, image: Option<&Image>) -> Result<Option<(Artifact, String)>, Error> {
    let Some(image) = image else { return Ok(None) };
    let Some(layer) = content.module_layer(image).await? else { return Ok(None) };
    let bytes = content.read(&layer.digest, MODULE_BYTES).await?;
    Ok(Some((Artifact::from_bytes(image.name.clone(), bytes), format!("the layer {}", layer.digest))))
}

fn missing(name: &str, has_image: bool) -> Error {
    let image = if has_image { "its image has no layer that is a module" } else { "its image is not known" };
    let what = match name {
        "" => format!("the container has no command, and {image}"),
        name => format!("there is no file `{name}` in the container, and {image}"),
    };
    Error::new(ErrorKind::NotFound, what)
        .with_hint("the first word of ENTRYPOINT or CMD is the module's path: `ENTRYPOINT [\"/server.wasm\"]`")
}

fn compile(artifact: &Artifact) -> Result<File, Error> {
    let folder = std::env::var_os("ANYPORT_CACHE_DIR").filter(|folder| !folder.is_empty());
    let folder = folder.map_or_else(|| PathBuf::from(CACHE_FOLDER), PathBuf::from);
    let cache = Cache::open(folder)?;
    Runtime::builder().cache(cache).build()?.compile(artifact)
}
