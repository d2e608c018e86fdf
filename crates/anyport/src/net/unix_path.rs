//! Where a public Unix socket is, and when its file may go.
//!
//! The folder is opened once, and everything is done below it: whoever renames it later, or puts a link
//! in its place, does not lead this program elsewhere. As long as the socket is there, so is a locked
//! file `NAME.lock`: a socket that refuses its clients may be one that does not listen yet.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::{Endpoint, os};

/// What an address has room for. A longer name could be made, but nobody could connect to it.
const NAME_MAX: usize = 108;

/// How often a lock is tried without a socket beside it: its holder has just begun, or is about to end.
const ATTEMPTS: u32 = 50;

const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(2);

/// The place of a public Unix socket. What was made there is removed in the end.
#[derive(Debug)]
pub(super) struct UnixPath {
    folder: OwnedFd,
    name: OsString,
    held: Option<Held>,
}

/// What is there while the socket is.
#[derive(Debug)]
struct Held {
    lock: Lock,
    /// None if the file had gone at once.
    socket: Option<Identity>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
}

impl UnixPath {
    pub(super) fn new(path: &Path) -> io::Result<Self> {
        // `/`, `.` and `..` are there already.
        let name = path.file_name().ok_or(Errno::ADDRINUSE)?;
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::open(parent, flags, Mode::empty())?;
        if name.len() > NAME_MAX {
            return Err(Errno::NAMETOOLONG.into());
        }
        Ok(Self { folder, name: name.to_owned(), held: None })
    }

    /// A socket at this place. What a server that was killed left there is taken away, and nothing else.
    pub(super) fn bind(&mut self) -> io::Result<Endpoint> {
        let lock = self.lock()?;
        let bound = match self.make() {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && self.remove_abandoned()? => self.make(),
            outcome => outcome,
        };
        match bound {
            Ok(endpoint) => {
                self.held = Some(Held { lock, socket: socket_at(&self.folder, &self.name) });
                Ok(endpoint)
            }
            Err(error) => {
                lock.remove(&self.folder);
                Err(error)
            }
        }
    }

    /// Removes what [`Self::bind`] made, before the socket is closed: while it is open, no other file has
    /// its number.
    pub(super) fn remove(&mut self) {
        let Some(Held { lock, socket }) = self.held.take() else { return };
        if socket.is_some() && socket == socket_at(&self.folder, &self.name) {
            // Somebody else may have removed it.
            let _ = rustix::fs::unlinkat(&self.folder, &self.name, AtFlags::empty());
        }
        lock.remove(&self.folder);
    }

    fn lock(&self) -> io::Result<Lock> {
        for _ in 0..ATTEMPTS {
            match Lock::take(&self.folder, &self.name) {
                Err(Errno::WOULDBLOCK) if rustix::fs::statat(&self.folder, &self.name, NOT_ITS_TARGET).is_err() => {
                    thread::sleep(BETWEEN_ATTEMPTS);
                }
                Err(Errno::WOULDBLOCK) => break,
                outcome => return Ok(outcome?),
            }
        }
        Err(Errno::ADDRINUSE.into())
    }

    /// Makes the socket, if nothing is there.
    fn make(&self) -> io::Result<Endpoint> {
        let below = through(&self.folder);
        match Endpoint::bind_unix(&below.join(&self.name)) {
            Err(error) if error.kind() == io::ErrorKind::InvalidFilename => {}
            outcome => return outcome,
        }
        // The name alone fits into an address, with the folder it does not.
        let short = format!(".{:016x}", fastrand::u64(..));
        let endpoint = Endpoint::bind_unix(&below.join(&short))?;
        let linked = rustix::fs::linkat(&self.folder, &short, &self.folder, &self.name, AtFlags::empty());
        let _ = rustix::fs::unlinkat(&self.folder, &short, AtFlags::empty());
        match linked {
            Err(Errno::EXIST) => Err(Errno::ADDRINUSE.into()),
            linked => Ok(linked.map(|()| endpoint)?),
        }
    }

    /// Removes a socket that nobody listens on, and tells whether there was one. The lock is ours.
    fn remove_abandoned(&self) -> io::Result<bool> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let found = match rustix::fs::openat(&self.folder, &self.name, flags, Mode::empty()) {
            // It has gone since.
            Err(Errno::NOENT) => return Ok(true),
            found => found?,
        };
        let identity = socket(&rustix::fs::fstat(&found)?);
        if identity.is_none() || !os::is_refused(&through(&found)) {
            return Ok(false);
        }
        if socket_at(&self.folder, &self.name) == identity {
            rustix::fs::unlinkat(&self.folder, &self.name, AtFlags::empty())?;
        }
        Ok(true)
    }
}

impl Drop for UnixPath {
    fn drop(&mut self) {
        self.remove();
    }
}

/// A locked file beside the socket.
#[derive(Debug)]
struct Lock {
    file: OwnedFd,
    name: OsString,
}

impl Lock {
    fn take(folder: &OwnedFd, socket: &OsStr) -> Result<Self, Errno> {
        let mut name = socket.to_owned();
        name.push(".lock");
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::openat(folder, &name, flags, Mode::RUSR | Mode::WUSR)?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        let lock = Self { file, name };
        // Whoever had it before has removed the file: this lock would exclude nobody.
        if lock.is_at(folder) { Ok(lock) } else { Err(Errno::WOULDBLOCK) }
    }

    fn is_at(&self, folder: &OwnedFd) -> bool {
        match (rustix::fs::fstat(&self.file), rustix::fs::statat(folder, &self.name, NOT_ITS_TARGET)) {
            (Ok(ours), Ok(there)) => identity(&ours) == identity(&there),
            _ => false,
        }
    }

    fn remove(self, folder: &OwnedFd) {
        let is_empty = rustix::fs::fstat(&self.file)
            .is_ok_and(|data| data.st_size == 0 && FileType::from_raw_mode(data.st_mode) == FileType::RegularFile);
        // A file that somebody has written to was there before, for a purpose of its own.
        if is_empty && self.is_at(folder) {
            let _ = rustix::fs::unlinkat(folder, &self.name, AtFlags::empty());
        }
        // A process that is just being started may have a copy of the descriptor.
        let _ = rustix::fs::flock(&self.file, FlockOperation::Unlock);
    }
}

const NOT_ITS_TARGET: AtFlags = AtFlags::SYMLINK_NOFOLLOW;

/// A path to what a descriptor stands for, whatever it is called by now.
fn through(fd: &impl AsFd) -> PathBuf {
    format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd()).into()
}

fn identity(data: &Stat) -> Identity {
    Identity { device: data.st_dev, inode: data.st_ino }
}

/// The identity of a socket; none of a file of another kind.
fn socket(data: &Stat) -> Option<Identity> {
    (FileType::from_raw_mode(data.st_mode) == FileType::Socket).then(|| identity(data))
}

fn socket_at(folder: &OwnedFd, name: &OsStr) -> Option<Identity> {
    socket(&rustix::fs::statat(folder, name, NOT_ITS_TARGET).ok()?)
}

/// Whether there is something, and it is no socket; a link to one is none.
pub(crate) fn is_another_file(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|data| !data.file_type().is_socket())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, symlink};
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    fn names(folder: &Path) -> Vec<OsString> {
        let mut names: Vec<_> =
            fs::read_dir(folder).expect("a folder").flatten().map(|file| file.file_name()).collect();
        names.sort();
        names
    }

    fn is_in_use(path: &Path) -> bool {
        UnixPath::new(path).expect("a folder").bind().is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse)
    }

    #[test]
    fn one_that_does_not_listen_yet_is_in_use() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("s");
        let mut place = UnixPath::new(&path).expect("a folder");
        for _ in 0..2 {
            let socket = place.bind().expect("a free path");
            assert_eq!(names(folder.path()), ["s", "s.lock"]);
            let before = fs::symlink_metadata(&path).expect("it is there").ino();
            assert!(is_in_use(&path));
            assert_eq!(fs::symlink_metadata(&path).expect("it is there").ino(), before);
            fs::remove_file(&path).expect("it is ours");
            assert!(is_in_use(&path), "without its file, too");
            drop(socket);
            place.remove();
            assert!(names(folder.path()).is_empty());
        }
    }

    #[test]
    fn what_a_killed_server_left_is_taken_over() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("s");
        drop(UnixListener::bind(&path).expect("a free path"));
        fs::write(folder.path().join("s.lock"), "").expect("the folder is ours");
        let mut place = UnixPath::new(&path).expect("a folder");
        let socket = place.bind().expect("it is abandoned");
        socket.listen(1).expect("a socket");
        UnixStream::connect(&path).expect("it listens");
        drop(place);
        assert!(names(folder.path()).is_empty());
    }

    #[test]
    fn only_what_was_made_is_removed() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("s");
        let _other = {
            let mut place = UnixPath::new(&path).expect("a folder");
            let _socket = place.bind().expect("a free path");
            fs::remove_file(&path).expect("it is ours");
            let other = UnixListener::bind(&path).expect("it is free");
            place.remove();
            other
        };
        UnixStream::connect(&path).expect("it is the other's");
        assert_eq!(names(folder.path()), ["s"]);
        let lock = folder.path().join("t.lock");
        fs::write(&lock, "precious").expect("the folder is ours");
        let mut place = UnixPath::new(&folder.path().join("t")).expect("a folder");
        let _socket = place.bind().expect("a free path");
        drop(place);
        assert_eq!(names(folder.path()), ["s", "t.lock"]);
        assert_eq!(fs::read_to_string(&lock).expect("it is there"), "precious");
    }

    #[test]
    fn it_stays_in_the_folder_that_it_was_made_in() {
        let root = tempfile::tempdir().expect("a folder");
        let [folder, moved, victim] = ["folder", "moved", "victim"].map(|name| root.path().join(name));
        fs::create_dir(&folder).expect("it is ours");
        fs::create_dir(&victim).expect("it is ours");
        let mut place = UnixPath::new(&folder.join("s")).expect("a folder");
        let first = place.bind().expect("a free path");
        fs::rename(&folder, &moved).expect("it is ours");
        symlink("victim", &folder).expect("it is ours");
        let other = UnixListener::bind(victim.join("s")).expect("a free path");
        place.remove();
        drop(first);
        assert!(names(&moved).is_empty());
        let _second = place.bind().expect("it is free again");
        assert_eq!(names(&moved), ["s", "s.lock"]);
        drop(place);
        assert!(names(&moved).is_empty());
        assert_eq!(names(&victim), ["s"]);
        drop(other);
    }

    #[test]
    fn a_full_backlog_is_a_sign_of_life() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("s");
        let socket = Endpoint::bind_unix(&path).expect("a free path");
        socket.listen(0).expect("a socket");
        let _waits = UnixStream::connect(&path).expect("it listens");
        assert!(is_in_use(&path));
    }

    #[test]
    fn long_paths() {
        let root = tempfile::tempdir().expect("a folder");
        let folder = root.path().join("f".repeat(200));
        fs::create_dir(&folder).expect("it is ours");
        for length in [1, 90, 95, 107, 108] {
            let path = folder.join("x".repeat(length));
            let mut place = UnixPath::new(&path).expect("a folder");
            for _ in 0..2 {
                let _socket = place.bind().unwrap_or_else(|error| panic!("{length}: {error}"));
                assert!(!is_another_file(&path) && path.exists());
                assert!(is_in_use(&path));
                place.remove();
                assert!(names(&folder).is_empty());
            }
            fs::write(&path, "precious").expect("it is ours");
            assert!(is_in_use(&path));
            fs::remove_file(&path).expect("it is ours");
        }
        let error = UnixPath::new(&folder.join("x".repeat(109))).expect_err("nobody could connect");
        assert_eq!(error.kind(), io::ErrorKind::InvalidFilename);
    }
}
