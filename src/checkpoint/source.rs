//! The published files themselves: their formats, and their tensors' names in ours.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use safetensors::tensor::Metadata;

use super::archive::TorchFile;
use super::{Format, described, mismatch};
use crate::{Error, Result};

/// Where the backbone's tensors stand in a network's file.
pub(super) const BACKBONE: &str = "segmentor.backbone.dinov2.";

/// Last parts of the names that only training needs: the mixtures' memory (778 MB in a published
/// file, skipped unread), counters, and the token for masked patches.
const DROPPED: [&str; 6] =
    ["queue", "queue_ptr", "eye_matrix", "iteration_counter", "mask_token", "num_batches_tracked"];

/// Hugging Face's names (`Dinov2Model`, `Dinov2WithRegistersModel`) and Meta's.
const HUGGING_FACE: [(&str, &str); 13] = [
    ("embeddings.patch_embeddings.projection.", "patch_embed.proj."),
    ("embeddings.position_embeddings", "pos_embed"),
    ("embeddings.cls_token", "cls_token"),
    ("embeddings.register_tokens", "register_tokens"),
    ("embeddings.mask_token", "mask_token"),
    ("encoder.layer.", "blocks."),
    (".attention.attention.", ".attn.qkv."),
    (".attention.output.dense.", ".attn.proj."),
    (".layer_scale1.lambda1", ".ls1.gamma"),
    (".layer_scale2.lambda1", ".ls2.gamma"),
    (".mlp.weights_in.", ".mlp.w12."),
    (".mlp.weights_out.", ".mlp.w3."),
    ("layernorm.", "norm."),
];

/// Who wrote a file, by the place of its class token; in this order a pair is segmentor, UEM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Layout {
    Meta,
    HuggingFace,
    Segmentor,
    Uem,
}

impl Layout {
    fn of(key: &str) -> Option<Self> {
        match key {
            "cls_token" => Some(Self::Meta),
            "backbone.dinov2.cls_token" => Some(Self::Segmentor),
            "segmentor.backbone.dinov2.cls_token" => Some(Self::Uem),
            _ if key.ends_with("embeddings.cls_token") => Some(Self::HuggingFace),
            _ => None,
        }
    }

    /// Our name of a tensor, and the place of this one where several of theirs make one of ours.
    fn ours(self, key: &str) -> (String, usize) {
        match self {
            Self::Meta => (format!("{BACKBONE}{key}"), 0),
            Self::Segmentor => (format!("segmentor.{key}"), 0),
            Self::Uem => (key.into(), 0),
            Self::HuggingFace => {
                let bare = key.strip_prefix("dinov2_with_registers.");
                let bare = bare.or_else(|| key.strip_prefix("dinov2.")).unwrap_or(key);
                let ours = HUGGING_FACE
                    .iter()
                    .fold(bare.to_string(), |key, (theirs, ours)| key.replace(theirs, ours));
                let parts = ["query", "key", "value"].iter().enumerate();
                let part = parts.map(|(at, part)| (at, format!(".attn.qkv.{part}.")));
                let part = part.into_iter().find(|(_, part)| ours.contains(part.as_str()));
                let (at, ours) = match part {
                    Some((at, part)) => (at, ours.replace(&part, ".attn.qkv.")),
                    None => (0, ours),
                };
                (format!("{BACKBONE}{ours}"), at)
            }
        }
    }
}

/// A tensor of ours: where it comes from and what it is.
pub(super) struct Piece {
    /// Their names; more than one are stacked along the first axis.
    pub(super) keys: Vec<String>,
    pub(super) dtype: String,
    pub(super) shape: Vec<i64>,
}

/// A published file: its index in memory.
pub(super) struct Source {
    pub(super) path: PathBuf,
    pub(super) layout: Layout,
    pub(super) data: Data,
    /// By our names.
    pub(super) pieces: BTreeMap<String, Piece>,
    pub(super) dropped: usize,
}

pub(super) enum Data {
    Torch(Box<TorchFile>),
    Safetensors { bytes: Vec<u8>, start: usize, index: Metadata },
}

impl Data {
    fn open(path: &Path) -> Result<Self> {
        let mut first = Vec::new();
        let file = File::open(path).map_err(Error::io(path))?;
        file.take(9).read_to_end(&mut first).map_err(Error::io(path))?;
        match Format::of(&first) {
            Format::Zip => TorchFile::open(path).map(|file| Self::Torch(Box::new(file))),
            Format::Pickle => {
                let problem = "is in torch's legacy format (before 1.6), which is not read; in Python: \
                    torch.save(torch.load(FILE, weights_only=True), NEW)";
                Err(Error::bad_file(path, problem))
            }
            Format::Safetensors => {
                let bytes = fs::read(path).map_err(Error::io(path))?;
                let (header, index) = SafeTensors::read_metadata(&bytes).map_err(|error| {
                    let problem =
                        format!("neither a torch zip nor a whole safetensors file: {error}");
                    Error::bad_file(path, problem)
                })?;
                Ok(Self::Safetensors { bytes, start: 8 + header, index })
            }
        }
    }

    /// Name, type and shape of every tensor.
    fn tensors(&self) -> Vec<(String, String, Vec<i64>)> {
        let shape = |shape: &[usize]| {
            shape.iter().map(|&n| i64::try_from(n).unwrap_or(i64::MAX)).collect::<Vec<_>>()
        };
        match self {
            Self::Torch(file) => {
                let entries = file.tensors.iter();
                entries
                    .map(|(key, entry)| {
                        (key.clone(), format!("{:?}", entry.element), shape(&entry.shape))
                    })
                    .collect()
            }
            Self::Safetensors { index, .. } => {
                let infos = index.tensors().into_iter();
                infos
                    .map(|(key, info)| (key, format!("{:?}", info.dtype), shape(&info.shape)))
                    .collect()
            }
        }
    }

    /// The bytes of a tensor, row-major.
    pub(super) fn read(&mut self, path: &Path, key: &str) -> Result<Vec<u8>> {
        let missing = || mismatch(path, key, "missing", "a tensor");
        match self {
            Self::Torch(file) => {
                let entry = file.tensors.get(key).cloned().ok_or_else(missing)?;
                file.read(&entry)
            }
            Self::Safetensors { bytes, start, index } => {
                let (from, to) = index.info(key).ok_or_else(missing)?.data_offsets;
                Ok(bytes[*start + from..*start + to].to_vec())
            }
        }
    }
}

impl Source {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let data = Data::open(path)?;
        let mut tensors = data.tensors();
        tensors.sort();
        let layout = tensors.iter().find_map(|(key, ..)| Layout::of(key)).ok_or_else(|| {
            let some: Vec<_> = tensors.iter().take(3).map(|(key, ..)| key.as_str()).collect();
            let problem = format!(
                "has no class token under any of the names known (Meta, Hugging Face, a segmentor, a \
                 UEM); it starts with {}",
                some.join(", ")
            );
            Error::bad_file(path, problem)
        })?;
        let (mut parts, mut dropped) = (BTreeMap::<_, Vec<_>>::new(), 0);
        for (key, dtype, shape) in tensors {
            let (ours, part) = layout.ours(&key);
            if DROPPED.contains(&ours.rsplit('.').next().unwrap_or_default()) {
                dropped += 1;
            } else {
                parts.entry(ours).or_default().push((part, key, dtype, shape));
            }
        }
        let pieces = parts.into_iter().map(|(ours, parts)| Ok((ours, stacked(path, parts)?)));
        let pieces = pieces.collect::<Result<_>>()?;
        let file = Self { path: path.into(), layout, data, pieces, dropped };
        // A storage may lie under many tensors; what they claim together must be there.
        if file.kept_bytes() > size(path)? {
            let problem =
                format!("its tensors claim {} bytes, it has {}", file.kept_bytes(), size(path)?);
            return Err(Error::bad_file(path, problem));
        }
        Ok(file)
    }

    /// Bytes of the tensors that are used.
    pub(super) fn kept_bytes(&self) -> u64 {
        let numel = |piece: &Piece| {
            piece.shape.iter().fold(4u64, |bytes, &n| bytes.saturating_mul(n.unsigned_abs()))
        };
        self.pieces.values().map(numel).fold(0, u64::saturating_add)
    }

    /// The size of an axis of a tensor by our name.
    pub(super) fn axis(&self, name: &str, axis: usize) -> Result<i64> {
        let piece = self.pieces.get(name);
        let piece = piece.ok_or_else(|| mismatch(&self.path, name, "missing", "a tensor"))?;
        let expected = format!("{} axes or more", axis + 1);
        let found = described(&piece.dtype, &piece.shape);
        piece.shape.get(axis).copied().ok_or_else(|| mismatch(&self.path, name, found, expected))
    }

    /// A list of the hyper-parameters, where the file is a Lightning checkpoint and has it.
    pub(super) fn hyper<const N: usize>(
        &self,
        pick: impl Fn(&TorchFile) -> &Option<Vec<i64>>,
    ) -> Option<[i64; N]> {
        match &self.data {
            Data::Torch(file) => pick(file).as_deref()?.try_into().ok(),
            Data::Safetensors { .. } => None,
        }
    }
}

/// One tensor of ours of parts of theirs: `(place, key, type, shape)` each.
fn stacked(path: &Path, mut parts: Vec<(usize, String, String, Vec<i64>)>) -> Result<Piece> {
    parts.sort();
    let (_, first, dtype, mut shape) = parts[0].clone();
    for (_, key, other, more) in &parts[1..] {
        if *other != dtype || more.len() != shape.len() || more.get(1..) != shape.get(1..) {
            let expected = format!("{} as `{first}`", described(&dtype, &shape));
            return Err(mismatch(path, key, described(other, more), expected));
        }
        if let (Some(rows), Some(more)) = (shape.first_mut(), more.first()) {
            *rows = rows.saturating_add(*more);
        }
    }
    Ok(Piece { keys: parts.into_iter().map(|part| part.1).collect(), dtype, shape })
}

/// Length of a file in bytes.
pub(super) fn size(path: &Path) -> Result<u64> {
    Ok(fs::metadata(path).map_err(Error::io(path))?.len())
}
