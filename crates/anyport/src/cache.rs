//! Compiled modules on disk: content-addressed, written atomically, bounded, never trusted blindly.
//!
//! An entry is two files, `KEY.cwasm` and `KEY.sum`; the key is the module's digest and the engine's
//! compatibility hash, the sum is the entry's own digest. An entry that does not match its sum is
//! as good as none. Beside its sum stands which file was found to match, so that all of it is read but once
//! between two starts of the machine: the kernel gives a file another time when anything of it is written.
//! There too is a note of whoever uses the cache, with a sum of its own.
//! The folder must be its owner's alone: who can write there can run code here. `KEY.lock` is there while
//! some process compiles the module, and the others wait for it.

use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, DirBuilder, File, Metadata, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::error::Error;

/// Bytes of all entries together, at most: 1 GiB, which is some 300 servers of 1 MB wasm.
pub const CACHE_BYTES: u64 = 1 << 30;

/// How old a file is that somebody began to write and never will finish.
const INTERRUPTED_AFTER: Duration = Duration::from_secs(3600);

/// Group or others may write.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// A folder of compiled modules.
#[derive(Clone, Debug)]
pub struct Cache {
    folder: PathBuf,
    bytes_max: u64,
}

impl Cache {
    /// A cache in `folder`, which is made with mode 0700 if it is not there, of at most
    /// [`CACHE_BYTES`].
    ///
    /// # Errors
    /// The folder cannot be made, or somebody else could write to it.
    pub fn open(folder: impl Into<PathBuf>) -> Result<Self, Error> {
        let folder = folder.into();
        let refuse =
            |why: String| Error::host(format!("the compile cache `{}` cannot be used: {why}", folder.display()));
        DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(|error| refuse(error.to_string()))?;
        let metadata = fs::metadata(&folder).map_err(|error| refuse(error.to_string()))?;
        if metadata.uid() != rustix::process::geteuid().as_raw() {
            return Err(refuse("it belongs to another user".to_owned()));
        }
        if metadata.mode() & WRITABLE_BY_OTHERS != 0 {
            return Err(refuse("other users may write to it".to_owned()));
        }
        Ok(Self { folder, bytes_max: CACHE_BYTES })
    }

    /// The same cache, holding at most this many bytes.
    #[must_use]
    pub fn with_bytes_max(mut self, bytes_max: u64) -> Self {
        self.bytes_max = bytes_max;
        self
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.folder
    }

    /// Bytes and number of all entries.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn size(&self) -> io::Result<(u64, usize)> {
        let entries = self.entries()?;
        Ok((entries.iter().map(|entry| entry.bytes).sum(), entries.len()))
    }

    /// Removes every entry, and what interrupted writes have left; how many entries there were.
    ///
    /// # Errors
    /// The folder cannot be read, or an entry cannot be removed.
    pub fn clear(&self) -> io::Result<usize> {
        let entries = self.entries()?;
        for entry in &entries {
            self.remove(&entry.key)?;
        }
        for path in self.files()? {
            if matches!(path.extension().and_then(OsStr::to_str), Some("sum" | "tmp" | "lock")) {
                fs::remove_file(path)?;
            }
        }
        Ok(entries.len())
    }

    /// An entry that is whole, opened for reading and marked as used now.
    pub(crate) fn find(&self, key: &str) -> Option<Found> {
        let sum = File::open(self.sum_path(key)).ok()?;
        let told = io::read_to_string(&sum).ok()?;
        let Told { digest, seen, note } = Told::of(&told);
        let found = |file| Found { file, note: note.map(str::to_owned) };
        let file = File::open(self.module_path(key)).ok()?;
        // Before it is read: what is written meanwhile changes it.
        let metadata = file.metadata().ok()?;
        let (identity, is_settled) = (identity(&metadata), is_settled(&metadata));
        // For the eviction of the least recently used; no harm if the file system refuses.
        let _ = sum.set_modified(SystemTime::now());
        if identity.as_deref() == Some(seen) {
            return Some(found(file));
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(&file).ok()?;
        if hasher.finalize().to_hex().as_str() != digest {
            tracing::debug!("the cache entry {key} is damaged and will be made anew");
            return None;
        }
        if let (Some(identity), true) = (identity, is_settled) {
            // In a cache for reading alone it is read each time.
            let _ = self.tell(key, &Told { digest, seen: &identity, note });
        }
        Some(found(file))
    }

    /// Keeps a line beside an entry, for who finds it.
    ///
    /// # Errors
    /// There is no such entry, or it cannot be written to.
    pub(crate) fn note(&self, key: &str, note: &str) -> io::Result<()> {
        let told = fs::read_to_string(self.sum_path(key))?;
        self.tell(key, &Told { note: Some(note), ..Told::of(&told) })
    }

    fn tell(&self, key: &str, told: &Told<'_>) -> io::Result<()> {
        self.write(&self.sum_path(key), told.to_string().as_bytes(), |_| Ok(()))
    }

    /// Writes an entry and makes room for it; the file that it is in, opened for reading.
    ///
    /// # Errors
    /// The disk is full or read-only: the caller goes on without.
    pub(crate) fn store(&self, key: &str, compiled: &[u8]) -> io::Result<File> {
        let bytes = u64::try_from(compiled.len()).unwrap_or(u64::MAX);
        if bytes > self.bytes_max {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.evict(bytes)?;
        // The sum last: without it the module is no entry.
        let path = self.module_path(key);
        // Before there is a sum it is on the disk: what is in memory alone may never come there.
        self.write(&path, compiled, File::sync_all)?;
        self.write(&self.sum_path(key), blake3::hash(compiled).to_hex().as_bytes(), |_| Ok(()))?;
        File::open(path)
    }

    /// Waits until nobody else is making this entry, and keeps others from it until it is dropped. Nothing
    /// where the file system has no locks: then it may be made twice, which does no harm.
    pub(crate) fn lock(&self, key: &str) -> Option<Lock> {
        let path = self.folder.join(format!("{key}.lock"));
        loop {
            let file = File::options().read(true).write(true).create(true).truncate(false).open(&path).ok()?;
            match file.try_lock() {
                Err(TryLockError::WouldBlock) => {
                    tracing::debug!("the cache entry {key} is being made by somebody else, and waited for");
                    file.lock().ok()?;
                }
                outcome => outcome.ok()?,
            }
            let held = file.metadata().ok()?;
            match fs::metadata(&path) {
                Ok(there) if (there.dev(), there.ino()) == (held.dev(), held.ino()) => {
                    return Some(Lock { path, _file: file });
                }
                // Who had it has removed it: it keeps nobody out any more.
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(_) => return None,
            }
        }
    }

    /// Writes beside, does what is to be done with that, then renames: a reader sees all or nothing.
    fn write(&self, path: &Path, bytes: &[u8], written: impl FnOnce(&File) -> io::Result<()>) -> io::Result<()> {
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        let beside = path.with_extension(format!("{:016x}.tmp", u64::from_ne_bytes(random)));
        let outcome = File::create_new(&beside).and_then(|mut file| {
            file.write_all(bytes)?;
            written(&file)?;
            fs::rename(&beside, path)
        });
        if outcome.is_err() {
            let _ = fs::remove_file(&beside);
        }
        outcome
    }

    /// Removes what writers have left that were killed an hour ago or earlier: no write takes as long.
    fn remove_interrupted(&self) -> io::Result<()> {
        let is_left = |path: &PathBuf| {
            let modified = fs::metadata(path).and_then(|metadata| metadata.modified());
            let age = modified.ok().and_then(|modified| modified.elapsed().ok());
            path.extension() == Some(OsStr::new("tmp")) && age.is_some_and(|age| age > INTERRUPTED_AFTER)
        };
        for path in self.files()?.into_iter().filter(is_left) {
            let _ = fs::remove_file(path);
        }
        Ok(())
    }

    /// Removes the least recently used entries until `incoming` bytes fit.
    fn evict(&self, incoming: u64) -> io::Result<()> {
        self.remove_interrupted()?;
        let mut entries = self.entries()?;
        entries.sort_by_key(|entry| entry.used);
        let mut total: u64 = entries.iter().map(|entry| entry.bytes).sum();
        for entry in entries {
            if total.saturating_add(incoming) <= self.bytes_max {
                break;
            }
            self.remove(&entry.key)?;
            total -= entry.bytes;
        }
        Ok(())
    }

    fn remove(&self, key: &str) -> io::Result<()> {
        for path in [self.sum_path(key), self.module_path(key)] {
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    fn entries(&self) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for path in self.files()? {
            let Some(key) =
                path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".cwasm"))
            else {
                continue;
            };
            // Another process may have removed it meanwhile.
            let Ok(metadata) = fs::metadata(&path) else { continue };
            let used = fs::metadata(self.sum_path(key)).and_then(|sum| sum.modified());
            let used = used.unwrap_or(SystemTime::UNIX_EPOCH);
            entries.push(Entry { key: key.to_owned(), bytes: metadata.len(), used });
        }
        Ok(entries)
    }

    fn files(&self) -> io::Result<Vec<PathBuf>> {
        fs::read_dir(&self.folder)?.map(|file| Ok(file?.path())).collect()
    }

    fn module_path(&self, key: &str) -> PathBuf {
        self.folder.join(format!("{key}.cwasm"))
    }

    fn sum_path(&self, key: &str) -> PathBuf {
        self.folder.join(format!("{key}.sum"))
    }
}

/// What changes when a file is written to, or is another one: its numbers, its length and when the kernel has last
/// changed it, which nobody can set; since the machine was started, before which a disk may have lost what was written.
fn identity(metadata: &Metadata) -> Option<String> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let (boot, device, number, bytes) = (boot.trim(), metadata.dev(), metadata.ino(), metadata.len());
    Some(format!("{boot} {device} {number} {bytes} {}.{:09}", metadata.ctime(), metadata.ctime_nsec()))
}

/// Whether a file was changed so long ago that another change would give it another time: clocks of file systems tick.
fn is_settled(metadata: &Metadata) -> bool {
    const TICK_MOST: Duration = Duration::from_secs(3);
    let nanoseconds = u32::try_from(metadata.ctime_nsec()).unwrap_or_default();
    let changed = u64::try_from(metadata.ctime()).map(|seconds| Duration::new(seconds, nanoseconds));
    let age = changed.ok().and_then(|changed| (SystemTime::UNIX_EPOCH + changed).elapsed().ok());
    age.is_some_and(|age| age > TICK_MOST)
}

/// An entry that was found.
pub(crate) struct Found {
    pub(crate) file: File,
    pub(crate) note: Option<String>,
}

/// What stands beside an entry, a line each.
struct Told<'t> {
    digest: &'t str,
    /// The file that had it.
    seen: &'t str,
    /// With its own digest behind it.
    note: Option<&'t str>,
}

impl<'t> Told<'t> {
    fn of(text: &'t str) -> Self {
        let mut lines = text.lines();
        let mut next = || lines.next().unwrap_or_default();
        let (digest, seen, note, sum) = (next(), next(), next(), next());
        let is_whole = sum == blake3::hash(note.as_bytes()).to_hex().as_str();
        Self { digest, seen, note: is_whole.then_some(note) }
    }
}

impl fmt::Display for Told<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { digest, seen, note } = self;
        write!(f, "{digest}\n{seen}")?;
        note.map_or(Ok(()), |note| write!(f, "\n{note}\n{}", blake3::hash(note.as_bytes()).to_hex()))
    }
}

/// An entry is being made.
pub(crate) struct Lock {
    path: PathBuf,
    _file: File,
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Before it is given up, so that it is not one that somebody else holds.
        let _ = fs::remove_file(&self.path);
    }
}

struct Entry {
    key: String,
    bytes: u64,
    used: SystemTime,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Seek};
    use std::os::unix::fs::PermissionsExt;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Instant;

    fn cache() -> (tempfile::TempDir, Cache) {
        let folder = tempfile::tempdir().expect("a folder");
        let cache = Cache::open(folder.path().join("deep/cache")).expect("a cache");
        (folder, cache)
    }

    #[test]
    fn an_entry_comes_back_until_it_is_damaged() {
        let (_folder, cache) = cache();
        assert!(cache.find("a").is_none());
        let stored = cache.store("a", b"compiled").expect("room");
        for mut file in [stored, cache.find("a").expect("stored").file] {
            let mut bytes = Vec::new();
            // The digest was taken of the same file.
            file.rewind().expect("a file");
            file.read_to_end(&mut bytes).expect("readable");
            assert_eq!(bytes, b"compiled");
            file.write_all(b"x").expect_err("it is for reading");
        }
        let path = cache.module_path("a");
        for damaged in [&b"compile"[..], b"compilex", b""] {
            fs::write(&path, damaged).expect("writable");
            assert!(cache.find("a").is_none(), "{damaged:?}");
        }
        fs::remove_file(path).expect("there");
        assert!(cache.find("a").is_none());
    }

    #[test]
    fn an_entry_is_read_whole_until_it_is_known() {
        let (_folder, cache) = cache();
        cache.store("a", b"compiled").expect("room");
        let (module, sum) = (cache.module_path("a"), cache.sum_path("a"));
        let read = || fs::read_to_string(&sum).expect("there");
        let since = Instant::now();
        while !read().contains('\n') {
            assert!(cache.find("a").is_some() && since.elapsed() < Duration::from_secs(60));
            std::thread::yield_now();
        }
        let known = read();
        let (digest, identity) = known.split_once('\n').expect("both");
        // As a copy of the cache has it, and after another start of the machine.
        let another = identity.replace('-', "+");
        for told in [&another, "", "1 8 2.000000003"] {
            fs::write(&sum, format!("{digest}\n{told}")).expect("ours");
            assert!(cache.find("a").is_some(), "it matches its sum");
            assert_eq!(read(), known);
        }
        let wrong = blake3::hash(b"another").to_hex();
        for (told, found) in [(format!("{wrong}\n{identity}"), true), (wrong.to_string(), false)] {
            fs::write(&sum, told).expect("ours");
            assert_eq!(cache.find("a").is_some(), found);
        }
        // The time that programs set is not what counts.
        fs::write(&sum, &known).expect("ours");
        let modified = fs::metadata(&module).and_then(|metadata| metadata.modified()).expect("there");
        fs::write(&module, b"cOmpiled").expect("ours");
        File::options().write(true).open(&module).and_then(|file| file.set_modified(modified)).expect("ours");
        assert!(cache.find("a").is_none());
    }

    #[test]
    fn a_note_is_kept_beside_an_entry() {
        let (_folder, cache) = cache();
        assert!(cache.note("a", "none").is_err());
        cache.store("a", b"compiled").expect("room");
        let note = || cache.find("a").expect("it is whole").note;
        assert_eq!(note(), None);
        for text in ["a note", "another"] {
            cache.note("a", text).expect("ours");
            assert_eq!(note().as_deref(), Some(text));
        }
        // However the rest is told, and until it is damaged.
        let since = Instant::now();
        let told = || fs::read_to_string(cache.sum_path("a")).expect("there");
        while told().lines().nth(1) == Some("") {
            assert!(note().is_some() && since.elapsed() < Duration::from_secs(60));
            std::thread::yield_now();
        }
        assert_eq!(note().as_deref(), Some("another"));
        fs::write(cache.sum_path("a"), told().replace("another", "Another")).expect("ours");
        assert_eq!(note(), None);
        // What is stored anew has none.
        cache.note("a", "a note").expect("ours");
        cache.store("a", b"another").expect("room");
        assert_eq!(note(), None);
    }

    #[test]
    fn one_at_a_time_makes_an_entry() {
        let (_folder, cache) = cache();
        let making = AtomicUsize::new(0);
        let made = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    // As another process: with a cache of its own.
                    let cache = Cache::open(cache.path()).expect("a cache");
                    for _ in 0..50 {
                        let _lock = cache.lock("a").expect("a file system with locks");
                        assert_eq!(making.fetch_add(1, Ordering::SeqCst), 0);
                        std::thread::yield_now();
                        making.fetch_sub(1, Ordering::SeqCst);
                        made.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
        });
        assert_eq!(made.into_inner(), 400);
        assert_eq!(fs::read_dir(cache.path()).expect("readable").count(), 0);
    }

    #[test]
    fn the_folder_is_its_owners_alone() {
        let (_folder, cache) = cache();
        let mode = fs::metadata(cache.path()).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        fs::set_permissions(cache.path(), fs::Permissions::from_mode(0o777)).expect("ours");
        let error = Cache::open(cache.path()).expect_err("others may write");
        assert!(error.to_string().contains("other users may write to it"), "{error}");
    }

    #[test]
    fn it_stays_within_its_bound() {
        let (_folder, cache) = cache();
        let cache = cache.with_bytes_max(100);
        for (age, key) in ["old", "middle", "new"].into_iter().enumerate() {
            cache.store(key, &[0; 33]).expect("room");
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(age as u64);
            File::open(cache.sum_path(key)).and_then(|file| file.set_modified(time)).expect("ours");
        }
        assert_eq!(cache.size().expect("readable"), (99, 3));
        cache.store("newest", &[0; 40]).expect("room");
        assert!(cache.find("old").is_none());
        assert!(cache.find("middle").is_none());
        assert!(cache.find("new").is_some() && cache.find("newest").is_some());
        assert_eq!(cache.clear().expect("ours"), 2);
        assert_eq!(fs::read_dir(cache.path()).expect("readable").count(), 0);
    }
}
