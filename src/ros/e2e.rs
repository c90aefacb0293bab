//! End-to-end protection of the masks: what a reader checks a mask against, on another topic.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};

use crate::msg::Header;

/// What a mask belongs to: this run of the node, and this message of the camera.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Identity {
    pub(crate) run_id: u32,
    pub(crate) sequence: u64,
}

/// A number that another run of the node is unlikely to have, never 0.
pub(crate) fn run_id() -> u32 {
    // Keyed by the system's randomness.
    let [a, b, c, d, ..] = RandomState::new().build_hasher().finish().to_le_bytes();
    u32::from_le_bytes([a, b, c, d]).max(1)
}

/// CRC-32 (that of zlib and PNG) over little-endian `run_id` u32, `sequence` u64, `stamp` i32 and u32,
/// `height` u32, `width` u32, and the pixels: one of another frame, place or run does not fit.
pub(crate) fn crc32(
    Identity { run_id, sequence }: Identity,
    header: &Header,
    [height, width]: [usize; 2],
    pixels: &[u8],
) -> u32 {
    let side = |side: usize| u32::try_from(side).unwrap_or(u32::MAX).to_le_bytes();
    let mut crc = crc32fast::Hasher::new();
    crc.update(&run_id.to_le_bytes());
    crc.update(&sequence.to_le_bytes());
    crc.update(&header.stamp.sec.to_le_bytes());
    crc.update(&header.stamp.nanosec.to_le_bytes());
    crc.update(&side(height));
    crc.update(&side(width));
    crc.update(pixels);
    crc.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::msg::Stamp;

    #[test]
    fn every_part_of_a_mask_counts() {
        let (id, header) = (Identity { run_id: 1, sequence: 2 }, Header::default());
        let known = crc32(id, &header, [2, 3], b"123456");
        // zlib.crc32(struct.pack("<IQiIII", 1, 2, 0, 0, 2, 3) + b"123456")
        assert_eq!(known, 0xafdbf660);
        let mut other = vec![crc32(id, &header, [3, 2], b"123456")];
        other.push(crc32(id, &header, [2, 3], b"123457"));
        other.push(crc32(Identity { run_id: 3, ..id }, &header, [2, 3], b"123456"));
        other.push(crc32(Identity { sequence: 3, ..id }, &header, [2, 3], b"123456"));
        let stamp = Stamp { sec: 0, nanosec: 1 };
        other.push(crc32(id, &Header { stamp, ..header }, [2, 3], b"123456"));
        assert!(other.iter().all(|crc| *crc != known));
        assert_ne!(run_id(), run_id());
    }
}
