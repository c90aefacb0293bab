//! DINOv2 vision transformer, one pass for the final tokens and the four taps.
//!
//! facebookresearch/dinov2 at b8931f7, `models/vision_transformer.py` and `layers/`; field names are
//! the checkpoint's keys. Deviations: the taps come from the same pass as the final tokens; what the
//! published models never set (drop path, dropout, mask token) is left out. LayerNorm's eps is 1e-6;
//! registers enter after the position embedding and are never returned.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};

use tch::nn::{self, Module};
use tch::{Kind, Tensor};

use super::config::{BackboneConfig, Ffn, PosEmbed};

/// A patch grid: rows and columns.
pub type Grid = (i64, i64);

fn layer_norm(vs: &nn::Path<'_>, dim: i64) -> nn::LayerNorm {
    let config = nn::LayerNormConfig { eps: 1e-6, ..Default::default() };
    nn::layer_norm(vs, vec![dim], config)
}

/// Multi-head self-attention of one block.
#[derive(Debug)]
pub(super) struct Attention {
    pub(super) qkv: nn::Linear,
    pub(super) proj: nn::Linear,
    pub(super) num_heads: i64,
}

impl Attention {
    fn new(vs: &nn::Path<'_>, cfg: &BackboneConfig) -> Self {
        let d = cfg.embed_dim;
        let qkv = nn::linear(vs / "qkv", d, 3 * d, nn::LinearConfig::default());
        let proj = nn::linear(vs / "proj", d, d, nn::LinearConfig::default());
        Self { qkv, proj, num_heads: cfg.num_heads }
    }

    fn forward(&self, x: &Tensor) -> Tensor {
        let (b, n, d) = x.size3().unwrap(); // batch, tokens, embed_dim
        let qkv = x.apply(&self.qkv).view([b, n, 3, self.num_heads, d / self.num_heads]);
        let qkv = qkv.permute([2, 0, 3, 1, 4]); // (3, b, heads, n, head_dim)
        let (q, k, v) = (qkv.get(0), qkv.get(1), qkv.get(2));
        let x = Tensor::scaled_dot_product_attention(
            &q,
            &k,
            &v,
            None::<Tensor>,
            0.,
            false,
            None,
            false,
        );
        x.transpose(1, 2).reshape([b, n, d]).apply(&self.proj)
    }
}

/// The feed-forward layer: `fc1`, exact GELU, `fc2`, or SwiGLU (ViT-g).
#[derive(Debug)]
pub(super) enum Mlp {
    Gelu { fc1: nn::Linear, fc2: nn::Linear },
    Swiglu { w12: nn::Linear, w3: nn::Linear },
}

impl Mlp {
    fn new(vs: &nn::Path<'_>, cfg: &BackboneConfig) -> Self {
        let (d, hidden) = (cfg.embed_dim, cfg.ffn_hidden());
        let linear =
            |name: &str, from, to| nn::linear(vs / name, from, to, nn::LinearConfig::default());
        match cfg.ffn {
            Ffn::Mlp => Self::Gelu { fc1: linear("fc1", d, hidden), fc2: linear("fc2", hidden, d) },
            Ffn::Swiglu => {
                Self::Swiglu { w12: linear("w12", d, 2 * hidden), w3: linear("w3", hidden, d) }
            }
        }
    }

    fn forward(&self, x: &Tensor) -> Tensor {
        match self {
            Self::Gelu { fc1, fc2 } => x.apply(fc1).gelu("none").apply(fc2),
            Self::Swiglu { w12, w3 } => {
                let halves = x.apply(w12).chunk(2, -1);
                (halves[0].silu() * &halves[1]).apply(w3)
            }
        }
    }
}

/// One transformer block: pre-norm attention and feed-forward, each scaled per channel.
#[derive(Debug)]
pub(super) struct Block {
    pub(super) norm1: nn::LayerNorm,
    pub(super) attn: Attention,
    pub(super) ls1: Tensor,
    pub(super) norm2: nn::LayerNorm,
    pub(super) mlp: Mlp,
    pub(super) ls2: Tensor,
}

impl Block {
    fn new(vs: &nn::Path<'_>, cfg: &BackboneConfig) -> Self {
        let d = cfg.embed_dim;
        Self {
            norm1: layer_norm(&(vs / "norm1"), d),
            attn: Attention::new(&(vs / "attn"), cfg),
            ls1: (vs / "ls1").var("gamma", &[d], nn::Init::Const(1.0)),
            norm2: layer_norm(&(vs / "norm2"), d),
            mlp: Mlp::new(&(vs / "mlp"), cfg),
            ls2: (vs / "ls2").var("gamma", &[d], nn::Init::Const(1.0)),
        }
    }

    fn forward(&self, x: &Tensor) -> Tensor {
        let x = x + self.attn.forward(&x.apply(&self.norm1)) * &self.ls1;
        let y = self.mlp.forward(&x.apply(&self.norm2)) * &self.ls2;
        x + y
    }
}

/// The position embedding `(1, 1 + h * w, d)` for a grid of `h x w` patches from the stored table
/// `(1, 1 + m * m, d)`, `interpolate_pos_encoding` upstream.
///
/// The class token's entry is never resized, and the native grid returns the table itself.
/// `_reg` models: antialiased bicubic to an output size. Plain models: bicubic with the scale
/// factors `(n + 0.1) / m`, which moves even an axis of native length a little. In float32, then
/// cast back.
pub fn resize_pos_embed(table: &Tensor, rule: PosEmbed, (h, w): Grid) -> Tensor {
    let (_, entries, d) = table.size3().unwrap();
    let m = (entries - 1).isqrt();
    if (h, w) == (m, m) {
        return table.shallow_clone();
    }
    let exact = table.to_kind(Kind::Float);
    let map = exact.narrow(1, 1, m * m).view([1, m, m, d]).permute([0, 3, 1, 2]); // (1, d, m, m)
    let scale = |n: i64| (n as f64 + 0.1) / m as f64;
    let map = match rule {
        PosEmbed::Antialias => map.internal_upsample_bicubic2d_aa([h, w], false, None, None),
        PosEmbed::Offset => map.upsample_bicubic2d([h, w], false, scale(h), scale(w)),
    };
    let patches = map.permute([0, 2, 3, 1]).reshape([1, h * w, d]);
    Tensor::cat(&[exact.narrow(1, 0, 1), patches], 1).to_kind(table.kind())
}

/// What the backbone hands on: patch tokens after the final norm, `(b, n, d)` each, row-major.
#[derive(Debug)]
pub struct Features {
    /// Tokens of the last block.
    pub tokens: Tensor,
    /// Tokens after the four tapped blocks.
    pub taps: Vec<Tensor>,
    /// Patch rows and columns; `n = rows * columns`.
    pub grid: Grid,
}

impl Features {
    /// What the picture as a whole looks like, `(b, 2 d)` float32: mean and standard deviation of every
    /// channel of the final tokens over the patches.
    pub fn descriptor(&self) -> Tensor {
        let tokens = self.tokens.to_kind(Kind::Float);
        let mean = tokens.mean_dim(1, false, Kind::Float);
        Tensor::cat(&[mean, tokens.std_dim(1, false, false)], 1)
    }
}

/// The vision transformer.
#[derive(Debug)]
pub struct DinoV2 {
    cfg: BackboneConfig,
    cls_token: Tensor,
    pos_embed: Tensor,
    register_tokens: Option<Tensor>,
    patch_embed: nn::Conv2D,
    pub(super) blocks: Vec<Block>,
    norm: nn::LayerNorm,
    resized: RefCell<HashMap<Grid, Tensor>>,
}

impl DinoV2 {
    pub(crate) fn new(vs: &nn::Path<'_>, cfg: &BackboneConfig) -> Self {
        let (d, p, grid) = (cfg.embed_dim, cfg.patch_size, cfg.pos_grid);
        let normal = nn::Init::Randn { mean: 0.0, stdev: 0.02 };
        let registers = cfg.num_register_tokens;
        let patches = nn::ConvConfig { stride: p, ..Default::default() };
        Self {
            cls_token: vs.var("cls_token", &[1, 1, d], normal),
            pos_embed: vs.var("pos_embed", &[1, 1 + grid * grid, d], normal),
            register_tokens: (registers > 0)
                .then(|| vs.var("register_tokens", &[1, registers, d], normal)),
            patch_embed: nn::conv2d(vs / "patch_embed" / "proj", 3, d, p, patches),
            blocks: (0..cfg.depth).map(|i| Block::new(&(vs / "blocks" / i), cfg)).collect(),
            norm: layer_norm(&(vs / "norm"), d),
            resized: RefCell::default(),
            cfg: cfg.clone(),
        }
    }

    /// Forgets position embeddings resized from earlier weights or in another precision.
    /// Its own tensors by their keys, those of the blocks left out.
    pub(super) fn weights(&self) -> BTreeMap<String, &Tensor> {
        let norm = [("norm.weight", &self.norm.ws), ("norm.bias", &self.norm.bs)];
        let embed = ("patch_embed.weight", Some(&self.patch_embed.ws));
        let maybe = [
            embed,
            ("patch_embed.bias", self.patch_embed.bs.as_ref()),
            ("cls_token", Some(&self.cls_token)),
            ("pos_embed", Some(&self.pos_embed)),
            ("register_tokens", self.register_tokens.as_ref()),
        ];
        let all = maybe.into_iter().chain(norm.map(|(name, x)| (name, x.as_ref())));
        all.filter_map(|(name, x)| Some((name.to_owned(), x?))).collect()
    }

    pub(super) fn weights_changed(&self) {
        self.resized.borrow_mut().clear();
    }

    /// Patch tokens `(b, n, d)` of a normalised picture `(b, 3, h, w)`, before any position embedding.
    pub fn patch_tokens(&self, x: &Tensor) -> Tensor {
        x.apply(&self.patch_embed).flatten(2, 3).transpose(1, 2)
    }

    /// [`resize_pos_embed`] of this network's table, kept per grid since it depends on nothing else.
    pub fn pos_embed_at(&self, grid: Grid) -> Tensor {
        let kept = self.resized.borrow().get(&grid).map(Tensor::shallow_clone);
        kept.unwrap_or_else(|| {
            let made = resize_pos_embed(&self.pos_embed, self.cfg.pos_embed, grid);
            // A tensor that training differentiates must be made anew each step.
            if !made.requires_grad() {
                self.resized.borrow_mut().insert(grid, made.shallow_clone());
            }
            made
        })
    }

    /// The transformer's input `(b, 1 + registers + n, d)`: class token and patches with their
    /// position, registers between them without.
    pub fn tokens_in(&self, patches: &Tensor, grid: Grid) -> Tensor {
        let (b, n, d) = patches.size3().unwrap();
        let cls = self.cls_token.expand([b, 1, d], false);
        let x = Tensor::cat(&[&cls, patches], 1) + self.pos_embed_at(grid);
        match &self.register_tokens {
            None => x,
            Some(registers) => {
                let registers = registers.expand([b, registers.size()[1], d], false);
                Tensor::cat(&[x.narrow(1, 0, 1), registers, x.narrow(1, 1, n)], 1)
            }
        }
    }

    /// Output of every block, each `(b, 1 + registers + n, d)`, in turn to `each`.
    pub fn run_blocks(&self, mut x: Tensor, mut each: impl FnMut(usize, &Tensor)) {
        for (i, block) in self.blocks.iter().enumerate() {
            x = block.forward(&x);
            each(i, &x);
        }
    }

    /// Patch tokens `(b, n, d)` after the final norm; class token and registers are dropped.
    pub fn patches_normed(&self, x: &Tensor) -> Tensor {
        let skip = 1 + self.cfg.num_register_tokens;
        self.norm.forward(x).narrow(1, skip, x.size()[1] - skip)
    }

    /// The patch grid of an `h x w` picture; both are multiples of the patch size.
    pub fn grid(&self, x: &Tensor) -> Grid {
        let size = x.size();
        (size[2] / self.cfg.patch_size, size[3] / self.cfg.patch_size)
    }

    /// Final tokens and taps of a normalised picture `(b, 3, h, w)`.
    pub fn forward(&self, x: &Tensor) -> Features {
        let grid = self.grid(x);
        let mut taps = Vec::with_capacity(self.cfg.taps.len());
        let mut last = Tensor::new();
        self.run_blocks(self.tokens_in(&self.patch_tokens(x), grid), |i, x| {
            let tapped = self.cfg.taps.contains(&i64::try_from(i).unwrap());
            let end = i + 1 == self.blocks.len();
            if tapped || end {
                let tokens = self.patches_normed(x);
                if tapped {
                    taps.push(tokens.shallow_clone());
                }
                last = tokens;
            }
        });
        Features { tokens: last, taps, grid }
    }
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;
    use crate::config::ClassTable;
    use crate::model::ModelConfig;

    fn backbone(arch: &str) -> (nn::VarStore, DinoV2) {
        tch::manual_seed(1);
        let cfg = ModelConfig::named(arch, "d", ClassTable::cityscapes()).unwrap().backbone;
        let vs = nn::VarStore::new(Device::Cpu);
        let vit = DinoV2::new(&vs.root(), &cfg);
        (vs, vit)
    }

    #[test]
    fn attention_equals_the_textbook_formula() {
        let (_vs, vit) = backbone("tiny");
        let attn = &vit.blocks[0].attn;
        let x = Tensor::randn([2, 7, 96], (Kind::Float, Device::Cpu));
        let mut heads = Vec::new();
        let qkv = x.apply(&attn.qkv);
        for head in 0..3 {
            let part = |i: i64| qkv.narrow(2, i * 96 + head * 32, 32);
            let weights =
                (part(0).matmul(&part(1).transpose(1, 2)) / 32f64.sqrt()).softmax(-1, None);
            heads.push(weights.matmul(&part(2)));
        }
        let expected = Tensor::cat(&heads, 2).apply(&attn.proj);
        let error = (attn.forward(&x) - expected).abs().max().double_value(&[]);
        assert!(error < 1e-5, "{error}");
    }

    #[test]
    fn the_native_grid_returns_the_parameter_and_another_does_not() {
        let (_vs, vit) = backbone("tiny");
        let m = vit.cfg.pos_grid;
        assert!(vit.pos_embed_at((m, m)).equal(&vit.pos_embed));
        let wide = vit.pos_embed_at((m, m + 3));
        assert_eq!(wide.size(), [1, 1 + m * (m + 3), 96]);
        assert!(wide.narrow(1, 0, 1).equal(&vit.pos_embed.narrow(1, 0, 1)));
    }
}
