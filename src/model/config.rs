//! [`ModelConfig`]: the shape of the network, as the sidecar beside the weights states it.
//!
//! The checkpoint describes itself: no parameter of the node can disagree with its weights.

use serde::{Deserialize, Serialize};

use super::Score;
use super::answer::Answer;
use super::familiar::Familiarity;
use crate::config::ClassTable;
use crate::{Error, Result};

/// The sidecar `<weights>.yaml`, key for key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// Version of this file's layout; this code reads [`ModelConfig::FORMAT`].
    pub format: u32,
    /// Name of the architecture, such as `vitb14_reg`; for people, the numbers below decide.
    pub architecture: String,
    /// What [`ModelConfig::variant`] says, for people reading the file; empty in memory.
    pub variant: String,
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
    /// What `ood_seg calibrate` found for these weights; left out until it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration: Option<Calibration>,
    /// What these weights answer to the pictures of the self-test; left out until `ood_seg check --write`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<Answer>,
}

/// An operating point found on labelled frames, and what it was found on. It holds for frames like
/// those, seen through the same windows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// The score it is about.
    pub score: Score,
    /// Windows over a frame.
    pub plan: String,
    /// Arithmetic of the network.
    pub precision: String,
    /// What the threshold was to hold, such as `tpr 0.95`: the share of anomalous pixels found, `fpr`:
    /// of normal pixels called anomalous, `missed`: a bound on the share of obstacles missed.
    pub target: String,
    /// A pixel is out of distribution when its score is above this.
    pub ood_threshold: f32,
    /// The middle 95 % of that threshold over resampled frames.
    pub interval: [f32; 2],
    /// Share of the anomalous pixels above the threshold.
    pub tpr: f64,
    /// Share of the normal pixels above it.
    pub fpr: f64,
    /// Bound on the expected share of obstacles missed in a new frame like these: guaranteed where the
    /// target is `missed`, an estimate on the safe side elsewhere. An obstacle is missed when less than
    /// half of its pixels are above the threshold.
    pub missed_obstacles: f64,
    /// The probability of a score is `1 / (1 + exp(-(score - offset) / temperature))`.
    pub temperature: f64,
    /// Score of even odds.
    pub offset: f64,
    /// Name and split of the set.
    pub dataset: String,
    /// Its labelled frames.
    pub frames: usize,
    /// Those with obstacles.
    pub frames_with_obstacles: usize,
    /// What all of them look like to the backbone; left out where they were too few to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub familiarity: Option<Familiarity>,
}

impl Calibration {
    fn validate(&self, embed_dim: i64) -> Result<()> {
        let channels = usize::try_from(2 * embed_dim).unwrap_or(0);
        self.familiarity.as_ref().map_or(Ok(()), |known| known.validate(channels))?;
        let numbers = [self.ood_threshold, self.interval[0], self.interval[1]];
        if !numbers.iter().all(|number| number.is_finite()) {
            let (key, value) = ("calibration.ood_threshold", format!("{numbers:?}"));
            return Err(Error::setting(key, &value, "finite numbers"));
        }
        let [t, o] = [self.temperature, self.offset];
        if !(t > 0.0 && t.is_finite() && o.is_finite()) {
            let (key, value) = ("calibration.temperature", format!("{t}, offset {o}"));
            return Err(Error::setting(key, &value, "a positive temperature, a finite offset"));
        }
        Ok(())
    }
}

/// DINOv2 vision transformer (facebookresearch/dinov2).
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

/// The two rules by which DINOv2 resizes its position embedding.
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

/// The FPN decoder of the paper's segmentor.
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

    /// The letter of the published variant names: `d` or `g`.
    pub fn letter(&self) -> char {
        match self {
            Self::Linear { .. } => 'd',
            Self::Gmm { .. } => 'g',
        }
    }

    fn validate(&self, key: &str) -> Result<()> {
        let (k, m) = match *self {
            Self::Linear { num_classes } => (num_classes, 1),
            Self::Gmm { num_classes, num_components } => (num_classes, num_components),
        };
        if !(2..=255).contains(&k) {
            return Err(Error::setting(format!("{key}.num_classes"), &k, "2 to 255"));
        }
        if !(1..=64).contains(&m) {
            return Err(Error::setting(format!("{key}.num_components"), &m, "1 to 64"));
        }
        Ok(())
    }
}

/// The Unknown Estimation Module (arXiv:2409.06424, section 3.4).
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
    /// `init` (random), `convert`, `train-backbone`, `train-segmentor` or `train-uem`.
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

impl BackboneConfig {
    /// Hidden width of the feed-forward layer.
    pub fn ffn_hidden(&self) -> i64 {
        match self.ffn {
            Ffn::Mlp => 4 * self.embed_dim,
            Ffn::Swiglu => (self.embed_dim * 8 / 3 + 7) / 8 * 8,
        }
    }

    /// A lower bound, within a few per cent, on the number of float32 values of its weights.
    pub fn num_weights(&self) -> i64 {
        let (d, hidden) = (self.embed_dim, self.ffn_hidden());
        let ffn = match self.ffn {
            Ffn::Mlp => 2 * d * hidden,
            Ffn::Swiglu => 3 * d * hidden,
        };
        self.depth * (4 * d * d + ffn) + d * (self.pos_grid * self.pos_grid)
    }

    /// Checks every relation between the numbers.
    ///
    /// # Errors
    /// [`Error::Setting`] naming the key.
    pub fn validate(&self) -> Result<()> {
        require(sized(self.embed_dim, 8192), "backbone.embed_dim", &self.embed_dim, "1 to 8192")?;
        require(sized(self.depth, 128), "backbone.depth", &self.depth, "1 to 128")?;
        require(
            sized(self.num_heads, self.embed_dim) && self.embed_dim % self.num_heads == 0,
            "backbone.num_heads",
            &self.num_heads,
            "a divisor of embed_dim",
        )?;
        require(sized(self.patch_size, 64), "backbone.patch_size", &self.patch_size, "1 to 64")?;
        let registers = self.num_register_tokens;
        require(
            (0..=64).contains(&registers),
            "backbone.num_register_tokens",
            &registers,
            "0 to 64",
        )?;
        require(sized(self.pos_grid, 256), "backbone.pos_grid", &self.pos_grid, "1 to 256")?;
        let rising =
            self.taps[0] >= 0 && self.taps[3] < self.depth && self.taps.is_sorted_by(|a, c| a < c);
        require(rising, "backbone.taps", &self.taps, "four rising block indices below depth")
    }

    /// The published name of these numbers, whatever the taps, or `custom`.
    pub fn architecture(&self) -> String {
        let sizes = ["vits14", "vitb14", "vitl14", "vitg14"];
        let names = sizes.iter().flat_map(|size| [size.to_string(), format!("{size}_reg")]);
        let mut names = names.chain(["demo".into(), "tiny".into()]).filter(|name| {
            Self::named(name).is_some_and(|named| Self { taps: self.taps, ..named } == *self)
        });
        names.next().unwrap_or("custom".into())
    }

    /// The published choice of taps for 12 blocks, and for the other depths a suggestion of ours.
    pub fn usual_taps(depth: i64) -> Option<[i64; 4]> {
        match depth {
            4 => Some([0, 1, 2, 3]),
            6 => Some([1, 2, 4, 5]),
            12 => Some([1, 4, 8, 11]),
            // The same shares of the depth.
            24 => Some([3, 9, 17, 23]),
            40 => Some([6, 16, 29, 39]),
            _ => None,
        }
    }

    /// A published size by name, `vits14` to `vitg14` with or without `_reg`, or `demo` or `tiny`.
    fn named(arch: &str) -> Option<Self> {
        let size = arch.strip_suffix("_reg").unwrap_or(arch);
        let registers = arch != size || matches!(size, "demo" | "tiny");
        let (embed_dim, depth, num_heads) = match size {
            "vits14" => (384, 12, 6),
            "vitb14" => (768, 12, 12),
            "vitl14" => (1024, 24, 16),
            "vitg14" => (1536, 40, 24),
            "demo" => (128, 6, 4),
            "tiny" => (96, 4, 3),
            _ => return None,
        };
        Some(Self {
            embed_dim,
            depth,
            num_heads,
            patch_size: 14,
            num_register_tokens: if registers { 4 } else { 0 },
            pos_grid: match size {
                "demo" => 20,
                "tiny" => 10,
                _ => 37,
            },
            pos_embed: if registers { PosEmbed::Antialias } else { PosEmbed::Offset },
            ffn: if size == "vitg14" { Ffn::Swiglu } else { Ffn::Mlp },
            taps: Self::usual_taps(depth)?,
        })
    }
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

    /// The shape of a published architecture, or of `demo` or `tiny`, with the paper's decoder and heads.
    ///
    /// # Errors
    /// A name that is not in the list.
    pub fn named(arch: &str, variant: &str, classes: ClassTable) -> Result<Self> {
        let backbone = BackboneConfig::named(arch).ok_or_else(|| {
            let allowed = "vits14, vitb14, vitl14, vitg14, each also with _reg, or demo, tiny";
            Error::setting("arch", arch, allowed)
        })?;
        let head = |letter, classes, components| match letter {
            "d" => Some(HeadConfig::Linear { num_classes: classes }),
            "g" => Some(HeadConfig::Gmm { num_classes: classes, num_components: components }),
            _ => None,
        };
        let unknown = || Error::setting("variant", variant, "d-d, g-d, g-g, or d, g without UEM");
        let (inlier, outlier) = match variant.split_once('-') {
            Some((inlier, outlier)) => (inlier, Some(outlier)),
            None => (variant, None),
        };
        let (channels, mlp_hidden, hidden, window) = match arch {
            "demo" => (48, 128, 256, [196, 350]),
            "tiny" => (32, 64, 64, [140, 280]),
            _ => (256, 512, 512, [518, 1036]),
        };
        let uem = |head| UemConfig { hidden, channels, head };
        let num_classes = i64::try_from(classes.0.len()).unwrap_or(i64::MAX);
        let config = Self {
            format: Self::FORMAT,
            architecture: arch.into(),
            backbone,
            decoder: DecoderConfig { channels, mlp_hidden },
            head: head(inlier, num_classes, 5).ok_or_else(unknown)?,
            uem: outlier.map(|o| head(o, 2, 5).map(uem).ok_or_else(unknown)).transpose()?,
            window,
            classes,
            source: Source { tool: String::new(), from: Vec::new() },
            sha256: String::new(),
            variant: String::new(),
            calibration: None,
            answer: None,
        };
        config.validate()?;
        Ok(config)
    }

    /// A lower bound, within a few per cent, on the number of float32 values of these weights: a file
    /// with fewer cannot be theirs, whatever it claims, and no memory is taken for it.
    pub fn num_weights(&self) -> i64 {
        let (d, c) = (self.backbone.embed_dim, self.decoder.channels);
        let up = 3 * 4 * d * d;
        let convs = (4 * d + c) * c + 11 * 9 * c * c;
        let uem = self.uem.map_or(0, |uem| uem.hidden * (d + uem.hidden + uem.channels));
        self.backbone.num_weights() + up + convs + self.decoder.mlp_hidden * (d + c) + uem
    }

    /// Checks every relation between the numbers, so that no tensor is made of a shape that cannot work.
    ///
    /// # Errors
    /// [`Error::Setting`] naming the key.
    pub fn validate(&self) -> Result<()> {
        let b = &self.backbone;
        require(
            self.format == Self::FORMAT,
            "format",
            &self.format,
            "1, the layout this program reads",
        )?;
        let variant = self.variant();
        require(
            self.variant.is_empty() || self.variant == variant,
            "variant",
            &self.variant,
            &format!("{variant}, as `head` and `uem` say"),
        )?;
        self.backbone.validate()?;
        let calibration = self.calibration.as_ref();
        calibration.map_or(Ok(()), |found| found.validate(b.embed_dim))?;
        require(
            sized(self.decoder.channels, 4096),
            "decoder.channels",
            &self.decoder.channels,
            "1 to 4096",
        )?;
        let hidden = self.decoder.mlp_hidden;
        require(sized(hidden, 65536), "decoder.mlp_hidden", &hidden, "1 to 65536")?;
        let (k, rows) = (self.head.num_classes(), self.classes.0.len());
        require(
            i64::try_from(rows) == Ok(k),
            "classes",
            &rows,
            &format!("{k} rows, one per class of the head"),
        )?;
        self.classes.validate()?;
        self.head.validate("head")?;
        if let Some(uem) = &self.uem {
            require(sized(uem.hidden, 65536), "uem.hidden", &uem.hidden, "1 to 65536")?;
            require(sized(uem.channels, 4096), "uem.channels", &uem.channels, "1 to 4096")?;
            let k = uem.head.num_classes();
            require(k == 2, "uem.head.num_classes", &k, "2: inlier, outlier")?;
            uem.head.validate("uem.head")?;
        }
        let side = |n: i64| n >= 2 * b.patch_size && n % b.patch_size == 0 && n <= 16384;
        let allowed =
            format!("[height, width] px, multiples of {} and at least two patches", b.patch_size);
        require(self.window.iter().all(|&n| side(n)), "window", &self.window, &allowed)
    }
}

fn require(holds: bool, key: &str, value: &dyn std::fmt::Debug, allowed: &str) -> Result<()> {
    if holds { Ok(()) } else { Err(Error::setting(key, &format!("{value:?}"), allowed)) }
}

fn sized(n: i64, max: i64) -> bool {
    (1..=max).contains(&n)
}
