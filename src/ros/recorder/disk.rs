//! Room for bags: on the disk, and among the bags.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Share of the disk that stays free.
const FREE: u64 = 20; // a twentieth
/// How long a look at the disk is good for.
const LOOK: Duration = Duration::from_secs(1);

/// The disk that a folder is on.
pub(super) struct Disk {
    folder: PathBuf,
    looked: Option<Instant>,
    /// Bytes that may be written before the next look.
    left: u64,
}

impl Disk {
    pub(super) fn of(folder: PathBuf) -> Self {
        Self { folder, looked: None, left: 0 }
    }

    /// Whether `bytes` more leave the share free; looked up once a second, and sooner when so much was
    /// written since that it could be otherwise.
    pub(super) fn takes(&mut self, bytes: u64) -> bool {
        if self.left < bytes || self.looked.is_none_or(|looked| looked.elapsed() >= LOOK) {
            self.looked = Some(Instant::now());
            // A disk that does not say is found out by the first write that fails.
            let disk = rustix::fs::statvfs(&self.folder);
            self.left = disk.map_or(u64::MAX, |disk| {
                disk.f_bavail.saturating_sub(disk.f_blocks / FREE).saturating_mul(disk.f_frsize)
            });
        }
        let fits = bytes < self.left;
        self.left = self.left.saturating_sub(bytes);
        fits
    }
}

/// Removes the oldest of the folders whose names begin with `prefix` until all together are within
/// `max_bytes`.
pub(super) fn make_room(directory: &Path, prefix: &str, max_bytes: u64) {
    let mut bags: Vec<_> = std::fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
        .map(|entry| (entry.path(), size(&entry.path())))
        .collect();
    bags.sort();
    let mut total: u64 = bags.iter().map(|(_, bytes)| bytes).sum();
    for (path, bytes) in bags {
        if total <= max_bytes {
            return;
        }
        match std::fs::remove_dir_all(&path) {
            Ok(()) => total -= bytes,
            Err(error) => log::warn!("{}: {error}", path.display()),
        }
    }
}

/// Bytes of the files in a folder.
fn size(folder: &Path) -> u64 {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    files.filter_map(|file| Some(file.metadata().ok()?.len())).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_counts_until_the_next_look() {
        let mut disk = Disk::of(std::env::temp_dir());
        assert!(disk.takes(1));
        (disk.looked, disk.left) = (Some(Instant::now()), 100);
        assert!(disk.takes(60) && disk.left == 40, "no look");
        assert!(disk.takes(60) && disk.left > 40, "looked up again: there is more room");
        assert!(!disk.takes(u64::MAX));
    }

    #[test]
    fn the_oldest_go_first_and_what_is_not_a_bag_stays() {
        let folder = tempfile::tempdir().unwrap();
        for (name, bytes) in [("bag_1", 60), ("bag_2", 50), ("bag_3", 40), ("notes", 500)] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
            std::fs::write(folder.path().join(name).join("x"), vec![0; bytes]).unwrap();
        }
        let left = |max| {
            make_room(folder.path(), "bag_", max);
            let entries = std::fs::read_dir(folder.path()).unwrap();
            let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
            let mut names: Vec<_> = names.collect();
            names.sort();
            names
        };
        assert_eq!(left(150), ["bag_1", "bag_2", "bag_3", "notes"]);
        assert_eq!(left(149), ["bag_2", "bag_3", "notes"]);
        assert_eq!(left(40), ["bag_3", "notes"]);
    }
}
