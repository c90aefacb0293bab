//! Data sets in their published layouts, and the drawn road world.

use std::str::FromStr;

use crate::{Error, Result};

pub mod cityscapes;
pub mod coco;
pub mod ood_sets;
pub mod pair;
pub mod synth;

pub use pair::{Pair, Sample};

/// Label of pixels that no metric and no loss counts.
pub const IGNORE: u8 = 255;

/// Label of pasted outliers in training, and of unknown obstacles in the drawn world.
pub const OOD: u8 = 254;

/// A machine's share of a set: of `count` shards the one numbered `index`, from 0.
///
/// Frames go round in turn, so the shards are disjoint, complete, and even along a drive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// Which one.
    pub index: usize,
    /// Of how many.
    pub count: usize,
}

impl Shard {
    /// Everything.
    pub const WHOLE: Self = Self { index: 0, count: 1 };

    /// Whether the frame at this place of the set belongs to it.
    pub fn holds(self, place: usize) -> bool {
        place % self.count == self.index
    }

    /// How many of `frames` frames belong to it.
    pub fn share(self, frames: usize) -> usize {
        (frames + self.count - 1 - self.index) / self.count
    }
}

impl FromStr for Shard {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parsed = text.split_once('/').and_then(|(index, count)| {
            Some(Self { index: index.parse().ok()?, count: count.parse().ok()? })
        });
        let valid = parsed.filter(|shard| shard.index < shard.count);
        valid
            .ok_or_else(|| Error::setting("shard", text, "i/n with i from 0 to n - 1, such as 0/4"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_disjoint_and_complete() {
        let shards: Vec<Shard> =
            ["0/3", "1/3", "2/3"].into_iter().map(|text| text.parse().unwrap()).collect();
        for place in 0..10 {
            assert_eq!(shards.iter().filter(|shard| shard.holds(place)).count(), 1);
            let shares = shards.iter().map(|shard| shard.share(place));
            assert_eq!(shares.sum::<usize>(), place);
            let held = (0..place).filter(|place| shards[1].holds(*place)).count();
            assert_eq!(shards[1].share(place), held);
        }
        for text in ["3/3", "0/0", "-1/2", "1", "a/b", ""] {
            assert!(text.parse::<Shard>().unwrap_err().to_string().contains("0/4"), "{text}");
        }
    }
}
