//! Memory that grows although no frame needs it: what an attack on the DDS library looks like.

use std::fs;

/// Seconds without a second word about the same growth.
const PAUSE: u32 = 60;
/// Seconds after a larger frame than any before in which memory settles.
const SETTLE: u32 = 10;
/// MB that may come and go in a running node.
const SLACK: u64 = 256;
/// Bytes that a pixel of the largest frame may need, logits of every class included.
const PER_PIXEL: u64 = 1024;

/// What is known of the process's memory; looked at once a second.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// MB when memory was last explained.
    base: u64,
    largest: u64,
    settling: u32,
    pause: u32,
}

impl Memory {
    /// MB beyond what frames explain, when that calls for an answer; then not again for a while.
    pub(super) fn growth(&mut self, resident: u64, ceiling: u64, largest: u64) -> Option<u64> {
        if largest > self.largest || self.base == 0 {
            (self.largest, self.settling) = (largest, SETTLE);
        }
        self.pause = self.pause.saturating_sub(1);
        if self.settling > 0 {
            self.settling -= 1;
            self.base = self.base.max(resident);
            return None;
        }
        self.base = self.base.min(resident);
        let growth = resident - self.base;
        let near = ceiling > 0 && resident > ceiling / 10 * 9;
        let much = growth > SLACK + self.largest * PER_PIXEL / 1_000_000;
        if !(much || near) || self.pause > 0 {
            return None;
        }
        (self.base, self.pause) = (resident, PAUSE);
        Some(growth)
    }
}

/// Resident memory of this process, MB.
pub(super) fn resident_mb() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024 / 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_told_once_a_minute_and_not_while_a_larger_frame_explains_it() {
        let mut memory = Memory::default();
        let mut look = |seconds: u32, resident, largest| {
            (0..seconds).find_map(|_| memory.growth(resident, 0, largest))
        };
        assert_eq!(look(30, 500, 100_000), None);
        assert_eq!(look(5, 800, 100_000), None, "within the slack");
        assert_eq!(look(5, 5000, 2_000_000), None, "a larger frame");
        assert_eq!(look(30, 2000, 2_000_000), None, "less is always well");
        assert_eq!(look(1, 4305, 2_000_000), Some(2305));
        assert_eq!(look(50, 9000, 2_000_000), None, "told already");
        assert_eq!(look(10, 9000, 2_000_000), Some(4695));
    }

    #[test]
    fn near_the_ceiling_every_growth_counts() {
        let mut memory = Memory::default();
        assert!((0..30).all(|_| memory.growth(500, 1000, 1).is_none()));
        assert_eq!(memory.growth(901, 1000, 1), Some(401));
    }

    #[test]
    fn this_process_has_some_memory() {
        assert!(resident_mb().is_some_and(|mb| mb > 1));
    }
}
