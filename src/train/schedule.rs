//! The learning rate: linear warm-up, then polynomial decay.

use crate::config::ScheduleConfig;

/// Learning rate of optimiser step `step`, counted from 0; step 0 of a warm-up has exactly 0.
///
/// `warmup_steps` linear steps to `lr`, a polynomial of `power` down to `lr_end` at `max_steps`,
/// `lr_end` beyond.
pub fn learning_rate(cfg: &ScheduleConfig, step: u64) -> f64 {
    let (warmup, max) = (cfg.warmup_steps, cfg.max_steps);
    if step < warmup {
        return cfg.lr * step as f64 / warmup as f64;
    }
    if step > max {
        return cfg.lr_end;
    }
    let left = 1.0 - (step - warmup) as f64 / (max - warmup).max(1) as f64;
    (cfg.lr - cfg.lr_end) * left.powf(cfg.power) + cfg.lr_end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warms_up_from_zero_decays_in_a_line_and_stays_at_the_end() {
        let cfg =
            ScheduleConfig { lr: 1.0, lr_end: 0.2, power: 1.0, warmup_steps: 4, max_steps: 12 };
        let expected = [(0, 0.0), (1, 0.25), (3, 0.75), (4, 1.0), (8, 0.6), (12, 0.2), (99, 0.2)];
        for (step, lr) in expected {
            assert!((learning_rate(&cfg, step) - lr).abs() < 1e-12, "step {step}");
        }
    }
}
