//! Compiled modules on disk: content-addressed, written atomically, bounded, never trusted blindly.
//!
//! An entry is two files, `KEY.cwasm` and `KEY.sum`; the key is the module's digest and the engine's
//! compatibility hash, the sum is the entry's own digest. An entry that does not match its sum is
//! as good as none. The folder must be its owner's alone: who can write there can run code here.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::error::Error;

/// Bytes of all entries together, at most: 1 GiB, which is some 300 servers of 1 MB wasm.
pub const CACHE_BYTES: u64 = 1 << 30;

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
        let refuse = |why: String| {
            Error::host(format!("the compile cache `{}` cannot be used: {why}", folder.display()))
                .with_hint("name another folder with `--cache-dir`, or run with `--no-cache`")
        };
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
            if matches!(path.extension().and_then(OsStr::to_str), Some("sum" | "tmp")) {
                fs::remove_file(path)?;
            }
        }
        Ok(entries.len())
    }

    /// The file of an entry that is whole, marked as used now.
    pub(crate) fn find(&self, key: &str) -> Option<PathBuf> {
        let path = self.module_path(key);
        let expected = fs::read_to_string(self.sum_path(key)).ok()?;
        let mut hasher = blake3::Hasher::new();
        let file = File::open(&path).ok()?;
        hasher.update_reader(&file).ok()?;
        if hasher.finalize().to_hex().as_str() != expected.trim() {
            tracing::debug!("the cache entry {key} is damaged and will be made anew");
            return None;
        }
        // For the eviction of the least recently used; no harm if the file system refuses.
        let _ = file.set_modified(SystemTime::now());
        Some(path)
    }

    /// Writes an entry and makes room for it; the file it is in.
    ///
    /// # Errors
    /// The disk is full or read-only: the caller goes on without.
    pub(crate) fn store(&self, key: &str, compiled: &[u8]) -> io::Result<PathBuf> {
        let bytes = u64::try_from(compiled.len()).unwrap_or(u64::MAX);
        if bytes > self.bytes_max {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.evict(bytes)?;
        // The sum last: without it the module is no entry.
        let path = self.module_path(key);
        self.write(&path, compiled)?;
        self.write(&self.sum_path(key), blake3::hash(compiled).to_hex().as_bytes())?;
        Ok(path)
    }

    /// Writes beside, then renames: a reader sees all or nothing.
    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        let beside = path.with_extension(format!("{:016x}.tmp", u64::from_ne_bytes(random)));
        let written = File::create_new(&beside).and_then(|mut file| {
            file.write_all(bytes)?;
            fs::rename(&beside, path)
        });
        if written.is_err() {
            let _ = fs::remove_file(&beside);
        }
        written
    }

    /// Removes the least recently used entries until `incoming` bytes fit.
    fn evict(&self, incoming: u64) -> io::Result<()> {
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
            let used = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
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

struct Entry {
    key: String,
    bytes: u64,
    used: SystemTime,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn cache() -> (tempfile::TempDir, Cache) {
        let folder = tempfile::tempdir().expect("a folder");
        let cache = Cache::open(folder.path().join("deep/cache")).expect("a cache");
        (folder, cache)
    }

    #[test]
    fn an_entry_comes_back_until_it_is_damaged() {
        let (_folder, cache) = cache();
        assert_eq!(cache.find("a"), None);
        cache.store("a", b"compiled").expect("room");
        let path = cache.find("a").expect("stored");
        for damaged in [&b"compile"[..], b"compilex", b""] {
            fs::write(&path, damaged).expect("writable");
            assert_eq!(cache.find("a"), None, "{damaged:?}");
        }
        fs::remove_file(path).expect("there");
        assert_eq!(cache.find("a"), None);
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
            let time = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(age as u64);
            File::open(cache.module_path(key)).and_then(|file| file.set_modified(time)).expect("ours");
        }
        assert_eq!(cache.size().expect("readable"), (99, 3));
        cache.store("newest", &[0; 40]).expect("room");
        assert_eq!(cache.find("old"), None);
        assert_eq!(cache.find("middle"), None);
        assert!(cache.find("new").is_some() && cache.find("newest").is_some());
        assert_eq!(cache.clear().expect("ours"), 2);
        assert_eq!(fs::read_dir(cache.path()).expect("readable").count(), 0);
    }
}
