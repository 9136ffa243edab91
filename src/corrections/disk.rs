//! Where updates go that memory has no room for: files of this process, which nobody else reads.
//!
//! They have no names: each is unlinked as it is made, readable by its owner alone. So the system deletes them with the
//! process, however that ends.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Once;

use crate::error::Error;

/// How earlier versions named the folders in which their files had names, each with a lock that ends with its process.
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

/// Files without names on the disk that has this directory.
pub(crate) struct Directory {
    path: PathBuf,
    cleaned: Once,
}

impl Directory {
    /// Nothing is created yet.
    pub(crate) fn new(path: PathBuf) -> Self {
        Directory {
            path,
            cleaned: Once::new(),
        }
    }
}

impl Disk for Directory {
    fn create(&self) -> Result<Box<dyn Spill>, Error> {
        fs::create_dir_all(&self.path).map_err(failed("create", &self.path))?;
        self.cleaned.call_once(|| delete_left_behind(&self.path));
        let file = mvsink_persist::unnamed_file(&self.path);
        Ok(Box::new(SpillFile {
            file: file.map_err(failed("create a file in", &self.path))?,
            directory: self.path.clone(),
            shown: self.path.display().to_string(),
        }))
    }
}

/// Deletes the folders of earlier versions whose processes were killed, as far as it can.
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
    directory: PathBuf,
    shown: String,
    file: File,
}

impl Spill for SpillFile {
    fn append(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.file
            .write_all(bytes)
            .map_err(failed("write a file in", &self.directory))
    }

    fn read(&self, offset: u64, length: usize) -> Result<Vec<u8>, Error> {
        let mut bytes = vec![0; length];
        read_exact_at(&self.file, &mut bytes, offset).map_err(failed("read", &self.directory))?;
        Ok(bytes)
    }

    fn name(&self) -> &str {
        &self.shown
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
        Directory::new(parent.to_owned())
    }

    fn names(parent: &Path) -> Vec<String> {
        let entries = fs::read_dir(parent).unwrap();
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    #[test]
    fn files_have_no_names_and_belong_to_their_process() {
        let parent = tempfile::tempdir().unwrap();
        let below = parent.path().join("made/when/needed");
        let disk = directory(&below);
        assert!(names(parent.path()).is_empty(), "nothing is created yet");
        let mut file = disk.create().unwrap();
        file.append(b"one").unwrap();
        file.append(b"two").unwrap();
        assert_eq!(file.read(2, 3).unwrap(), b"etw");
        assert!(names(&below).is_empty());
        fs::remove_dir_all(parent.path().join("made")).unwrap();
        assert!(disk.create().is_ok(), "the directory is made again");
    }

    #[cfg(unix)]
    #[test]
    fn files_are_readable_by_their_owner_alone() {
        use std::os::unix::fs::MetadataExt;
        let parent = tempfile::tempdir().unwrap();
        let disk = directory(parent.path());
        let descriptors = || -> Vec<fs::Metadata> {
            let all = fs::read_dir("/proc/self/fd").unwrap();
            let ours = all.filter_map(|entry| {
                let path = entry.unwrap().path();
                let target = fs::read_link(&path).ok()?;
                target
                    .starts_with(parent.path())
                    .then(|| fs::metadata(path).ok())?
            });
            ours.collect()
        };
        let _file = disk.create().unwrap();
        if cfg!(target_os = "linux") {
            let found = descriptors();
            assert_eq!(found.len(), 1);
            assert_eq!((found[0].mode() & 0o077, found[0].nlink()), (0, 0));
        }
    }

    /// Run again as another process, which spills and is killed.
    #[cfg(unix)]
    #[test]
    fn a_killed_process_leaves_no_files_behind() {
        use std::io::{BufRead, BufReader};
        use std::process::{Command, Stdio};
        const VICTIM: &str = "MVSINK_TEST_SPILLS_IN";
        if let Some(parent) = std::env::var_os(VICTIM) {
            let mut file = directory(Path::new(&parent)).create().unwrap();
            file.append(&[7; 100_000]).unwrap();
            eprintln!("spilled");
            loop {
                std::thread::park();
            }
        }
        let parent = tempfile::tempdir().unwrap();
        let this = concat!(module_path!(), "::a_killed_process_leaves_no_files_behind");
        let this = this.split_once("::").map_or(this, |(_, below)| below);
        let mut victim = Command::new(std::env::current_exe().unwrap())
            .args([this, "--exact", "--nocapture"])
            .env(VICTIM, parent.path())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let said = BufReader::new(victim.stderr.take().unwrap()).lines();
        let spilled = said
            .map(Result::unwrap)
            .any(|line| line.contains("spilled"));
        victim.kill().unwrap();
        victim.wait().unwrap();
        assert!(spilled);
        assert_eq!(names(parent.path()), [""; 0]);
    }

    #[test]
    fn what_killed_processes_of_earlier_versions_left_goes_and_what_a_live_one_has_stays() {
        let parent = tempfile::tempdir().unwrap();
        let folder = |name: &str| {
            let folder = parent.path().join(name);
            fs::create_dir(&folder).unwrap();
            fs::write(folder.join("0"), "rows").unwrap();
            folder
        };
        let (dead, live) = (folder("mvsink-dead"), folder("mvsink-live"));
        let (being_made, others) = (folder("mvsink-new"), folder("other"));
        fs::write(dead.join(LOCK), "").unwrap();
        fs::write(others.join(LOCK), "").unwrap();
        let lock = File::create_new(live.join(LOCK)).unwrap();
        // To a lock, another handle is another process.
        lock.try_lock().unwrap();
        directory(parent.path()).create().unwrap();
        assert!(!dead.exists() && live.exists() && being_made.exists() && others.exists());
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
        for file in &mut files {
            file.append(b"some rows").unwrap();
        }
        assert_eq!(descriptors(), files.len());
        for (offset, part) in [(5, b"rows"), (0, b"some")] {
            assert!(
                files
                    .iter()
                    .all(|file| file.read(offset, 4).unwrap() == part)
            );
        }
        assert_eq!(descriptors(), files.len());
        files.clear();
        assert_eq!(descriptors(), 0);
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
