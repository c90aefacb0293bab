//! Torch's zip archives: an index from the pickle inside, tensors read on demand.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use zip::{CompressionMethod, ZipArchive};

use super::pickle::Machine;
use crate::{Error, Result};

/// The longest pickle read, in bytes; the longest published one is below 1 MB.
const MAX_PICKLE: u64 = 64 << 20;

/// Element type of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Element {
    F32,
    I64,
}

impl Element {
    fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::I64 => 8,
        }
    }
}

/// A tensor by reference: where its elements lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) element: Element,
    pub(super) shape: Vec<usize>,
    pub(super) strides: Vec<usize>,
    pub(super) offset: usize,
    /// Name of the storage in the archive.
    pub(super) storage: String,
    pub(super) storage_len: usize,
}

impl Entry {
    /// Every element lies inside the storage, and none is there twice (which would let a small file
    /// ask for any amount of memory).
    pub(super) fn validate(&self) -> Result<(), String> {
        let Self { shape, strides, offset, storage_len, .. } = self;
        let rank = shape.len() == strides.len() && shape.len() <= 8;
        let inside = |numel| match numel {
            0 => offset <= storage_len,
            _ => numel <= *storage_len && self.last().is_some_and(|last| last < *storage_len),
        };
        if rank && self.numel().is_some_and(inside) {
            return Ok(());
        }
        Err(format!(
            "its pickle has a tensor of shape {shape:?}, strides {strides:?} and offset {offset} on a \
             storage of {storage_len} elements"
        ))
    }

    fn numel(&self) -> Option<usize> {
        self.shape.iter().try_fold(1usize, |product, &n| product.checked_mul(n))
    }

    /// Index of the last element in the storage; `None` where the sum overflows.
    fn last(&self) -> Option<usize> {
        let steps = self.shape.iter().zip(&self.strides);
        let mut steps = steps.map(|(&n, &stride)| n.saturating_sub(1).checked_mul(stride));
        steps.try_fold(self.offset, |sum, step| sum.checked_add(step?))
    }

    /// Whether the elements lie in row-major order without gaps.
    fn is_contiguous(&self) -> bool {
        let mut step = 1;
        self.shape.iter().zip(&self.strides).rev().all(|(&n, &stride)| {
            let follows = n == 1 || stride == step;
            step *= n;
            follows
        })
    }

    /// The elements of this tensor in row-major order, out of its storage.
    fn gather(&self, storage: &[u8]) -> Vec<u8> {
        let size = self.element.bytes();
        let numel = self.numel().unwrap_or(0);
        if self.is_contiguous() {
            return storage[self.offset * size..][..numel * size].to_vec();
        }
        let mut bytes = Vec::with_capacity(numel * size);
        for index in 0..numel {
            let (mut rest, mut at) = (index, self.offset);
            for (&n, &stride) in self.shape.iter().zip(&self.strides).rev() {
                at += rest % n * stride;
                rest /= n;
            }
            bytes.extend_from_slice(&storage[at * size..][..size]);
        }
        bytes
    }
}

/// A file of `torch.save` (since torch 1.6: a zip archive): its index in memory, its tensors on disk.
pub(super) struct TorchFile {
    path: PathBuf,
    archive: ZipArchive<BufReader<File>>,
    /// Name of the archive's one folder, with its slash.
    folder: String,
    /// The storage read last: tensors may share one.
    storage: Option<(String, Vec<u8>)>,
    /// Every tensor of the state dict.
    pub(super) tensors: BTreeMap<String, Entry>,
    /// `MODEL.BACKBONE.INTERM_FEATURES` of a Lightning checkpoint of the authors.
    pub(super) taps: Option<Vec<i64>>,
    /// `SOLVER.EVAL_WINDOW_SIZE`, height and width.
    pub(super) window: Option<Vec<i64>>,
}

impl TorchFile {
    /// Reads the index.
    ///
    /// # Errors
    /// A damaged archive, a pickle outside the allowed, tensors outside their storages.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let bad = |problem: String| Error::bad_file(path, problem);
        let file = File::open(path).map_err(Error::io(path))?;
        let archive = ZipArchive::new(BufReader::new(file)).map_err(|error| {
            bad(format!("not a whole zip file, which torch.save writes: {error}"))
        })?;
        let folders = archive.file_names().filter_map(|name| name.strip_suffix("data.pkl"));
        let folder = folders.filter(|folder| folder.ends_with('/')).min().map(str::to_string);
        let folder =
            folder.ok_or_else(|| bad("a zip file without data.pkl, not torch's".into()))?;
        let mut torch = Self {
            path: path.into(),
            archive,
            folder,
            storage: None,
            tensors: BTreeMap::new(),
            taps: None,
            window: None,
        };
        if torch.archive.file_names().any(|name| name == format!("{}byteorder", torch.folder))
            && torch.member("byteorder", 16)? != b"little"
        {
            return Err(bad("written on a big-endian machine; only little-endian is read".into()));
        }
        let pickle = torch.member("data.pkl", MAX_PICKLE)?;
        let (machine, root) = Machine::run(&pickle).map_err(bad)?;
        torch.tensors = machine.state_dict(root).map_err(bad)?;
        torch.taps = machine.setting(root, &["MODEL", "BACKBONE", "INTERM_FEATURES"]);
        torch.window = machine.setting(root, &["SOLVER", "EVAL_WINDOW_SIZE"]);
        Ok(torch)
    }

    /// The bytes of a tensor, row-major, little-endian.
    ///
    /// # Errors
    /// A storage that is missing, compressed, of another length, or whose checksum is wrong.
    pub(super) fn read(&mut self, tensor: &Entry) -> Result<Vec<u8>> {
        if self.storage.as_ref().is_none_or(|(key, _)| *key != tensor.storage) {
            self.storage = None;
            let expected = tensor.storage_len.saturating_mul(tensor.element.bytes());
            let bytes = self.member(&format!("data/{}", tensor.storage), expected as u64)?;
            if bytes.len() != expected {
                let problem = format!(
                    "data/{} has {} bytes, its pickle says {expected}",
                    tensor.storage,
                    bytes.len()
                );
                return Err(Error::bad_file(&self.path, problem));
            }
            self.storage = Some((tensor.storage.clone(), bytes));
        }
        Ok(self.storage.as_ref().map_or_else(Vec::new, |(_, bytes)| tensor.gather(bytes)))
    }

    /// A file of the archive, checksum verified, at most `limit` bytes.
    fn member(&mut self, name: &str, limit: u64) -> Result<Vec<u8>> {
        let bad = |problem: String| Error::bad_file(&self.path, format!("{name}: {problem}"));
        let total = std::fs::metadata(&self.path).map_err(Error::io(&self.path))?.len();
        let mut member = self
            .archive
            .by_name(&format!("{}{name}", self.folder))
            .map_err(|error| bad(error.to_string()))?;
        let size = member.size();
        if member.compression() != CompressionMethod::Stored || size > total || size > limit {
            return Err(bad(format!(
                "{size} bytes, {}; expected at most {} bytes, stored",
                member.compression(),
                limit.min(total)
            )));
        }
        let mut bytes = Vec::new();
        member.read_to_end(&mut bytes).map_err(|error| bad(error.to_string()))?;
        Ok(bytes)
    }
}
