//! AdamW as PyTorch computes it, with moments that can be written down; tch's own keeps them to itself.

use std::collections::BTreeMap;

use tch::Tensor;

use crate::config::AdamWConfig;

/// A variable and its two moments.
#[derive(Debug)]
struct Slot {
    name: String,
    variable: Tensor,
    first: Tensor,
    second: Tensor,
}

/// AdamW (arXiv:1711.05101) over named variables.
#[derive(Debug)]
pub struct AdamW {
    cfg: AdamWConfig,
    /// Steps taken.
    pub steps: i64,
    slots: Vec<Slot>,
}

impl AdamW {
    /// An optimiser of the given variables only; what it does not hold it cannot change.
    pub fn new(variables: BTreeMap<String, Tensor>, cfg: AdamWConfig) -> Self {
        let slot = |(name, variable): (String, Tensor)| {
            let zeros = || tch::no_grad(|| variable.zeros_like());
            Slot { name, first: zeros(), second: zeros(), variable }
        };
        Self { cfg, steps: 0, slots: variables.into_iter().map(slot).collect() }
    }

    /// Forgets the gradients of the last step.
    pub fn zero_grad(&mut self) {
        for slot in &mut self.slots {
            slot.variable.zero_grad();
        }
    }

    /// Moves every variable that has a gradient.
    pub fn step(&mut self, lr: f64) {
        self.steps += 1;
        let [beta1, beta2] = self.cfg.betas;
        let power = |beta: f64| beta.powf(self.steps as f64);
        let (bias1, bias2) = (1.0 - power(beta1), 1.0 - power(beta2));
        tch::no_grad(|| {
            for Slot { variable, first, second, .. } in &mut self.slots {
                let grad = variable.grad();
                if !grad.defined() {
                    continue;
                }
                *variable *= 1.0 - lr * self.cfg.weight_decay;
                first.copy_(&first.lerp(&grad, 1.0 - beta1));
                *second *= beta2;
                *second += grad.square() * (1.0 - beta2);
                let denominator = second.sqrt() / bias2.sqrt() + self.cfg.eps;
                *variable -= &*first / denominator * (lr / bias1);
            }
        });
    }

    /// The moments by name, `first.<variable>` and `second.<variable>`; shallow clones, so that
    /// copying into them restores the optimiser.
    pub fn moments(&self) -> Vec<(String, Tensor)> {
        let both = |slot: &Slot| {
            [
                (format!("first.{}", slot.name), slot.first.shallow_clone()),
                (format!("second.{}", slot.name), slot.second.shallow_clone()),
            ]
        };
        self.slots.iter().flat_map(both).collect()
    }
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;

    #[test]
    fn two_steps_by_hand_with_weight_decay() {
        let variable = Tensor::ones([1], (Kind::Double, Device::Cpu)).set_requires_grad(true);
        let cfg = AdamWConfig { betas: [0.9, 0.99], eps: 1e-8, weight_decay: 0.1 };
        let named = BTreeMap::from([("x".to_string(), variable.shallow_clone())]);
        let mut optimizer = AdamW::new(named, cfg);
        let (mut x, mut m, mut v) = (1.0f64, 0.0f64, 0.0f64);
        for step in 1..=2 {
            optimizer.zero_grad();
            (variable.square() * 3.0).sum(None).backward();
            optimizer.step(0.01);
            let grad = 6.0 * x;
            x *= 1.0 - 0.01 * 0.1;
            m = 0.9 * m + 0.1 * grad;
            v = 0.99 * v + 0.01 * grad * grad;
            let (m_hat, v_hat) = (m / (1.0 - 0.9f64.powi(step)), v / (1.0 - 0.99f64.powi(step)));
            x -= 0.01 * m_hat / (v_hat.sqrt() + 1e-8);
            assert!((variable.double_value(&[0]) - x).abs() < 1e-12, "step {step}");
        }
    }
}
