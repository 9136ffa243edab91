//! Files for what memory has no room for.

use std::fs::File;
use std::io;
use std::path::Path;

/// Creates a file without a name on the disk that has this directory. Only its owner can read it, and the system deletes
/// it with the process, however that ends.
///
/// # Errors
///
/// If the directory does not exist, or the process cannot create files in it.
pub fn unnamed_file(directory: &Path) -> io::Result<File> {
    let file = tempfile::tempfile_in(directory)?;
    // Without a name it has the permissions that the process's mask leaves.
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
    }
    Ok(file)
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn an_unnamed_file_is_readable_by_its_owner_alone() {
        let directory = tempfile::tempdir().unwrap();
        let file = unnamed_file(directory.path()).unwrap().metadata().unwrap();
        assert_eq!((file.mode() & 0o077, file.nlink()), (0, 0));
    }
}
