//! How a guest forks: what one thread of it has to remember meanwhile, and what the module has for it.
//!
//! `wasm-opt --asyncify` gives a module functions by which it leaves all that it is in, with its variables kept in
//! memory, and enters it again. <https://github.com/WebAssembly/binaryen/blob/main/src/passes/Asyncify.cpp>

use super::Guest;
use super::process::MAIN;
use crate::errno::Errno;

/// The functions that an asyncified module exports, with their parameters: an address, or none.
pub(crate) const EXPORTS: [(&str, usize); 4] =
    [(START_UNWIND, 1), (STOP_UNWIND, 0), (START_REWIND, 1), (STOP_REWIND, 0)];
pub(crate) const START_UNWIND: &str = "asyncify_start_unwind";
pub(crate) const STOP_UNWIND: &str = "asyncify_stop_unwind";
pub(crate) const START_REWIND: &str = "asyncify_start_rewind";
pub(crate) const STOP_REWIND: &str = "asyncify_stop_rewind";

/// Pages of memory for what a guest is in when it forks, and bytes of them: for thousands of functions.
const PAGES: u64 = 4;
const BYTES: u32 = 256 << 10;

/// Bytes that its two numbers take, of where the next variable goes and of the end.
pub(crate) const HEAD: u32 = 8;

/// What a thread remembers.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Forking {
    /// Its module has these functions.
    pub(crate) is_able: bool,
    /// Where it keeps its variables, once it has forked.
    pub(crate) area: Option<u32>,
    pub(crate) step: Step,
}

/// Where it is.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) enum Step {
    #[default]
    None,
    /// It leaves its functions; `pid` is where it wants the number of the child.
    Unwinds { pid: u32 },
    /// It enters them again, and is told this when it is there.
    Rewinds { pid: u32, answer: Result<u32, Errno> },
}

impl Forking {
    /// It has left its functions: where it keeps its variables, and where it wants to be told.
    pub(crate) fn unwound(&mut self) -> Option<(u32, u32)> {
        match (self.area, self.step) {
            (Some(area), Step::Unwinds { pid }) => {
                self.step = Step::None;
                Some((area, pid))
            }
            _ => None,
        }
    }

    /// It is where it was: where it wants to be told, and what.
    pub(crate) fn rewound(&mut self) -> Option<(u32, Result<u32, Errno>)> {
        match self.step {
            Step::Rewinds { pid, answer } => {
                self.step = Step::None;
                Some((pid, answer))
            }
            _ => None,
        }
    }
}

impl Guest {
    /// Why a call of it may not fork, for the person: the end of a sentence.
    pub(crate) fn may_fork(&self) -> Result<(), &'static str> {
        if !self.forking.is_able {
            Err("for which its module must be made ready: `wasm-opt --asyncify server.wasm -o server.wasm`")
        } else if self.thread != MAIN {
            Err("which only its first thread may")
        } else if self.handling.is_some() {
            Err("which it may not while it handles a signal")
        } else {
            Ok(())
        }
    }

    /// It begins to leave its functions, for the number of a child: where it keeps its variables, and where that ends.
    pub(crate) fn unwinds(&mut self, pid: u32) -> Result<(u32, u32), Errno> {
        let area = match self.forking.area {
            Some(area) => area,
            // No allocator knows of it: they go on behind it.
            None => self.memory.grow(PAGES).ok_or(Errno::NoMemory)?,
        };
        let end = area.checked_add(BYTES).ok_or(Errno::NoMemory)?;
        self.forking.area = Some(area);
        self.forking.step = Step::Unwinds { pid };
        Ok((area, end))
    }
}
