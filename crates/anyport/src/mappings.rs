//! Gives back the memory that only a start needed: for programs whose work from then on is to serve.
//!
//! A start touches much of the program once: what the loader reads, the engine's set-up, a container's description and
//! sandbox. The kernel maps 64 KiB around each page that is touched, and such pages stay mapped although nobody reads
//! them again.
#![allow(unsafe_code, reason = "rustix calls madvise unsafe")]

use std::fs::File;
use std::io::{self, Seek};
use std::ops::Range;
use std::ptr;
use std::time::Duration;

use rustix::mm::Advice;

/// How long what follows a start may take: the guest's first steps, and the next questions of who started it.
const SETTLING: Duration = Duration::from_secs(1);

/// What this process has mapped.
#[derive(Debug)]
pub struct Mappings {
    smaps: io::Result<File>,
}

impl Mappings {
    /// Finds them, for later: a process that has another root by then may have no `/proc`. Where they cannot be
    /// found, nothing is given back.
    #[must_use]
    pub fn open() -> Self {
        Self { smaps: File::open("/proc/self/smaps") }
    }

    /// Unmaps, a little later, the pages of files that are as they are in the file. Those that are touched again are
    /// mapped again, from the page cache.
    ///
    /// For a process that unmaps none of its files any more.
    pub async fn give_back(self) {
        tokio::time::sleep(SETTLING).await;
        self.unmap();
    }

    fn unmap(self) {
        match self.smaps.and_then(read) {
            Ok(smaps) => unwritten(&smaps).for_each(unmap),
            Err(error) => tracing::debug!("no memory is given back: {error}"),
        }
    }
}

/// [`Mappings::give_back`] for a process that stays where it is, and holds no descriptor for that meanwhile.
pub async fn give_back() {
    tokio::time::sleep(SETTLING).await;
    Mappings::open().unmap();
}

fn read(mut smaps: File) -> io::Result<String> {
    smaps.rewind()?;
    io::read_to_string(smaps)
}

/// The private mappings of files that cannot be written to, and were not while they could.
fn unwritten(smaps: &str) -> impl Iterator<Item = Range<usize>> {
    let mut mapping = None;
    smaps.lines().filter_map(move |line| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        match words[..] {
            [range, mode, _, _, inode, ..] if range.contains('-') => {
                let is_file = matches!(mode, "r--p" | "r-xp") && inode != "0";
                mapping = addresses(range).filter(|_| is_file);
            }
            // The loader writes addresses to what it then protects: pages that are in no file.
            ["Anonymous:" | "Swap:", size, "kB"] if size != "0" => mapping = None,
            // The last line of a mapping.
            ["VmFlags:", ..] => return mapping.take(),
            _ => {}
        }
        None
    })
}

fn addresses(range: &str) -> Option<Range<usize>> {
    let (start, end) = range.split_once('-')?;
    let address = |text| usize::from_str_radix(text, 16).ok();
    Some(address(start)?..address(end)?)
}

fn unmap(pages: Range<usize>) {
    let address = ptr::without_provenance_mut(pages.start);
    // SAFETY: all of these pages are as in the file of a private mapping that cannot be written to. What is read
    // there is the same before and after, as when the kernel takes such pages because memory is short. Nothing else
    // has come to be there meanwhile: program, libraries and the guest's code stay where they are until the end.
    if let Err(error) = unsafe { rustix::mm::madvise(address, pages.len(), Advice::LinuxDontNeed) } {
        tracing::debug!("{} bytes are not given back: {error}", pages.len());
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use rustix::mm::{MapFlags, MprotectFlags, ProtFlags};

    use super::*;

    const LEN: usize = 1 << 16;

    #[test]
    fn only_what_is_as_in_its_file_is_given_back() {
        let smaps = "\
            1000-3000 r-xp 00000000 fe:00 7 /bin/a file\nAnonymous: 0 kB\nSwap: 0 kB\nVmFlags: rd ex\n\
            3000-4000 r--p 00002000 fe:00 7 /bin/a file\nAnonymous: 4 kB\nSwap: 0 kB\nVmFlags: rd\n\
            4000-5000 r--p 00003000 fe:00 7 /bin/a file\nAnonymous: 0 kB\nSwap: 4 kB\nVmFlags: rd\n\
            5000-6000 rw-p 00004000 fe:00 7 /bin/a file\nAnonymous: 0 kB\nSwap: 0 kB\nVmFlags: rd wr\n\
            6000-7000 r--s 00000000 fe:00 8 /shared\nAnonymous: 0 kB\nSwap: 0 kB\nVmFlags: rd\n\
            7000-8000 r-xp 00000000 00:00 0 [vdso]\nAnonymous: 0 kB\nSwap: 0 kB\nVmFlags: rd ex\n\
            8000-9000 r--p 00000000 fe:00 9 /lib\nAnonymous: 0 kB\nSwap: 0 kB\nVmFlags: rd\n";
        assert_eq!(unwritten(smaps).collect::<Vec<_>>(), [0x1000..0x3000, 0x8000..0x9000]);
    }

    #[test]
    fn what_is_given_back_is_read_as_before() {
        let (read, written) = (map(b'f'), map(b'f'));
        // As the loader does.
        write(written, b'w');
        let own = [read, written];
        let smaps = Mappings::open().smaps.and_then(super::read).expect("a kernel with smaps");
        assert_eq!(own.map(|address| resident_kb(&smaps, address)), [64, 64]);
        // Of other tests, which unmap files, nothing is touched.
        unwritten(&smaps).filter(|pages| own.contains(&pages.start)).for_each(unmap);
        let smaps = Mappings::open().smaps.and_then(super::read).expect("a kernel with smaps");
        assert_eq!(own.map(|address| resident_kb(&smaps, address)), [0, 64]);
        assert_eq!(own.map(content), [vec![b'f'; LEN], vec![b'w'; LEN]]);
    }

    /// A private mapping of a file, all of it resident.
    fn map(byte: u8) -> usize {
        let mut file = tempfile::tempfile().expect("a folder for it");
        file.write_all(&vec![byte; LEN]).expect("room for it");
        // SAFETY: the kernel chooses addresses that are free.
        let address = unsafe { rustix::mm::mmap(ptr::null_mut(), LEN, ProtFlags::READ, MapFlags::PRIVATE, &file, 0) };
        let address = address.expect("it can be mapped").addr();
        assert_eq!(content(address), vec![byte; LEN]);
        address
    }

    fn write(address: usize, byte: u8) {
        let start = ptr::with_exposed_provenance_mut::<u8>(address);
        // SAFETY: it is a mapping of this length, which is nobody else's and can be written to in between.
        unsafe {
            rustix::mm::mprotect(start.cast(), LEN, MprotectFlags::READ | MprotectFlags::WRITE).expect("private");
            start.write_bytes(byte, LEN);
            rustix::mm::mprotect(start.cast(), LEN, MprotectFlags::READ).expect("private");
        }
    }

    fn content(address: usize) -> Vec<u8> {
        // SAFETY: it is a mapping of this length, which nobody writes to now.
        unsafe { std::slice::from_raw_parts(ptr::with_exposed_provenance(address), LEN) }.to_vec()
    }

    fn resident_kb(smaps: &str, address: usize) -> usize {
        let (_, mapping) = smaps.split_once(&format!("{address:x}-")).expect("it is mapped");
        let line = mapping.lines().find_map(|line| line.strip_prefix("Rss:")).expect("each has one");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }
}
