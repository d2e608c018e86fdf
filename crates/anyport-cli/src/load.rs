//! From a file to a server that can be started: what was compiled before is at hand at once; what may take a while is
//! done on a thread, so that signals are heard meanwhile.

use std::fs;
use std::path::{Path, PathBuf};

use anyport::cgi::Script;
use anyport::inspect::ArtifactKind;
use anyport::{Artifact, Error, Runtime, Server};
use tokio::task::JoinHandle;

use crate::args::Global;
use crate::manifest::{Manifest, is_manifest};
use crate::plan::{Plan, open_cache};
use crate::report;

/// How a file is taken.
#[derive(Clone, Copy)]
pub(crate) struct How {
    pub(crate) is_cgi: bool,
    pub(crate) allow_precompiled: bool,
}

/// A server, or who makes it.
pub(crate) enum Loading {
    Done(Box<Server>),
    Begun(JoinHandle<Result<Server, Error>>),
}

/// Begins to load what a plan is about.
pub(crate) fn begin(global: &Global, plan: &mut Plan, how: How) -> Result<Loading, Error> {
    let (global, file) = (global.clone(), plan.file.clone());
    if let Some(programs) = programs(plan, how)? {
        return Ok(on_a_thread(move || load_programs(&global, &file, programs, how)));
    }
    // A pipe may have its bytes in an hour.
    if !fs::metadata(&file).is_ok_and(|metadata| metadata.is_file()) {
        return Ok(on_a_thread(move || find(&global, &file, how)?.load()));
    }
    Ok(match find(&global, &file, how)? {
        Found::Loaded(server) => Loading::Done(server),
        found => on_a_thread(|| found.load()),
    })
}

fn on_a_thread(load: impl FnOnce() -> Result<Server, Error> + Send + 'static) -> Loading {
    Loading::Begun(tokio::task::spawn_blocking(load))
}

/// The programs that are run for each request, if it is that.
fn programs(plan: &mut Plan, how: How) -> Result<Option<Vec<(PathBuf, Script)>>, Error> {
    if !is_manifest(&plan.file) {
        return Ok(how.is_cgi.then(|| vec![(plan.file.clone(), Script::default())]));
    }
    let Manifest { programs, args, is_wagi, ignored } = Manifest::read(&plan.file, &plan.directories)?;
    for what in ignored {
        report::warn(&what);
    }
    if is_wagi && !plan.args.is_empty() {
        report::warn("programs of WAGI have the arguments that each request has: those behind the file go to nobody");
    }
    plan.args.splice(..0, args);
    Ok(Some(programs))
}

fn load_programs(global: &Global, file: &Path, programs: Vec<(PathBuf, Script)>, how: How) -> Result<Server, Error> {
    let runtime = runtime(global)?;
    let programs = programs.into_iter().map(|(file, mut script)| {
        let artifact = Artifact::from_file(file)?;
        script.is_precompiled = how.allow_precompiled && is_compiled(&artifact);
        Ok((artifact, script))
    });
    let programs: Vec<_> = programs.collect::<Result<_, Error>>()?;
    let name = file.display().to_string();
    let [(first, _), ..] = &programs[..] else { return runtime.load_cgi(&name, programs) };
    report::while_compiling(&first.clone(), || runtime.load_cgi(&name, programs))
}

/// A file that was read.
enum Found {
    Loaded(Box<Server>),
    /// It is yet to be compiled.
    New(Runtime, Artifact),
}

impl Found {
    fn load(self) -> Result<Server, Error> {
        match self {
            Self::Loaded(server) => Ok(*server),
            Self::New(runtime, artifact) => report::while_compiling(&artifact, || runtime.load(&artifact)),
        }
    }
}

fn find(global: &Global, file: &Path, how: How) -> Result<Found, Error> {
    let artifact = Artifact::from_file(file)?;
    let runtime = runtime(global)?;
    let loaded = if how.allow_precompiled && is_compiled(&artifact) {
        Some(runtime.load_precompiled(&artifact)?)
    } else {
        runtime.load_cached(&artifact)?
    };
    Ok(match loaded {
        Some(server) => Found::Loaded(Box::new(server)),
        None => Found::New(runtime, artifact),
    })
}

/// Whether a file is what only `--allow-precompiled` lets run, or is nothing at all.
fn is_compiled(artifact: &Artifact) -> bool {
    !matches!(artifact.kind(), ArtifactKind::Module | ArtifactKind::Component)
}

fn runtime(global: &Global) -> Result<Runtime, Error> {
    let mut builder = Runtime::builder();
    if !global.no_cache {
        match open_cache(global) {
            Ok(cache) => builder = builder.cache(cache),
            // A named folder must work; the usual one may be missing, as in a container.
            Err(error) if global.named_cache().is_some() => return Err(error),
            Err(error) => tracing::warn!("{error}"),
        }
    }
    builder.build()
}
