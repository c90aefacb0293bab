//! Linear maps of rows: composed in float64 while the network is built, run as [`Dense`].

use tch::{Kind, Tensor, nn};

/// `weight (out, in)` and `bias (out)` in float64: `y = weight x + bias`.
pub(super) struct Affine {
    pub(super) weight: Tensor,
    pub(super) bias: Tensor,
}

impl Affine {
    fn new(weight: &Tensor, bias: Option<&Tensor>) -> Self {
        let weight = weight.to_kind(Kind::Double);
        let zeros = || Tensor::zeros([weight.size()[0]], (Kind::Double, weight.device()));
        let bias = bias.map_or_else(zeros, |bias| bias.to_kind(Kind::Double));
        Self { weight, bias }
    }

    pub(super) fn linear(layer: &nn::Linear) -> Self {
        Self::new(&layer.ws, layer.bs.as_ref())
    }

    /// A 1x1 convolution.
    pub(super) fn pointwise(conv: &nn::Conv2D) -> Self {
        Self::new(&conv.ws.flatten(1, 3), conv.bs.as_ref())
    }

    /// A 2x2 transposed convolution of stride 2: the four pixels that a row becomes, one after the
    /// other (row 0: left, right; row 1: left, right), `out` values each.
    pub(super) fn double(conv: &nn::ConvTranspose2D) -> Self {
        let weight = conv.ws.permute([2, 3, 1, 0]).flatten(0, 2); // from (in, out, 2, 2)
        Self::new(&weight, conv.bs.as_ref().map(|bias| bias.repeat([4])).as_ref())
    }

    /// `y * scale`.
    pub(super) fn then_scale(self, scale: &Tensor) -> Self {
        let scale = scale.to_kind(Kind::Double);
        Self { weight: self.weight * scale.unsqueeze(1), bias: self.bias * scale }
    }

    /// A batch norm in evaluation on groups of its channels; 1e-5 is its eps.
    pub(super) fn then_norm(self, bn: &nn::BatchNorm) -> Self {
        let (scale, shift) = scale_and_shift(bn);
        let groups = self.bias.size()[0] / scale.size()[0];
        let mut folded = self.then_scale(&scale.repeat([groups]));
        folded.bias += shift.repeat([groups]);
        folded
    }

    /// `next` on each group of as many values as it takes.
    pub(super) fn then(&self, next: &Self) -> Self {
        let (out, mid) = next.weight.size2().unwrap_or_default();
        let groups = self.bias.size()[0] / mid;
        let from = self.weight.size()[1];
        let weight = next.weight.matmul(&self.weight.view([groups, mid, from]));
        let bias = self.bias.view([groups, mid]).matmul(&next.weight.tr()) + &next.bias;
        Self { weight: weight.view([groups * out, from]), bias: bias.view([groups * out]) }
    }

    /// Of `x * scale + shift`, as a norm hands it on.
    pub(super) fn of_scaled(&self, scale: &Tensor, shift: &Tensor) -> Self {
        let [scale, shift] = [scale, shift].map(|x| x.to_kind(Kind::Double));
        Self { weight: &self.weight * scale, bias: &self.bias + self.weight.mv(&shift) }
    }

    /// Ready to run in this precision.
    pub(super) fn dense(&self, kind: Kind) -> Dense {
        let [weight, bias] = [&self.weight, &self.bias].map(|x| x.to_kind(kind).contiguous());
        Dense { weight, bias }
    }
}

/// A batch norm in evaluation is `x * scale + shift` per channel, float64.
pub(super) fn scale_and_shift(bn: &nn::BatchNorm) -> (Tensor, Tensor) {
    let double = |x: &Tensor| x.to_kind(Kind::Double);
    let scale = (double(&bn.running_var) + 1e-5).rsqrt();
    let scale = bn.ws.as_ref().map_or(scale.shallow_clone(), |weight| scale * double(weight));
    let shift = -double(&bn.running_mean) * &scale;
    let shift = bn.bs.as_ref().map_or(shift.shallow_clone(), |bias| shift + double(bias));
    (scale, shift)
}

/// A linear layer.
#[derive(Debug)]
pub(super) struct Dense {
    weight: Tensor,
    bias: Tensor,
}

impl Dense {
    /// `(.., in)` to `(.., out)`.
    pub(super) fn forward(&self, x: &Tensor) -> Tensor {
        x.linear(&self.weight, Some(&self.bias))
    }

    /// Its two tensors, by their names under its own.
    pub(super) fn weights(&self, name: &str) -> [(String, &Tensor); 2] {
        [(format!("{name}.weight"), &self.weight), (format!("{name}.bias"), &self.bias)]
    }

    /// Type of its input.
    pub(super) fn kind(&self) -> Kind {
        self.weight.kind()
    }
}
