//! Copies the contents of a folder of the image into the file system that is mounted over it.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Uid, chownat, fchmod, mkdirat, mknodat, openat, readlinkat,
    statat, symlinkat,
};

/// Copies what is in a folder, with owners and modes. No link is followed.
pub(super) fn contents(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    let from = openat(from, c".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    for entry in Dir::read_from(&from)? {
        let entry = entry?;
        if ![c".", c".."].contains(&entry.file_name()) {
            copy(from.as_fd(), entry.file_name(), to)?;
        }
    }
    Ok(())
}

fn copy(from: BorrowedFd<'_>, name: &CStr, to: BorrowedFd<'_>) -> io::Result<()> {
    let stat = statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
    match kind {
        FileType::Directory => {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            mkdirat(to, name, Mode::RWXU)?;
            let (inner_from, inner_to) =
                (openat(from, name, flags, Mode::empty())?, openat(to, name, flags, Mode::empty())?);
            contents(inner_from.as_fd(), inner_to.as_fd())?;
            own(to, name, &stat)?;
            fchmod(&inner_to, mode)?;
        }
        FileType::RegularFile => {
            let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let mut source = File::from(openat(from, name, flags | OFlags::RDONLY, Mode::empty())?);
            let new = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY;
            let mut copied = File::from(openat(to, name, flags | new, Mode::RUSR | Mode::WUSR)?);
            io::copy(&mut source, &mut copied)?;
            own(to, name, &stat)?;
            fchmod(&copied, mode)?;
        }
        FileType::Symlink => {
            symlinkat(readlinkat(from, name, Vec::new())?, to, name)?;
            own(to, name, &stat)?;
        }
        FileType::Fifo | FileType::CharacterDevice | FileType::BlockDevice => {
            mknodat(to, name, kind, mode, stat.st_rdev)?;
            own(to, name, &stat)?;
        }
        // A socket is nothing without the process that listens.
        FileType::Socket | FileType::Unknown => {}
    }
    Ok(())
}

fn own(folder: BorrowedFd<'_>, name: &CStr, stat: &Stat) -> rustix::io::Result<()> {
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    chownat(folder, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
}
