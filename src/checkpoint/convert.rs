//! Published weights to ours: Meta's and Hugging Face's DINOv2, the authors' segmentors and UEMs.
//!
//! What the shapes tell is read off them; the rest comes from the checkpoint's hyper-parameters or
//! from [`Options`], never from a guess. Every tensor of the source is used, or is one of the kinds
//! that only training needs, or is an error.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use safetensors::tensor::Dtype;
use sha2::{Digest, Sha256};
use tch::{Device, Tensor, nn};

use super::source::{BACKBONE, Layout, Piece, Source, size};
use super::{BackboneFile, described, file_name, hex, mismatch, put, write, yaml};
use crate::config::ClassTable;
use crate::model::config::{
    BackboneConfig, DecoderConfig, Ffn, HeadConfig, PosEmbed, Source as Origin, SourceFile,
    UemConfig,
};
use crate::model::dinov2::DinoV2;
use crate::model::{Model, ModelConfig};
use crate::{Error, Result};

/// What the source files do not say.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Indices of the four tapped blocks; else those of the segmentor's hyper-parameters.
    pub taps: Option<[i64; 4]>,
    /// Height and width of the window in pixels; else the hyper-parameters', else the position
    /// grid's height by twice its width (518x1036).
    pub window: Option<[i64; 2]>,
    /// Attention heads; else one per 64 channels, as in every published size.
    pub heads: Option<i64>,
    /// YAML file with one row per class; else Cityscapes' for 19 classes.
    pub classes: Option<PathBuf>,
}

/// What a conversion did.
#[derive(Clone, Debug)]
pub struct Converted {
    /// Name of the architecture, such as `vitb14_reg`.
    pub architecture: String,
    /// `d-d`, `g-d`, `g-g`; `d` or `g` for a segmentor; `backbone`.
    pub variant: String,
    /// The tapped blocks.
    pub taps: [i64; 4],
    /// Who chose them.
    pub taps_from: String,
    /// Tensors written.
    pub written: usize,
    /// Tensors left out, all of kinds that only training needs.
    pub dropped: usize,
}

/// Converts one published file, or a segmentor and a UEM file, to `out` and its sidecar.
///
/// A UEM checkpoint holds its whole segmentor, whose batch statistics moved while the UEM was
/// trained; so of two files the UEM's tensors are taken, all of them, and the segmentor's file only
/// says which blocks are tapped. `progress` hears bytes done and bytes in all.
///
/// # Errors
/// An unreadable or refused file; a missing, left-over, wrongly shaped or implausible tensor; a fact
/// that is neither in the files nor in `options`. No output file is left behind.
pub fn convert(
    sources: &[PathBuf],
    out: &Path,
    options: &Options,
    progress: &dyn Fn(u64, u64),
) -> Result<Converted> {
    let real = |path: &Path| path.canonicalize().ok();
    if sources.iter().any(|source| real(source).is_some() && real(source) == real(out)) {
        let allowed = "another file than the source, which would be overwritten";
        return Err(Error::setting("out", &out.display(), allowed));
    }
    let mut files: Vec<_> = sources.iter().map(|path| Source::open(path)).collect::<Result<_>>()?;
    files.sort_by_key(|file| file.layout);
    let (main, segmentor) = match files.as_mut_slice() {
        [main] => (main, None),
        [segmentor, main]
            if (segmentor.layout, main.layout) == (Layout::Segmentor, Layout::Uem) =>
        {
            same_segmentor(main, segmentor)?;
            (main, Some(&*segmentor))
        }
        _ => {
            let found: Vec<_> = files.iter().map(|file| format!("{:?}", file.layout)).collect();
            let allowed = "one file, or a segmentor and the UEM trained on it";
            return Err(Error::setting("source", &found.join(" and "), allowed));
        }
    };
    let network = Network::infer(main, segmentor, options)?;
    let total = sources.iter().map(|path| size(path)).sum::<Result<u64>>()? + main.kept_bytes();
    let mut done = 0;
    let mut advance = |bytes: u64| {
        done += bytes;
        progress(done, total);
    };
    let mut from = Vec::new();
    for path in sources {
        let sha256 = sha256(path, &mut advance)?;
        from.push(SourceFile { name: file_name(path), sha256 });
    }
    network.write(main, out, Origin { tool: "convert".into(), from }, &mut advance)
}

/// That two files speak of one segmentor: the same names and shapes.
fn same_segmentor(uem: &Source, segmentor: &Source) -> Result<()> {
    for (name, piece) in uem.pieces.iter().filter(|(name, _)| name.starts_with("segmentor.")) {
        let expected = format!("{:?} as in {}", piece.shape, uem.path.display());
        let found = segmentor.pieces.get(name).map(|piece| format!("{:?}", piece.shape));
        let found = found.unwrap_or("missing".into());
        if found != format!("{:?}", piece.shape) {
            return Err(mismatch(&segmentor.path, name, found, expected));
        }
    }
    Ok(())
}

/// What a file turned out to hold.
enum Network {
    Backbone(BackboneConfig, String),
    Whole(Box<ModelConfig>, String),
}

impl Network {
    fn infer(main: &Source, segmentor: Option<&Source>, options: &Options) -> Result<Self> {
        let alone = matches!(main.layout, Layout::Meta | Layout::HuggingFace);
        let mut backbone = backbone(main, options)?;
        let (taps, taps_from) = taps(main, segmentor, options, backbone.depth, alone)?;
        backbone.taps = taps;
        backbone.validate()?;
        if alone {
            return Ok(Self::Backbone(backbone, taps_from));
        }
        let window = |file: &Source| file.hyper(|torch| &torch.window);
        let native = backbone.pos_grid * backbone.patch_size;
        let head = head(main, "segmentor.segmentation_head")?;
        let fpn = "segmentor.backbone.learnable_layers";
        let config = ModelConfig {
            format: ModelConfig::FORMAT,
            architecture: backbone.architecture(),
            decoder: DecoderConfig {
                channels: main.axis(&format!("{fpn}.dino_mlp._layers.2.weight"), 0)?,
                mlp_hidden: main.axis(&format!("{fpn}.dino_mlp._layers.0.weight"), 0)?,
            },
            head,
            uem: (main.layout == Layout::Uem).then(|| uem(main)).transpose()?,
            window: options
                .window
                .or_else(|| window(main))
                .or_else(|| segmentor.and_then(window))
                .unwrap_or([native, 2 * native]),
            classes: classes(head.num_classes(), options)?,
            source: Origin { tool: String::new(), from: Vec::new() },
            sha256: String::new(),
            variant: String::new(),
            calibration: None,
            answer: None,
            backbone,
        };
        config.validate()?;
        Ok(Self::Whole(Box::new(config), taps_from))
    }

    /// Fills a network with the source's tensors and writes it.
    fn write(
        self,
        file: &mut Source,
        out: &Path,
        source: Origin,
        advance: &mut dyn FnMut(u64),
    ) -> Result<Converted> {
        let (written, dropped) = (file.pieces.len(), file.dropped);
        match self {
            Self::Backbone(backbone, taps_from) => {
                room(file, backbone.num_weights())?;
                let store = nn::VarStore::new(Device::Cpu);
                let root = store.root() / "segmentor" / "backbone" / "dinov2";
                let _vit = DinoV2::new(&root, &backbone);
                let variables = store.variables().into_iter().collect();
                fill(file, &variables, advance)?;
                let architecture = backbone.architecture();
                write(out, &variables, |sha256| BackboneFile {
                    format: ModelConfig::FORMAT,
                    architecture: architecture.clone(),
                    backbone: backbone.clone(),
                    source,
                    sha256,
                })?;
                let (taps, variant) = (backbone.taps, "backbone".into());
                Ok(Converted { architecture, variant, taps, taps_from, written, dropped })
            }
            Self::Whole(config, taps_from) => {
                room(file, config.num_weights())?;
                let config = ModelConfig { source, ..*config };
                let model = Model::new(&config, Device::Cpu)?;
                fill(file, &model.variables(), advance)?;
                super::save(&model, out)?;
                let (variant, taps) = (config.variant(), config.backbone.taps);
                let architecture = config.architecture;
                Ok(Converted { architecture, variant, taps, taps_from, written, dropped })
            }
        }
    }
}

/// That the file has as many values as a network of these shapes, before memory is taken for it.
fn room(file: &Source, num_weights: i64) -> Result<()> {
    let values = file.kept_bytes() / 4;
    if values >= num_weights.unsigned_abs() {
        return Ok(());
    }
    let problem = format!(
        "has {values} weights, a network of its first shapes needs at least {num_weights}: tensors \
         are missing or cut short"
    );
    Err(Error::bad_file(&file.path, problem))
}

/// Copies every tensor of the source into the variable of its name, strictly.
fn fill(
    file: &mut Source,
    variables: &BTreeMap<String, Tensor>,
    advance: &mut dyn FnMut(u64),
) -> Result<()> {
    let Source { path, data, pieces, .. } = file;
    for (name, piece) in &*pieces {
        let found = described_piece(piece);
        let Some(variable) = variables.get(name) else {
            return Err(mismatch(path, &piece.keys[0], found, "no such tensor in this network"));
        };
        let expected = format!("F32 {:?}", variable.size());
        if found != expected {
            return Err(mismatch(path, &piece.keys.join("` + `"), found, expected));
        }
    }
    if let Some((name, variable)) = variables.iter().find(|(name, _)| !pieces.contains_key(*name)) {
        return Err(mismatch(path, name, "missing", described(Dtype::F32, variable.size())));
    }
    for (name, piece) in &*pieces {
        let mut bytes = Vec::new();
        for key in &piece.keys {
            let part = data.read(path, key)?;
            advance(part.len() as u64);
            bytes = if bytes.is_empty() { part } else { [bytes, part].concat() };
        }
        put(path, name, &variables[name], &bytes)?;
    }
    Ok(())
}

fn described_piece(piece: &Piece) -> String {
    format!("{} {:?}", piece.dtype, piece.shape)
}

/// The ViT's numbers; `taps` is left to the caller.
fn backbone(file: &Source, options: &Options) -> Result<BackboneConfig> {
    let name = |rest: &str| format!("{BACKBONE}{rest}");
    let embed_dim = file.axis(&name("cls_token"), 2)?;
    let patches = file.axis(&name("pos_embed"), 1)? - 1;
    let pos_grid = patches.max(0).isqrt();
    if pos_grid * pos_grid != patches {
        let found = format!("{} entries", patches + 1);
        return Err(mismatch(&file.path, &name("pos_embed"), found, "a square grid and one more"));
    }
    let registers = name("register_tokens");
    let num_register_tokens =
        if file.pieces.contains_key(&registers) { file.axis(&registers, 1)? } else { 0 };
    let heads = options.heads.or((embed_dim % 64 == 0).then_some(embed_dim / 64));
    let heads = heads.ok_or_else(|| {
        let allowed = format!("a divisor of the width {embed_dim}, which is no multiple of 64");
        Error::setting("--heads", "not given", allowed)
    })?;
    let starts = |name: &&String| name.starts_with(BACKBONE) && name.ends_with(".norm1.weight");
    let depth = file.pieces.keys().filter(starts).count();
    let swiglu = file.pieces.contains_key(&name("blocks.0.mlp.w12.weight"));
    Ok(BackboneConfig {
        embed_dim,
        depth: i64::try_from(depth).unwrap_or(i64::MAX),
        num_heads: heads,
        patch_size: file.axis(&name("patch_embed.proj.weight"), 3)?,
        num_register_tokens,
        pos_grid,
        // The published models with registers, and only they, were trained with the former.
        pos_embed: if num_register_tokens > 0 { PosEmbed::Antialias } else { PosEmbed::Offset },
        ffn: if swiglu { Ffn::Swiglu } else { Ffn::Mlp },
        taps: [0; 4],
    })
}

/// The tapped blocks, and who chose them. A whole network's are a fact that only its training knew.
fn taps(
    main: &Source,
    segmentor: Option<&Source>,
    options: &Options,
    depth: i64,
    alone: bool,
) -> Result<([i64; 4], String)> {
    if let Some(taps) = options.taps {
        return Ok((taps, "--taps".into()));
    }
    for file in [Some(main), segmentor].into_iter().flatten() {
        if let Some(taps) = file.hyper(|torch| &torch.taps) {
            return Ok((taps, format!("the hyper-parameters of {}", file_name(&file.path))));
        }
    }
    match BackboneConfig::usual_taps(depth) {
        Some(taps) if alone => Ok((taps, "a suggestion; training may choose others".into())),
        Some(taps) if depth == 12 => Ok((taps, "the authors' configuration".into())),
        _ => {
            let allowed = format!(
                "four block indices below {depth}; a UEM file does not say them, the segmentor's does: \
                 give both files or --taps"
            );
            Err(Error::setting("--taps", "not given", allowed))
        }
    }
}

/// A classifier by the tensors under its name.
fn head(file: &Source, name: &str) -> Result<HeadConfig> {
    let linear = format!("{name}._head.weight");
    if file.pieces.contains_key(&linear) {
        return Ok(HeadConfig::Linear { num_classes: file.axis(&linear, 0)? });
    }
    let means = format!("{name}.means");
    Ok(HeadConfig::Gmm {
        num_classes: file.axis(&means, 0)?,
        num_components: file.axis(&means, 1)?,
    })
}

fn uem(file: &Source) -> Result<UemConfig> {
    Ok(UemConfig {
        hidden: file.axis("ood_projector._layers.0.weight", 0)?,
        channels: file.axis("ood_projector._layers.4.weight", 0)?,
        head: head(file, "ood_head")?,
    })
}

/// The class table given, or Cityscapes' where the count fits; no checkpoint holds names.
fn classes(count: i64, options: &Options) -> Result<ClassTable> {
    match &options.classes {
        Some(path) => yaml(path),
        None if count == 19 => Ok(ClassTable::cityscapes()),
        None => {
            let allowed = format!("a YAML file with {count} rows, one per class of the head");
            Err(Error::setting("--classes", "not given", allowed))
        }
    }
}

fn sha256(path: &Path, advance: &mut dyn FnMut(u64)) -> Result<String> {
    let mut file = File::open(path).map_err(Error::io(path))?;
    let (mut sha256, mut buffer) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        let length = file.read(&mut buffer).map_err(Error::io(path))?;
        if length == 0 {
            return Ok(hex(sha256.finalize().as_slice()));
        }
        sha256.update(&buffer[..length]);
        advance(length as u64);
    }
}
