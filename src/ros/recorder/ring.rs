//! The last messages, in memory.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::outputs::Output;

/// Messages of the last seconds, within a bound of bytes: the oldest go first.
pub(super) struct Ring {
    kept: VecDeque<Kept>,
    bytes: usize,
    most: usize,
    span: Duration,
}

/// A message in the ring.
pub(super) struct Kept {
    at: Instant,
    pub(super) log_time_ns: u64,
    pub(super) topic: (usize, Output),
    cdr: Vec<u8>,
    /// The length of the message where `cdr` is its [`pack`].
    packed: Option<usize>,
}

impl Ring {
    pub(super) fn new(most: usize, span: Duration) -> Self {
        Self { kept: VecDeque::new(), bytes: 0, most, span }
    }

    /// Adds a message; scores are packed, since they are as large as everything else together.
    pub(super) fn push(&mut self, log_time_ns: u64, topic: (usize, Output), cdr: Vec<u8>) {
        let packed = (topic.1 == Output::Score).then(|| pack(&cdr)).flatten();
        let (cdr, packed) =
            packed.map_or_else(|| (cdr, None), |(packed, length)| (packed, Some(length)));
        self.bytes += cdr.len();
        self.kept.push_back(Kept { at: Instant::now(), log_time_ns, topic, cdr, packed });
        let old = |kept: &Kept, bytes| bytes > self.most || kept.at.elapsed() > self.span;
        while self.kept.front().is_some_and(|first| old(first, self.bytes)) {
            self.bytes -= self.kept.pop_front().map_or(0, |first| first.cdr.len());
        }
    }

    /// Everything, oldest first; nothing stays.
    pub(super) fn take(&mut self) -> VecDeque<Kept> {
        self.bytes = 0;
        std::mem::take(&mut self.kept)
    }
}

impl Kept {
    /// The message's CDR.
    pub(super) fn into_cdr(self) -> Option<Vec<u8>> {
        match self.packed {
            None => Some(self.cdr),
            Some(length) => unpack(&self.cdr, length),
        }
    }
}

/// Floats compressed: all first bytes, then all second ones, because only the high ones are alike.
fn pack(floats: &[u8]) -> Option<(Vec<u8>, usize)> {
    let planes: Vec<u8> = (0..4).flat_map(|i| floats.iter().skip(i).step_by(4)).copied().collect();
    Some((zstd::bulk::compress(&planes, 1).ok()?, floats.len()))
}

fn unpack(packed: &[u8], length: usize) -> Option<Vec<u8>> {
    let planes = zstd::bulk::decompress(packed, length).ok()?;
    let mut floats = vec![0; length];
    let places = (0..4).flat_map(|i| (i..length).step_by(4));
    places.zip(&planes).for_each(|(place, byte)| floats[place] = *byte);
    Some(floats)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_survive_their_packing_whatever_their_number_of_bytes_and_get_smaller() {
        for length in [0, 1, 5, 4096, 4099] {
            let floats = (0..1100u16).flat_map(|i| (f32::from(i) / 7.0).sin().to_le_bytes());
            let bytes: Vec<u8> = floats.take(length).collect();
            let (packed, of) = pack(&bytes).unwrap();
            assert_eq!((of, unpack(&packed, of).unwrap()), (length, bytes));
            assert!(length < 4096 || packed.len() < length * 9 / 10, "{}", packed.len());
        }
    }

    #[test]
    fn the_oldest_go_when_they_are_too_many_or_too_old() {
        let mut ring = Ring::new(10, Duration::from_secs(60));
        let mut push = |time, output, bytes: usize| ring.push(time, (0, output), vec![7; bytes]);
        push(1, Output::Status, 4);
        push(2, Output::Status, 6);
        push(3, Output::Ood, 1);
        let kept: Vec<_> = ring.take().into_iter().map(|kept| kept.log_time_ns).collect();
        assert_eq!(kept, [2, 3]);
        assert!(ring.take().is_empty());
        ring.span = Duration::ZERO;
        ring.push(4, (0, Output::Score), vec![7; 4]);
        std::thread::sleep(Duration::from_millis(1));
        ring.push(5, (1, Output::Status), vec![]);
        assert!(ring.take().iter().all(|kept| kept.log_time_ns == 5));
    }
}
