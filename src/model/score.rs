//! Per-pixel scores on averaged full-resolution logits; all of them higher for more out-of-distribution.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::Outputs;
use crate::Error;

/// A named score.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Score {
    /// Log-likelihood ratio of outlier to inlier.
    Llr,
    /// Minus the largest inlier logit ("-ID" in the paper).
    NegId,
    /// The outlier channel alone ("OoD" in the paper).
    Ood,
    /// One minus the largest softmax probability.
    Msp,
    /// Minus the largest logit; the same number as `neg_id`, under the name its literature uses.
    MaxLogit,
    /// Entropy of the softmax, in nats.
    Entropy,
    /// PEBAL's energy, `-logsumexp`.
    Energy,
    /// RbA: minus the sum of tanh over the logits.
    Rba,
}

impl Score {
    /// Every score.
    pub const ALL: [Self; 8] = [
        Self::Llr,
        Self::NegId,
        Self::Ood,
        Self::Msp,
        Self::MaxLogit,
        Self::Entropy,
        Self::Energy,
        Self::Rba,
    ];

    /// The name in parameters and tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Llr => "llr",
            Self::NegId => "neg_id",
            Self::Ood => "ood",
            Self::Msp => "msp",
            Self::MaxLogit => "max_logit",
            Self::Entropy => "entropy",
            Self::Energy => "energy",
            Self::Rba => "rba",
        }
    }

    /// Whether the score reads the UEM's channels.
    pub fn needs_uem(self) -> bool {
        matches!(self, Self::Llr | Self::Ood)
    }

    /// The score `(b, h, w)` of averaged outputs.
    ///
    /// A score with [`Score::needs_uem`] panics on outputs without UEM; `Pipeline::new` refuses the pair.
    pub fn of(self, outputs: &Outputs) -> Tensor {
        let logits = &outputs.logits;
        let uem = || outputs.uem.as_ref().unwrap();
        match self {
            Self::Llr => llr(uem(), logits),
            Self::Ood => uem().select(1, 1),
            Self::NegId | Self::MaxLogit => -logits.amax([1], false),
            Self::Msp => 1.0 - logits.softmax(1, Kind::Float).amax([1], false),
            Self::Entropy => {
                let log_p = logits.log_softmax(1, Kind::Float);
                -(log_p.exp() * log_p).sum_dim_intlist([1].as_slice(), false, None)
            }
            Self::Energy => -logits.logsumexp([1], false),
            Self::Rba => -logits.tanh().sum_dim_intlist([1].as_slice(), false, None),
        }
    }
}

/// Per-pixel OoD score `(b, h, w)`: log-likelihood ratio of outlier to inlier, higher is more OoD.
///
/// `uem` is `(b, 2, h, w)`, channel 0 the generic inlier, channel 1 the outlier; `logits` is
/// `(b, k, h, w)` from the frozen segmentor. Eq. (11) of arXiv:2409.06424:
/// `uem[1] - uem[0] - max_k logits[k]`. The paper drops the softmax normaliser of eq. (10), so
/// `logits` must be raw; a softmax here changes the score. Average sliding windows first, score after.
pub fn llr(uem: &Tensor, logits: &Tensor) -> Tensor {
    uem.select(1, 1) - uem.select(1, 0) - logits.amax([1], false)
}

/// Class ids `(b, h, w)`, uint8, of logits `(b, k, h, w)`: the first of the largest ones, 255 where there
/// is none (NaN). As argmax, which takes eight times as long over planes on a CPU, see benches/NOTES.md.
pub fn classes(logits: &Tensor) -> Tensor {
    let largest = logits.amax([1], false);
    let ids = Tensor::full_like(&largest, 255.0).to_kind(Kind::Uint8);
    (0..logits.size()[1])
        .rev()
        .fold(ids, |mut ids, id| ids.masked_fill_(&logits.select(1, id).eq_tensor(&largest), id))
}

impl fmt::Display for Score {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Score {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        Self::ALL
            .into_iter()
            .find(|score| score.name() == name)
            .ok_or_else(|| Error::setting("score", name, Self::ALL.map(Self::name).join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pixels_class_is_the_first_of_its_largest_logits() {
        let planes = [[1f32, 5.0, -2.0, f32::NAN], [3.0, 5.0, -2.0, 1.0], [3.0, -1.0, -3.0, 0.0]];
        let logits = Tensor::from_slice2(&planes).view([1, 3, 2, 2]);
        let ids: Vec<i64> = classes(&logits).flatten(0, -1).try_into().unwrap();
        assert_eq!(ids, [1, 0, 0, 255]);
        let logits = Tensor::randn([2, 19, 30, 50], (Kind::Float, tch::Device::Cpu));
        assert_eq!(classes(&logits), logits.argmax(1, false).to_kind(Kind::Uint8));
    }

    #[test]
    fn every_score_by_hand_on_one_pixel() {
        let logits = Tensor::from_slice(&[1.0f32, -2.0, 0.5]).view([1, 3, 1, 1]);
        let uem = Tensor::from_slice(&[0.25f32, 2.0]).view([1, 2, 1, 1]);
        let outputs = Outputs { logits, uem: Some(uem), descriptor: Tensor::new() };
        let e: Vec<f64> = [1.0f64, -2.0, 0.5].iter().map(|x| x.exp()).collect();
        let sum: f64 = e.iter().sum();
        let expected = [
            ("llr", 2.0 - 0.25 - 1.0),
            ("neg_id", -1.0),
            ("ood", 2.0),
            ("msp", 1.0 - e[0] / sum),
            ("max_logit", -1.0),
            ("entropy", -e.iter().map(|x| x / sum * (x / sum).ln()).sum::<f64>()),
            ("energy", -sum.ln()),
            ("rba", -(1f64.tanh() + (-2f64).tanh() + 0.5f64.tanh())),
        ];
        for (name, value) in expected {
            let got = name.parse::<Score>().unwrap().of(&outputs).double_value(&[0, 0, 0]);
            assert!((got - value).abs() < 1e-6, "{name}: {got}, by hand {value}");
        }
        assert!("lrr".parse::<Score>().unwrap_err().to_string().contains("llr"));
    }
}
