//! One file of a bag: its kind by its first bytes, zstd around it taken off, its messages in order.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Seek};
use std::path::Path;

use super::mcap::McapFile;
use super::sqlite3::SqliteFile;
use super::{Message, Topic};
use crate::{Error, Result};

/// First bytes of a zstd frame (RFC 8878).
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
/// First bytes of an SQLite database.
const SQLITE: &[u8] = b"SQLite format 3\0";

/// Largest file taken out of its compression, bytes. Larger recordings are split by their recorder.
const MAX_FILE: u64 = 64 << 30;
/// Largest message or chunk, bytes: three hundred 1080p pictures.
pub(super) const MAX_MESSAGE: u64 = 1 << 31;

/// Messages of one file in log-time order.
pub(super) type Stream = Box<dyn Iterator<Item = Result<Message>>>;

/// What a file holds.
pub(super) struct Summary {
    /// Topics in the file's order; a name may come several times.
    pub(super) topics: Vec<Topic>,
    /// Log times of the first and the last message, ns; `None` without messages.
    pub(super) span: Option<(u64, u64)>,
}

/// Which messages.
pub(super) struct Selection {
    /// Names of topics.
    pub(super) topics: BTreeSet<String>,
    /// Earliest log time, ns.
    pub(super) start_ns: u64,
}

/// One open file.
pub(super) enum Storage {
    Mcap(McapFile),
    Sqlite3(SqliteFile),
}

impl Storage {
    /// Opens a file of a bag, whatever it is called.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let mut file = File::open(path).map_err(Error::io(path))?;
        if file.metadata().map_err(Error::io(path))?.is_dir() {
            return Err(Error::bad_file(path, "a folder, expected an mcap or sqlite3 file"));
        }
        let mut magic = start(path, &mut file)?;
        if !magic.starts_with(ZSTD) {
            return Self::open_plain(path, path, file, &magic);
        }
        let mut plain = decompress(path, file, MAX_FILE)?;
        magic = start(path, plain.as_file_mut())?;
        let file = plain.reopen().map_err(Error::io(path))?;
        // The open file or database outlives its name, which goes with `plain`.
        Self::open_plain(path, plain.path(), file, &magic)
    }

    /// `at` is where the bytes are, `path` what the user calls them.
    fn open_plain(path: &Path, at: &Path, file: File, magic: &[u8]) -> Result<Self> {
        if magic.starts_with(::mcap::MAGIC) {
            Ok(Self::Mcap(McapFile::open(path, file)?))
        } else if magic.starts_with(SQLITE) {
            Ok(Self::Sqlite3(SqliteFile::open(path, at)?))
        } else {
            let problem = format!("starts with {magic:02x?}, which is neither mcap nor sqlite3");
            Err(Error::bad_file(path, problem))
        }
    }

    /// What rosbag2 calls this storage.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Mcap(_) => "mcap",
            Self::Sqlite3(_) => "sqlite3",
        }
    }

    /// What is in it.
    pub(super) fn summary(&self) -> &Summary {
        match self {
            Self::Mcap(file) => &file.summary,
            Self::Sqlite3(file) => &file.summary,
        }
    }

    /// The chosen messages.
    pub(super) fn messages(self, chosen: &Selection) -> Result<Stream> {
        Ok(match self {
            Self::Mcap(file) => file.messages(chosen)?,
            Self::Sqlite3(file) => file.messages(chosen)?,
        })
    }
}

/// The first 16 bytes, fewer of a shorter file; leaves it rewound.
fn start(path: &Path, file: &mut File) -> Result<Vec<u8>> {
    let mut magic = Vec::new();
    file.by_ref().take(16).read_to_end(&mut magic).map_err(Error::io(path))?;
    file.rewind().map_err(Error::io(path))?;
    Ok(magic)
}

/// A compressed file's content in a temporary file, at most `limit` bytes.
fn decompress(path: &Path, file: File, limit: u64) -> Result<tempfile::NamedTempFile> {
    let temporary = std::env::temp_dir();
    let mut plain = tempfile::NamedTempFile::new().map_err(Error::io(&temporary))?;
    let corrupt = |error: std::io::Error| Error::bad_file(path, format!("zstd: {error}"));
    let decoder = zstd::Decoder::new(file).map_err(corrupt)?;
    let length = std::io::copy(&mut decoder.take(limit + 1), plain.as_file_mut());
    if length.map_err(corrupt)? > limit {
        let problem = format!("more than {limit} bytes when decompressed, the limit; zstd -d it");
        return Err(Error::bad_file(path, problem));
    }
    plain.as_file_mut().rewind().map_err(Error::io(path))?;
    Ok(plain)
}

/// Takes the zstd frame off a message. A CDR payload starts with 0x00, so the two cannot be mixed up.
pub(super) fn decompress_message(data: Vec<u8>, must: bool) -> Result<Vec<u8>, std::io::Error> {
    if !must && !data.starts_with(ZSTD) {
        return Ok(data);
    }
    let mut plain = Vec::new();
    let mut decoder = zstd::Decoder::new(&data[..])?.take(MAX_MESSAGE + 1);
    decoder.read_to_end(&mut plain)?;
    if plain.len() as u64 > MAX_MESSAGE {
        let problem = format!("more than {MAX_MESSAGE} bytes when decompressed, the limit");
        return Err(std::io::Error::other(problem));
    }
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_grows_beyond_the_limit_is_refused_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.db3.zstd");
        std::fs::write(&path, zstd::encode_all(&[0_u8; 4096][..], 0).unwrap()).unwrap();
        let open = |limit| decompress(&path, File::open(&path).unwrap(), limit);
        assert_eq!(open(4096).unwrap().as_file().metadata().unwrap().len(), 4096);
        assert!(open(4095).unwrap_err().chain().contains("more than 4095 bytes"));
    }

    #[test]
    fn a_compressed_message_is_recognised_and_a_corrupt_one_refused() {
        let plain = vec![0, 1, 0, 0, 7];
        let packed = zstd::encode_all(&plain[..], 0).unwrap();
        assert_eq!(decompress_message(plain.clone(), false).unwrap(), plain);
        assert_eq!(decompress_message(packed.clone(), false).unwrap(), plain);
        assert!(decompress_message(plain, true).is_err());
        assert!(decompress_message(packed[..packed.len() - 1].to_vec(), true).is_err());
    }
}
