//! The network as it runs: built once from the loaded modules, for inference only.
//!
//! The same function of the picture, with less to do: what is linear and follows one another is one
//! matrix, tokens stay in rows (channels last) from the first layer to the classifier, and the
//! classifier comes before the upsampling where it is linear. `benches/NOTES.md` has what each step
//! brought. Training keeps the plain modules, which mirror the checkpoint.

mod affine;
mod decoder;

use std::collections::BTreeMap;

use tch::{Device, Kind, Tensor};

use super::cuda::{Graphs, Maps, Plugin};
use super::dinov2::{Block, DinoV2, Features, Grid, Mlp};
use super::head::Head;
use super::{Model, ModelConfig, Network, Outputs, Precision};
use crate::{Error, Result};
use affine::{Affine, Dense};
use decoder::Decoder;

/// [`Model`], folded.
#[derive(Debug)]
pub struct Fused {
    config: ModelConfig,
    device: Device,
    precision: Precision,
    /// The embedding and the final norm; its blocks moved to the field below.
    backbone: DinoV2,
    blocks: Vec<FusedBlock>,
    decoder: Decoder,
    uem: Option<FusedUem>,
    uem_rests: bool,
    /// The same passes, recorded.
    graphs: Option<Graphs>,
}

impl Fused {
    /// Folds a model, whose own weights are given up.
    pub fn new(mut model: Model) -> Self {
        model.freeze();
        let kind = model.precision.kind();
        let blocks = std::mem::take(&mut model.backbone.blocks);
        tch::no_grad(|| Self {
            config: model.config.clone(),
            device: model.device(),
            precision: model.precision,
            blocks: blocks.iter().map(|block| FusedBlock::new(block, kind)).collect(),
            decoder: Decoder::new(&model.decoder, model.head, kind),
            uem: model.uem.map(|uem| FusedUem::new(uem, kind)),
            backbone: model.backbone,
            uem_rests: false,
            graphs: None,
        })
    }

    /// The shape of the network and where it came from.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Where it runs.
    pub fn device(&self) -> Device {
        self.device
    }

    /// Arithmetic of the network.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Does without the UEM from the next picture on, or with it again.
    pub(crate) fn rest_uem(&mut self, rests: bool) {
        self.uem_rests = rests;
    }

    /// Replays recorded passes from now on, of up to `batch` windows but no more than 16: of a larger pass
    /// the launches, which is what recording saves, are a small part. They hold for these weights where
    /// they lie, and there is no way to replace them.
    ///
    /// # Errors
    /// [`Error::Torch`]: passes stay plain. A panic of libtorch goes through.
    pub fn record(&mut self, plugin: &Plugin, batch: usize) -> Result<&Graphs> {
        let batch = i64::try_from(batch.min(16)).unwrap_or(1);
        let [h, w] = self.config.window;
        self.graphs = None;
        let graphs = Graphs::new(plugin, [batch, 3, h, w], |x| self.maps(x, true))?;
        Ok(self.graphs.insert(graphs))
    }

    /// Every weight that it runs with, by a name of its place.
    pub(crate) fn weights(&self) -> BTreeMap<String, Tensor> {
        let mut weights = self.backbone.weights();
        for (i, block) in self.blocks.iter().enumerate() {
            weights.extend(block.weights().map(|(name, x)| (format!("blocks.{i}.{name}"), x)));
        }
        weights.extend(self.decoder.weights());
        weights.extend(self.uem.iter().flat_map(FusedUem::weights));
        weights.into_iter().map(|(name, x)| (name, x.shallow_clone())).collect()
    }

    /// The sum of its bits, taken as whole numbers, for every `parts`-th weight from number `part` on:
    /// it changes with any one bit.
    ///
    /// # Errors
    /// [`Error::Torch`].
    pub fn bit_sums(&self, part: usize, parts: usize) -> Result<Vec<(String, i64)>> {
        let failed = |error: tch::TchError| {
            let problem = error.to_string().lines().next().unwrap_or_default().into();
            Error::Torch { what: "adding up the weights", problem }
        };
        let sum = |(name, tensor): (String, Tensor)| {
            let bits = if tensor.kind() == Kind::Float { Kind::Int } else { Kind::Int16 };
            let sum = tensor.f_view_dtype(bits)?.f_sum(Kind::Int64)?.f_int64_value(&[])?;
            Ok((name, sum))
        };
        let weights = self.weights().into_iter().skip(part).step_by(parts.max(1));
        weights.map(sum).collect::<std::result::Result<_, _>>().map_err(failed)
    }

    /// Final tokens and taps of a normalised picture `(b, 3, h, w)`, as [`DinoV2::forward`].
    pub fn features(&self, x: &Tensor) -> Features {
        let x = x.to_kind(self.precision.kind());
        let grid = self.backbone.grid(&x);
        let last = self.blocks.len() - 1;
        let mut x = self.backbone.tokens_in(&self.backbone.patch_tokens(&x), grid);
        let mut tapped = Vec::with_capacity(4);
        let mut tokens = None;
        for (i, block) in self.blocks.iter().enumerate() {
            x = block.forward(x);
            let tap = self.config.backbone.taps.contains(&i64::try_from(i).unwrap());
            if tap || i == last {
                let normed = self.backbone.patches_normed(&x);
                tapped.extend(tap.then(|| normed.shallow_clone()));
                tokens = Some(normed);
            }
        }
        Features { tokens: tokens.unwrap(), taps: tapped, grid }
    }

    /// Inlier logits `(b, k, 4h, 4w)`, float32, on the decoder's map of a patch grid of `h x w`.
    pub fn logits(&self, features: &Features) -> Tensor {
        self.decoder.forward(features)
    }

    /// The UEM's logits `(b, 2, h, w)`, float32, on the patch grid.
    pub fn uem(&self, features: &Features) -> Option<Tensor> {
        self.uem.as_ref().map(|uem| uem.forward(features))
    }

    /// What the network says of `x` on its own grids.
    fn maps(&self, x: &Tensor, with_uem: bool) -> Maps {
        let features = self.features(x);
        Maps {
            uem: with_uem.then(|| self.uem(&features)).flatten(),
            logits: self.logits(&features),
            descriptor: features.descriptor(),
        }
    }

    /// At the size of the picture, in memory of their own; a recorded UEM that rests is left out.
    fn raised(&self, maps: &Maps, size: [i64; 2]) -> Outputs {
        let raise = |y: &Tensor| y.upsample_bilinear2d(size, false, None, None);
        Outputs {
            uem: maps.uem.as_ref().filter(|_| !self.uem_rests).map(raise),
            logits: raise(&maps.logits),
            descriptor: maps.descriptor.copy(),
        }
    }
}

impl Network for Fused {
    fn config(&self) -> &ModelConfig {
        self.config()
    }

    fn forward(&self, x: &Tensor) -> Outputs {
        let size = [x.size()[2], x.size()[3]];
        match self.graphs.as_ref().filter(|graphs| graphs.fits(x)) {
            None => self.raised(&self.maps(x, !self.uem_rests), size),
            // Fails as libtorch's own operations do.
            Some(graphs) => graphs
                .replay(x, |maps| self.raised(maps, size))
                .unwrap_or_else(|error| panic!("{error}")),
        }
    }
}

/// A transformer block; the layer scales are in the weights of `proj` and `fc2`.
#[derive(Debug)]
struct FusedBlock {
    norm1: [Tensor; 2],
    qkv: Dense,
    proj: Dense,
    num_heads: i64,
    norm2: [Tensor; 2],
    mlp: FusedMlp,
}

#[derive(Debug)]
enum FusedMlp {
    Gelu { fc1: Dense, fc2: Dense },
    Swiglu { w12: Dense, w3: Dense },
}

impl FusedBlock {
    fn new(block: &Block, kind: Kind) -> Self {
        let plain = |linear| Affine::linear(linear).dense(kind);
        let scaled = |linear, scale: &Tensor| Affine::linear(linear).then_scale(scale).dense(kind);
        let norm = |norm: &tch::nn::LayerNorm| {
            [&norm.ws, &norm.bs].map(|x| x.as_ref().unwrap().shallow_clone())
        };
        Self {
            norm1: norm(&block.norm1),
            qkv: plain(&block.attn.qkv),
            proj: scaled(&block.attn.proj, &block.ls1),
            num_heads: block.attn.num_heads,
            norm2: norm(&block.norm2),
            mlp: match &block.mlp {
                Mlp::Gelu { fc1, fc2 } => {
                    FusedMlp::Gelu { fc1: plain(fc1), fc2: scaled(fc2, &block.ls2) }
                }
                Mlp::Swiglu { w12, w3 } => {
                    FusedMlp::Swiglu { w12: plain(w12), w3: scaled(w3, &block.ls2) }
                }
            },
        }
    }

    /// Tokens `(b, n, d)` after the block, in the memory of those before it.
    fn forward(&self, mut x: Tensor) -> Tensor {
        x += self.attention(&normed(&x, &self.norm1));
        x += self.mlp.forward(&normed(&x, &self.norm2));
        x
    }

    fn weights(&self) -> impl Iterator<Item = (String, &Tensor)> {
        let [mlp1, mlp2] = match &self.mlp {
            FusedMlp::Gelu { fc1, fc2 } => [("fc1", fc1), ("fc2", fc2)],
            FusedMlp::Swiglu { w12, w3 } => [("w12", w12), ("w3", w3)],
        };
        let layers = [("qkv", &self.qkv), ("proj", &self.proj), mlp1, mlp2];
        let norms = [("norm1", &self.norm1), ("norm2", &self.norm2)];
        let norms = norms.into_iter().flat_map(|(name, [weight, bias])| {
            [(format!("{name}.weight"), weight), (format!("{name}.bias"), bias)]
        });
        norms.chain(layers.into_iter().flat_map(|(name, layer)| layer.weights(name)))
    }

    fn attention(&self, x: &Tensor) -> Tensor {
        let (b, n, d) = x.size3().unwrap();
        let qkv = self.qkv.forward(x).view([b, n, 3, self.num_heads, d / self.num_heads]);
        let qkv = qkv.permute([2, 0, 3, 1, 4]).contiguous(); // (3, b, heads, n, head_dim)
        let [q, k, v] = [0, 1, 2].map(|i| qkv.get(i));
        let none = None::<Tensor>;
        let x = Tensor::scaled_dot_product_attention(&q, &k, &v, none, 0.0, false, None, false);
        self.proj.forward(&x.transpose(1, 2).reshape([b, n, d]))
    }
}

impl FusedMlp {
    fn forward(&self, x: &Tensor) -> Tensor {
        match self {
            Self::Gelu { fc1, fc2 } => fc2.forward(&fc1.forward(x).gelu_("none")),
            Self::Swiglu { w12, w3 } => {
                let halves = w12.forward(x).chunk(2, -1);
                w3.forward(&(halves[0].silu() * &halves[1]))
            }
        }
    }
}

fn normed(x: &Tensor, [weight, bias]: &[Tensor; 2]) -> Tensor {
    x.layer_norm(weight.size(), Some(weight), Some(bias), 1e-6, true)
}

/// The UEM on rows of tokens; with a linear head its last two layers are one.
#[derive(Debug)]
struct FusedUem {
    hidden: [Dense; 2],
    last: Dense,
    gmm: Option<super::head::Gmm>,
}

impl FusedUem {
    fn new(uem: super::Uem, kind: Kind) -> Self {
        let [first, second, third] = uem.layers.each_ref().map(Affine::linear);
        let hidden = [first.dense(kind), second.dense(kind)];
        match uem.head {
            Head::Linear(head) => {
                let last = third.then(&Affine::linear(&head)).dense(Kind::Float);
                Self { hidden, last, gmm: None }
            }
            Head::Gmm(gmm) => Self { hidden, last: third.dense(kind), gmm: Some(gmm) },
        }
    }

    fn weights(&self) -> Vec<(String, &Tensor)> {
        let [first, second] = &self.hidden;
        let layers = [("uem.first", first), ("uem.second", second), ("uem.last", &self.last)];
        let layers = layers.into_iter().flat_map(|(name, layer)| layer.weights(name));
        layers.chain(self.gmm.iter().flat_map(|gmm| gmm.weights("uem.gmm"))).collect()
    }

    /// Logits `(b, 2, h, w)` on the patch grid, float32.
    fn forward(&self, features: &Features) -> Tensor {
        let [first, second] = &self.hidden;
        let x = second.forward(&first.forward(&features.tokens).relu_()).relu_();
        let x = self.last.forward(&x.to_kind(self.last.kind())).to_kind(Kind::Float);
        let (b, n, c) = x.size3().unwrap();
        let x = match &self.gmm {
            None => x,
            Some(gmm) => gmm.forward(&x.view([b * n, c])).view([b, n, -1]),
        };
        let (h, w): Grid = features.grid;
        x.transpose(1, 2).contiguous().view([b, -1, h, w])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ClassTable;
    use crate::model::config::Ffn;
    use crate::model::cuda::stub;

    /// A small network none of whose weights, norms and statistics has a special value.
    fn model(variant: &str, ffn: Ffn) -> Model {
        let mut config = ModelConfig::named("tiny", variant, ClassTable::cityscapes()).unwrap();
        config.backbone.ffn = ffn;
        tch::manual_seed(5);
        let model = Model::new(&config, Device::Cpu).unwrap();
        let _no_grad = tch::no_grad_guard();
        for (key, mut variable) in model.variables() {
            let noise = Tensor::rand_like(&variable) * 0.4 - 0.1;
            variable += if key.ends_with("weight") { noise * 0.1 } else { noise };
        }
        model
    }

    #[test]
    fn folding_changes_no_output_by_more_than_rounding() {
        let _no_grad = tch::no_grad_guard();
        for (variant, ffn) in [("d-d", Ffn::Mlp), ("g-d", Ffn::Swiglu), ("d", Ffn::Mlp)] {
            let plain = model(variant, ffn);
            // Odd grids, rows and columns apart; two pictures, whose norms are apart.
            let x = Tensor::randn([2, 3, 5 * 14, 9 * 14], (Kind::Float, Device::Cpu));
            let want = plain.forward(&x);
            let got = Fused::new(plain).forward(&x);
            let relative = |got: &Tensor, want: &Tensor| {
                ((got - want).abs().max() / want.abs().max()).double_value(&[])
            };
            let error = relative(&got.logits, &want.logits);
            // Log densities square what the maps differ by.
            let tolerance = if variant.starts_with('g') { 1e-4 } else { 1e-5 };
            assert!(error < tolerance, "{variant}: logits {error:e}");
            assert_eq!(got.uem.is_some(), want.uem.is_some());
            if let (Some(got), Some(want)) = (&got.uem, &want.uem) {
                let error = relative(got, want);
                assert!(error < 1e-5, "{variant}: uem {error:e}");
            }
        }
    }

    #[test]
    fn recorded_passes_give_the_plain_outputs_whatever_was_replayed_in_between() {
        let _no_grad = tch::no_grad_guard();
        for variant in ["d-d", "d"] {
            let first = model(variant, Ffn::Mlp);
            let variables = first.variables();
            let copy = || {
                let copy = model(variant, Ffn::Mlp); // other tests draw from the same generator
                for (key, mut variable) in copy.variables() {
                    variable.copy_(&variables[&key]);
                }
                Fused::new(copy)
            };
            let (mut recorded, twin, plain) = (copy(), copy(), Fused::new(first));
            let plugin = stub::replaying(move |x, maps| stub::overwrite(maps, &twin.maps(x, true)));
            assert_eq!(recorded.record(&plugin, 2).unwrap().deviation(), 0.0);
            let [h, w] = plain.config().window;
            let pictures = [1, 2, 1, 3].map(|windows| {
                Tensor::randn([windows, 3, h, w], (Kind::Float, Device::Cpu)) // 3: not recorded
            });
            let outputs = pictures.each_ref().map(|x| recorded.forward(x));
            for (x, got) in pictures.iter().zip(&outputs) {
                let want = plain.forward(x);
                assert_eq!((&got.logits, &got.uem), (&want.logits, &want.uem), "{variant}");
                assert_eq!(got.descriptor, want.descriptor);
            }
            recorded.rest_uem(true);
            assert!(recorded.forward(&pictures[0]).uem.is_none());
            recorded.rest_uem(false);
            assert_eq!(recorded.forward(&pictures[0]).uem.is_some(), variant == "d-d");
        }
    }
}
