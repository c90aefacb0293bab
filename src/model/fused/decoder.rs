//! The decoder and the inlier head, folded; see [`Fpn`] for what they compute.
//!
//! Maps are `(b, c, h, w)` views of rows `(b, h, w, c)`, so that a 1x1 or transposed convolution is a
//! matrix product on tokens and the 3x3 ones run channels last.

use tch::{Kind, Tensor, nn};

use super::super::dinov2::{Features, Grid};
use super::super::fpn::{ConvBn, Fpn, resize};
use super::super::head::{Gmm, Head};
use super::affine::{Affine, Dense, scale_and_shift};

/// The decoder with its classifier.
#[derive(Debug)]
pub(super) struct Decoder {
    /// Level 0: `fpn1` up to its GELU, then its second doubling and the lateral in one.
    level0: [Dense; 2],
    /// Level 1: norm, doubling and lateral in one.
    level1: Dense,
    /// Level 2: norm and lateral of the tap; hidden and last layer of `dino_mlp`, the latter with its lateral.
    level2: [Dense; 3],
    /// Level 3: scale and shift of its norm, which the pooling follows, and the lateral.
    level3: ([Tensor; 2], Dense),
    outs: Vec<Conv>,
    heads: Vec<Vec<Conv>>,
    head: FusedHead,
}

/// The classifier: linear without and with its bias, or mixtures.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one per process")]
enum FusedHead {
    Linear { weight: Tensor, bias: Tensor },
    Gmm(Gmm),
}

impl Decoder {
    pub(super) fn new(fpn: &Fpn, head: Head, kind: Kind) -> Self {
        let lateral = |i: usize| Affine::pointwise(&fpn.lateral_convs[i]);
        let of = |affine: &Affine, norm: &nn::GroupNorm| {
            affine.of_scaled(norm.ws.as_ref().unwrap(), norm.bs.as_ref().unwrap())
        };
        let (norm, up, bn, up_again) = &fpn.fpn1;
        let level0 = [
            of(&Affine::double(up).then_norm(bn), norm),
            Affine::double(up_again).then(&lateral(0)),
        ];
        let level1 = of(&Affine::double(&fpn.fpn2.1).then(&lateral(1)), &fpn.fpn2.0);
        // The lateral of level 2 reads the tap's channels, then those of the MLP.
        let Affine { weight, bias } = lateral(2);
        let d = fpn.dino_mlp[0].ws.size()[1];
        let tap = Affine { weight: weight.narrow(1, 0, d), bias: bias.zeros_like() };
        let rest = Affine { weight: weight.narrow(1, d, weight.size()[1] - d), bias };
        let [first, second] = fpn.dino_mlp.each_ref().map(Affine::linear);
        let level2 = [of(&tap, &fpn.fpn3), first, second.then(&rest)];
        let pooled = [&fpn.fpn4.ws, &fpn.fpn4.bs].map(|x| x.as_ref().unwrap().shallow_clone());
        Self {
            level0: level0.map(|affine| affine.dense(kind)),
            level1: level1.dense(kind),
            level2: level2.map(|affine| affine.dense(kind)),
            level3: (pooled, lateral(3).dense(kind)),
            outs: fpn.fpn_convs.iter().map(|conv| Conv::new(conv, kind)).collect(),
            heads: fpn
                .heads
                .iter()
                .map(|steps| steps.iter().map(|step| Conv::with_norm(step, kind)).collect())
                .collect(),
            head: match head {
                Head::Linear(head) => FusedHead::Linear { weight: head.ws, bias: head.bs.unwrap() },
                Head::Gmm(gmm) => FusedHead::Gmm(gmm),
            },
        }
    }

    /// Logits `(b, k, 4h, 4w)`, float32, over a patch grid of `h x w`.
    pub(super) fn forward(&self, features: &Features) -> Tensor {
        let summed = Fpn::top_down(self.laterals(features));
        let outs = summed.iter().zip(&self.outs).map(|(x, conv)| conv.forward(x));
        let maps = outs.zip(&self.heads).enumerate().map(|(i, (x, steps))| refined(i, x, steps));
        match &self.head {
            FusedHead::Linear { weight, bias } => {
                let rows = |x: Tensor| x.permute([0, 2, 3, 1]).to_kind(Kind::Float);
                let logits =
                    maps.map(|x| rows(x).linear(weight, None::<Tensor>).permute([0, 3, 1, 2]));
                (fuse(logits) + bias.view([1, -1, 1, 1])).contiguous()
            }
            FusedHead::Gmm(gmm) => {
                let x = fuse(maps).to_kind(Kind::Float).permute([0, 2, 3, 1]);
                let (b, h, w, c) = x.size4().unwrap();
                let logits = gmm.forward(&x.reshape([b * h * w, c])).view([b, h, w, -1]);
                logits.permute([0, 3, 1, 2]).contiguous()
            }
        }
    }

    /// Every weight, by a name of its place.
    pub(super) fn weights(&self) -> Vec<(String, &Tensor)> {
        let ([scale, shift], lateral) = &self.level3;
        let dense = self.level0.iter().chain([&self.level1]).chain(&self.level2).chain([lateral]);
        let dense =
            dense.enumerate().flat_map(|(i, layer)| layer.weights(&format!("decoder.rows.{i}")));
        let convs = self.outs.iter().chain(self.heads.iter().flatten()).enumerate();
        let convs = convs.flat_map(|(i, Conv { weight, bias })| {
            let name = format!("decoder.convs.{i}");
            [(format!("{name}.weight"), weight), (format!("{name}.bias"), bias)]
        });
        let head = match &self.head {
            FusedHead::Linear { weight, bias } => {
                vec![("head.weight".to_owned(), weight), ("head.bias".to_owned(), bias)]
            }
            FusedHead::Gmm(gmm) => gmm.weights("head"),
        };
        let pooled = [("decoder.pooled.scale", scale), ("decoder.pooled.shift", shift)];
        let pooled = pooled.map(|(name, x)| (name.to_owned(), x));
        dense.chain(convs).chain(head).chain(pooled).collect()
    }

    /// The four levels after their 1x1 convolutions, finest first.
    fn laterals(&self, features: &Features) -> Vec<Tensor> {
        let (h, w) = features.grid;
        let taps = [0, 1, 2, 3].map(|i| &features.taps[i]);
        // One group: the norm is over the whole window.
        let normed =
            |x: &Tensor| x.layer_norm(&x.size()[1..], None::<Tensor>, None::<Tensor>, 1e-5, true);
        let b = taps[0].size()[0];

        let [up, up_again] = &self.level0;
        let x = up.forward(&normed(taps[0])).gelu_("none"); // (b, n, 4 * d)
        let x = up_again.forward(&x.view([b, 4 * h * w, -1])); // (b, n * 4, 4 * channels)
        let x = x.view(&[b, h, w, 2, 2, 2, 2, -1][..]).permute([0, 1, 3, 5, 2, 4, 6, 7]);
        let level0 = map(&x.reshape([b, 16 * h * w, -1]), (4 * h, 4 * w));

        let x = self.level1.forward(&normed(taps[1]));
        let x = x.view([b, h, w, 2, 2, -1]).permute([0, 1, 3, 2, 4, 5]);
        let level1 = map(&x.reshape([b, 4 * h * w, -1]), (2 * h, 2 * w));

        let [tap, first, second] = &self.level2;
        let x = tap.forward(&normed(taps[2]))
            + second.forward(&first.forward(&features.tokens).relu_());
        let level2 = map(&x, (h, w));

        let ([scale, shift], lateral) = &self.level3;
        let x = map(&(normed(taps[3]) * scale + shift), (h, w));
        let x = x.max_pool2d([2, 2], [2, 2], [0, 0], [1, 1], false);
        let level3 = lateral.forward(&x.permute([0, 2, 3, 1])).permute([0, 3, 1, 2]);
        vec![level0, level1, level2, level3]
    }
}

/// Rows `(b, h * w, c)` as a map.
fn map(rows: &Tensor, (h, w): Grid) -> Tensor {
    let (b, _, c) = rows.size3().unwrap();
    rows.view([b, h, w, c]).permute([0, 3, 1, 2])
}

fn twice(x: &Tensor) -> Tensor {
    let size = x.size();
    resize(x, &[2 * size[2], 2 * size[3]], false)
}

/// Level `i` through its convolutions, doubled between them; the last doubling is left to [`fuse`].
fn refined(i: usize, x: Tensor, steps: &[Conv]) -> Tensor {
    steps.iter().enumerate().fold(x, |x, (at, step)| {
        let x = if i > 0 && at > 0 { twice(&x) } else { x };
        step.forward(&x).relu_()
    })
}

/// Sum at the finest level's size of maps whose last doubling is due.
fn fuse(mut maps: impl Iterator<Item = Tensor>) -> Tensor {
    let finest = maps.next().unwrap();
    let size = finest.size()[2..].to_vec();
    maps.fold(finest, |mut sum, x| {
        let x = twice(&x);
        sum += if x.size()[2..] == size { x } else { resize(&x, &size, true) };
        sum
    })
}

/// A 3x3 convolution, channels last.
#[derive(Debug)]
struct Conv {
    weight: Tensor,
    bias: Tensor,
}

impl Conv {
    fn new(conv: &nn::Conv2D, kind: Kind) -> Self {
        Self::from(&conv.ws, conv.bs.as_ref().unwrap(), kind)
    }

    /// With the batch norm after it.
    fn with_norm(step: &ConvBn, kind: Kind) -> Self {
        let (scale, shift) = scale_and_shift(&step.bn);
        let weight = step.conv.ws.to_kind(Kind::Double) * scale.view([-1, 1, 1, 1]);
        Self::from(&weight, &shift, kind)
    }

    fn from(weight: &Tensor, bias: &Tensor, kind: Kind) -> Self {
        let rows = weight.to_kind(kind).permute([0, 2, 3, 1]).contiguous();
        Self { weight: rows.permute([0, 3, 1, 2]), bias: bias.to_kind(kind) }
    }

    fn forward(&self, x: &Tensor) -> Tensor {
        x.conv2d(&self.weight, Some(&self.bias), [1, 1], [1, 1], [1, 1], 1)
    }
}
