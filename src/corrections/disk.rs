//! Where updates go that memory has no room for: files of this process, which nobody else reads.
//!
//! ```text
//!   <directory>/mvsink-<random>/lock      held locked while the process lives
//!   <directory>/mvsink-<random>/<n>       written once, deleted when nothing refers to it any more
//! ```
//!
//! The folder is made with the first file, and deleted with the last handle. What a process that was killed left
//! behind is deleted by the next one that spills there: a lock ends with its process.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::Error;

const FOLDER_PREFIX: &str = "mvsink-";
const LOCK: &str = "lock";

/// Makes files. What it does blocks: it is for the pool.
pub(crate) trait Disk: Send + Sync {
    /// A new, empty file.
    fn create(&self) -> Result<Box<dyn Spill>, Error>;
}

/// A file, deleted when it is dropped.
pub(crate) trait Spill: Send + Sync {
    /// Adds to its end. After an error the file is of no more use.
    fn append(&mut self, bytes: &[u8]) -> Result<(), Error>;

    /// Reads `length` bytes from `offset` on, all of which were written.
    fn read(&self, offset: u64, length: usize) -> Result<Vec<u8>, Error>;

    /// The file's name in messages.
    fn name(&self) -> &str;
}

/// Files in a folder of this process's own.
pub(crate) struct Directory {
    parent: PathBuf,
    /// Names of folders.
    random: Box<dyn Fn() -> u128 + Send + Sync>,
    folder: Mutex<Option<Arc<Folder>>>,
}

impl Directory {
    /// Files somewhere below `parent`; nothing is created yet.
    pub(crate) fn new(parent: PathBuf, random: impl Fn() -> u128 + Send + Sync + 'static) -> Self {
        Directory {
            parent,
            random: Box::new(random),
            folder: Mutex::default(),
        }
    }

    fn folder(&self) -> Result<Arc<Folder>, Error> {
        let mut folder = self.folder.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(folder) = &*folder
            && folder.path.exists()
        {
            return Ok(Arc::clone(folder));
        }
        let name = format!("{FOLDER_PREFIX}{:032x}", (self.random)());
        let made = Arc::new(Folder::make(self.parent.join(name))?);
        delete_left_behind(&self.parent);
        *folder = Some(Arc::clone(&made));
        Ok(made)
    }
}

impl Disk for Directory {
    fn create(&self) -> Result<Box<dyn Spill>, Error> {
        let folder = self.folder()?;
        let path = folder
            .path
            .join(folder.next.fetch_add(1, Ordering::Relaxed).to_string());
        let mut options = File::options();
        options.read(true).write(true).create_new(true);
        let file = options.open(&path).map_err(failed("create", &path))?;
        Ok(Box::new(SpillFile {
            shown: path.display().to_string(),
            path,
            file,
            _folder: folder,
        }))
    }
}

struct Folder {
    path: PathBuf,
    next: AtomicU64,
    _lock: File,
}

impl Folder {
    fn make(path: PathBuf) -> Result<Self, Error> {
        fs::create_dir_all(&path).map_err(failed("create", &path))?;
        let lock_path = path.join(LOCK);
        let lock = File::create_new(&lock_path).map_err(failed("create", &lock_path))?;
        // Who else has it is about to delete the folder: the next attempt makes another.
        match lock.try_lock() {
            Ok(()) => Ok(Folder {
                path,
                next: AtomicU64::new(0),
                _lock: lock,
            }),
            Err(TryLockError::WouldBlock) => {
                Err(failed("lock", &lock_path)(io::ErrorKind::WouldBlock.into()))
            }
            Err(TryLockError::Error(error)) => Err(failed("lock", &lock_path)(error)),
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::debug!(path = %self.path.display(), %error, "left a folder behind");
        }
    }
}

/// Deletes the folders of processes that are gone, as far as it can.
fn delete_left_behind(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else {
        return;
    };
    for entry in entries.flatten() {
        let ours = entry
            .file_name()
            .to_str()
            .is_some_and(|name| name.starts_with(FOLDER_PREFIX));
        // One without a lock is just being made, or is none of ours.
        if ours
            && let Ok(lock) = File::open(entry.path().join(LOCK))
            && lock.try_lock().is_ok()
        {
            let deleted = fs::remove_dir_all(entry.path());
            tracing::info!(path = %entry.path().display(), ?deleted, "deleted what another process left behind");
        }
    }
}

struct SpillFile {
    path: PathBuf,
    shown: String,
    file: File,
    _folder: Arc<Folder>,
}

impl Spill for SpillFile {
    fn append(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.file
            .write_all(bytes)
            .map_err(failed("write", &self.path))
    }

    fn read(&self, offset: u64, length: usize) -> Result<Vec<u8>, Error> {
        let mut bytes = vec![0; length];
        read_exact_at(&self.file, &mut bytes, offset).map_err(failed("read", &self.path))?;
        Ok(bytes)
    }

    fn name(&self) -> &str {
        &self.shown
    }
}

impl Drop for SpillFile {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.shown, %error, "left a file behind");
        }
    }
}

/// Reads from `offset` on, beside others who read the same handle.
#[cfg(unix)]
fn read_exact_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, offset)
}

/// Reads from `offset` on, beside others who read the same handle. Nothing is appended afterwards.
#[cfg(windows)]
fn read_exact_at(file: &File, mut bytes: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, bytes, offset)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => {
                bytes = &mut bytes[read..];
                offset += read as u64;
            }
        }
    }
    Ok(())
}

fn failed(action: &'static str, path: &Path) -> impl Fn(io::Error) -> Error {
    move |source| Error::Spill {
        action,
        path: path.display().to_string(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(parent: &Path) -> Directory {
        let next = AtomicU64::new(std::process::id().into());
        Directory::new(parent.to_owned(), move || {
            next.fetch_add(1, Ordering::Relaxed).into()
        })
    }

    fn names(parent: &Path) -> Vec<String> {
        let entries = fs::read_dir(parent).unwrap();
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    #[test]
    fn files_go_with_their_handles_and_the_folder_with_the_last() {
        let parent = tempfile::tempdir().unwrap();
        let disk = directory(parent.path());
        assert!(names(parent.path()).is_empty(), "nothing is created yet");
        let mut file = disk.create().unwrap();
        file.append(b"one").unwrap();
        file.append(b"two").unwrap();
        assert_eq!(file.read(2, 3).unwrap(), b"etw");
        let folder = parent.path().join(&names(parent.path())[0]);
        assert_eq!(names(&folder).len(), 2);
        let other = disk.create().unwrap();
        drop(disk);
        drop(file);
        assert_eq!(names(&folder).len(), 2);
        drop(other);
        assert!(names(parent.path()).is_empty());
    }

    #[test]
    fn what_a_killed_process_left_goes_and_what_a_live_one_has_stays() {
        let parent = tempfile::tempdir().unwrap();
        let dead = parent.path().join("mvsink-dead");
        fs::create_dir(&dead).unwrap();
        fs::write(dead.join(LOCK), "").unwrap();
        fs::write(dead.join("0"), "rows").unwrap();
        let being_made = parent.path().join("mvsink-new");
        fs::create_dir(&being_made).unwrap();
        let disk = directory(parent.path());
        let live = disk.create().unwrap();
        assert!(!dead.exists() && being_made.exists());
        // To a lock, another handle is another process.
        let other = Directory::new(parent.path().to_owned(), || 7);
        other.create().unwrap();
        assert!(live.read(0, 0).is_ok());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_file_takes_one_descriptor_and_none_to_be_read() {
        let parent = tempfile::tempdir().unwrap();
        let descriptors = || {
            let all = fs::read_dir("/proc/self/fd").unwrap();
            all.filter(|entry| {
                let target = fs::read_link(entry.as_ref().unwrap().path());
                target.is_ok_and(|target| target.starts_with(parent.path()))
            })
            .count()
        };
        let disk = directory(parent.path());
        let mut files: Vec<_> = (0..8).map(|_| disk.create().unwrap()).collect();
        let folder = parent.path().join(&names(parent.path())[0]);
        for file in &mut files {
            file.append(b"some rows").unwrap();
        }
        let of_the_lock = 1;
        assert_eq!(descriptors(), files.len() + of_the_lock);
        // Without a name it can only be read by the descriptor that is there.
        for name in names(&folder) {
            fs::rename(folder.join(&name), parent.path().join(name)).unwrap();
        }
        for (offset, part) in [(5, b"rows"), (0, b"some")] {
            assert!(
                files
                    .iter()
                    .all(|file| file.read(offset, 4).unwrap() == part)
            );
        }
        assert_eq!(descriptors(), files.len() + of_the_lock);
        files.clear();
        assert_eq!(descriptors(), of_the_lock);
    }

    #[test]
    fn a_disk_that_fails_says_where_and_that_it_may_pass() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let disk = directory(&file.path().join("below"));
        let error = disk.create().err().unwrap();
        assert!(error.is_transient(), "{error}");
        let path = file.path().to_str().unwrap();
        assert!(error.to_string().contains(path), "{error}");
        // Rows that are gone do not come back.
        let parent = tempfile::tempdir().unwrap();
        let disk = directory(parent.path());
        let mut file = disk.create().unwrap();
        file.append(b"one").unwrap();
        assert!(!file.read(1, 3).unwrap_err().is_transient());
    }
}
