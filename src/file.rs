//! Files that appear whole or not at all.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use crate::{Error, Result};

/// Writes `path` through a temporary file beside it, renamed when everything is on disk; an error or
/// an interrupted run leaves the old file, or none. Missing folders are made.
///
/// # Errors
/// [`Error::Io`] with the path: a full disk, no permission, a folder in the way.
pub fn write(
    path: &Path,
    content: impl FnOnce(&mut BufWriter<File>) -> std::io::Result<()>,
) -> Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    fs::create_dir_all(folder.unwrap_or(Path::new("."))).map_err(Error::io(path))?;
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}.part", std::process::id()));
    let part = path.with_file_name(name);
    let written = File::create(&part).and_then(|file| {
        let mut buffer = BufWriter::new(file);
        content(&mut buffer)?;
        buffer.flush()?;
        buffer.get_ref().sync_all()?;
        fs::rename(&part, path)
    });
    written.map_err(|error| {
        if let Err(left) = fs::remove_file(&part) {
            log::debug!("{}: {left}", part.display());
        }
        Error::io(path)(error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_the_old_file_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/a.txt");
        write(&path, |file| file.write_all(b"old")).unwrap();
        let full = |file: &mut BufWriter<File>| {
            file.write_all(b"half")?;
            Err(std::io::Error::other("no space left on device"))
        };
        let error = write(&path, full).unwrap_err().chain();
        assert!(error.contains("a.txt") && error.contains("no space left"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(folder.path().join("deep")).unwrap().count(), 1);
    }
}
