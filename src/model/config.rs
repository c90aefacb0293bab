//! [`ModelConfig`]: the shape of the network, as the sidecar beside the weights states it.
//!
//! The checkpoint describes itself: no parameter of the node can disagree with its weights.

use serde::{Deserialize, Serialize};

use crate::config::ClassTable;

/// The sidecar `<weights>.yaml`, key for key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// Version of this file's layout; this code reads [`ModelConfig::FORMAT`].
    pub format: u32,
    /// Name of the architecture, such as `vitb14_reg`; for people, the numbers below decide.
    pub architecture: String,
    /// The ViT.
    pub backbone: BackboneConfig,
    /// The FPN decoder.
    pub decoder: DecoderConfig,
    /// The inlier classifier on the decoder's map.
    pub head: HeadConfig,
    /// The Unknown Estimation Module; `null` in a segmentor's file.
    pub uem: Option<UemConfig>,
    /// Height and width in pixels of the window the network was trained on; multiples of `patch_size`.
    pub window: [i64; 2],
    /// One row per inlier class, in the order of the logits.
    pub classes: ClassTable,
    /// Where the weights came from.
    pub source: Source,
    /// SHA-256 of the safetensors file beside this one, lower-case hex.
    pub sha256: String,
}

/// DINOv2 vision transformer (model.md 1).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackboneConfig {
    /// Width of a token.
    pub embed_dim: i64,
    /// Number of blocks.
    pub depth: i64,
    /// Attention heads; divides `embed_dim`.
    pub num_heads: i64,
    /// Side of a patch in pixels.
    pub patch_size: i64,
    /// Register tokens between the class token and the patches, 0 or 4 in the published models.
    pub num_register_tokens: i64,
    /// Side of the stored position-embedding grid.
    pub pos_grid: i64,
    /// How the position embedding is brought to another grid.
    pub pos_embed: PosEmbed,
    /// The feed-forward layer.
    pub ffn: Ffn,
    /// Indices of the four blocks whose normalised outputs feed the decoder.
    pub taps: [i64; 4],
}

/// The two rules by which DINOv2 resizes its position embedding (model.md 1.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PosEmbed {
    /// `_reg` models: antialiased bicubic to an output size.
    Antialias,
    /// Plain models: bicubic with the scale factors `(n + 0.1) / grid`.
    Offset,
}

/// The feed-forward layer of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ffn {
    /// `fc1`, GELU, `fc2`, hidden width `4 * embed_dim`.
    Mlp,
    /// `w12`, SiLU gate, `w3`; hidden width `embed_dim * 8 / 3` rounded up to a multiple of 8 (ViT-g).
    Swiglu,
}

/// The FPN decoder (model.md 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DecoderConfig {
    /// Channels of the map handed to the classifier.
    pub channels: i64,
    /// Hidden width of `dino_mlp`.
    pub mlp_hidden: i64,
}

/// A classifier on a map of features, for the inlier head and for the UEM's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum HeadConfig {
    /// One linear layer per pixel ("D", discriminative).
    Linear {
        /// Number of classes.
        num_classes: i64,
    },
    /// GMMSeg's Gaussian mixtures ("G", generative).
    Gmm {
        /// Number of classes.
        num_classes: i64,
        /// Gaussians per class.
        num_components: i64,
    },
}

impl HeadConfig {
    /// Number of classes `k`.
    pub fn num_classes(&self) -> i64 {
        match *self {
            Self::Linear { num_classes } | Self::Gmm { num_classes, .. } => num_classes,
        }
    }

    /// The letter of the published variant names: `D` or `G`.
    pub fn letter(&self) -> char {
        match self {
            Self::Linear { .. } => 'd',
            Self::Gmm { .. } => 'g',
        }
    }
}

/// The Unknown Estimation Module (model.md 5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UemConfig {
    /// Width of the two hidden layers of `ood_projector`.
    pub hidden: i64,
    /// Channels handed to the UEM's head.
    pub channels: i64,
    /// The head; two classes: 0 inlier, 1 outlier.
    pub head: HeadConfig,
}

/// Where a weights file came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// `init` (random), `convert`, `train-segmentor` or `train-uem`.
    pub tool: String,
    /// The files read, without folders, or the seed.
    pub from: Vec<SourceFile>,
}

/// One file that went into the weights.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceFile {
    /// File name, or `seed 0`.
    pub name: String,
    /// SHA-256 in lower-case hex; empty for a seed.
    pub sha256: String,
}

impl ModelConfig {
    /// Layout version that this code writes and reads.
    pub const FORMAT: u32 = 1;

    /// `d-d`, `g-d`, `g-g` (inlier head, UEM head), or `d`, `g` for a segmentor alone.
    pub fn variant(&self) -> String {
        match &self.uem {
            Some(uem) => format!("{}-{}", self.head.letter(), uem.head.letter()),
            None => self.head.letter().to_string(),
        }
    }
}
