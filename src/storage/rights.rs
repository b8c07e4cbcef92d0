//! Who may look into a data directory: nobody but its owner, whatever the umask says and whoever
//! made it.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{
    DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
};
use std::path::Path;

use super::error::StorageError;
use crate::planted::{Mistake, planted};

const FILE: u32 = 0o600;
const DIRECTORY: u32 = 0o700;
/// Whom no program can keep something from. Volumes of Kubernetes belong to it too, and to the
/// group of the pod: nobody else has them mounted.
const ROOT: u32 = 0;

/// Makes a directory of mode 0700, and those above it that are missing.
pub fn make_private_dir(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(above) = path.parent().filter(|above| !above.as_os_str().is_empty()) {
        make_private_dir(above)?;
    }
    if planted(Mistake::DirectoriesForAll) {
        return fs::create_dir(path);
    }
    match DirBuilder::new().mode(DIRECTORY).create(path) {
        // The umask may have taken too much.
        Ok(()) => fs::set_permissions(path, Permissions::from_mode(DIRECTORY)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(error) => Err(error),
    }
}

/// Opens a file for reading and writing; a new one has mode 0600.
pub fn open_private(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    if planted(Mistake::FilesForAll) {
        return options.read(true).write(true).open(path);
    }
    let file = options.read(true).write(true).mode(FILE).open(path)?;
    // A umask can take the owner's rights too, and an old file may have more.
    if file.metadata()?.mode() & 0o777 != FILE {
        file.set_permissions(Permissions::from_mode(FILE))?;
    }
    Ok(file)
}

/// Writes a small file of mode 0600 whole.
pub fn write_private(path: &Path, text: &str) -> io::Result<()> {
    use std::io::Write as _;
    open_private(path, OpenOptions::new().create(true).truncate(true))?.write_all(text.as_bytes())
}

/// Takes the rights of others to a directory away. One that belongs to somebody else, who could
/// change what lies in it, is refused.
pub fn tighten_dir(path: &Path) -> Result<(), StorageError> {
    let mode = || fs::metadata(path).map(|seen| (seen.mode() & 0o777, seen.uid()));
    let read = |error| StorageError::io("look at", path, error);
    let (before, owner) = mode().map_err(read)?;
    if before & 0o077 == 0 || planted(Mistake::RightsLeft) {
        return Ok(());
    }
    // Some file systems take the change, and nothing comes of it.
    let _ = fs::set_permissions(path, Permissions::from_mode(DIRECTORY));
    let (after, _) = mode().map_err(read)?;
    let (shown, was) = (path.display(), format!("{before:03o}"));
    if after & 0o077 == 0 {
        tracing::warn!(path = %shown, was, "others could look into the data directory: its rights \
            were taken back");
    } else if owner == ROOT {
        tracing::warn!(path = %shown, mode = was, "the data directory belongs to root, and more \
            users than this one have rights to it: nobody else must reach that volume");
    } else {
        return Err(StorageError::Exposed { path: path.to_owned(), mode: after });
    }
    Ok(())
}

/// The same for the files in a directory that this peer has made. The key is not among them: one
/// that others could read is not to be used any more, and whoever reads it says so.
pub fn tighten_files(dir: &Path, is_ours: impl Fn(&str) -> bool) -> Result<(), StorageError> {
    let list = fs::read_dir(dir).map_err(|error| StorageError::io("list", dir, error))?;
    let mut tightened = 0_usize;
    for item in list.flatten() {
        let path = item.path();
        let Ok(seen) = fs::symlink_metadata(&path) else { continue };
        let is_ours = item.file_name().to_str().is_some_and(&is_ours);
        if !is_ours || !seen.is_file() || seen.mode() & 0o177 == 0 {
            continue;
        }
        let done = fs::set_permissions(&path, Permissions::from_mode(FILE));
        done.map_err(|error| StorageError::io("take others' rights to", &path, error))?;
        tightened += 1;
    }
    if tightened > 0 {
        tracing::warn!(dir = %dir.display(), files = tightened, "others had rights to files in \
            the data directory: they were taken back");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("it is there").mode() & 0o777
    }

    #[test]
    fn what_is_made_is_private_and_what_was_open_is_tightened() {
        let root = tempfile::tempdir().expect("a directory");
        let inner = root.path().join("a/b");
        make_private_dir(&inner).expect("made");
        assert_eq!((mode(&root.path().join("a")), mode(&inner)), (0o700, 0o700));
        let file = inner.join("file");
        write_private(&file, "text").expect("written");
        assert_eq!(mode(&file), 0o600);
        for (path, wide) in [(&inner, 0o755), (&file, 0o666)] {
            fs::set_permissions(path, Permissions::from_mode(wide)).expect("it is ours");
        }
        tighten_dir(&inner).expect("it is ours");
        tighten_files(&inner, |name| name == "other").expect("nothing to do");
        assert_eq!((mode(&inner), mode(&file)), (0o700, 0o666));
        tighten_files(&inner, |name| name == "file").expect("it is ours");
        assert_eq!(mode(&file), 0o600);
        fs::set_permissions(&file, Permissions::from_mode(0o644)).expect("it is ours");
        write_private(&file, "more").expect("written");
        assert_eq!(mode(&file), 0o600);
    }
}
