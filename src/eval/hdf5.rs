//! One float16 map as an HDF5 file with the single dataset `value`: the benchmark's submission format.
//!
//! HDF5 File Format Specification 3.0, the oldest variant (superblock 0, version 1 object headers),
//! which every HDF5 library reads. The layout is fixed but for the sizes, so it is written out here:
//!
//! | address | what |
//! |---|---|
//! | 0 | superblock with the root group's entry |
//! | 96 | root group's object header |
//! | 136 | its B-tree of one leaf |
//! | 680 | its local heap, data segment at 712 |
//! | 800 | object header of `value` |
//! | 928 | symbol node naming it |
//! | 1256 | the map, contiguous |

use std::io::Write;
use std::path::Path;

use half::f16;

use crate::{Result, file};

const ROOT: u64 = 96;
const TREE: u64 = 136;
const HEAP: u64 = 680;
const HEAP_DATA: u64 = 712;
const VALUE: u64 = 800;
const SYMBOLS: u64 = 928;
const MAP: u64 = 1256;
/// "No address".
const UNDEFINED: u64 = u64::MAX;
/// Offset of the name in the heap's data; the empty name is at 0.
const NAME: u64 = 8;

/// Bytes appended in file order, little endian.
struct Bytes(Vec<u8>);

impl Bytes {
    fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn u16s(&mut self, values: &[u16]) -> &mut Self {
        values.iter().for_each(|value| self.0.extend(value.to_le_bytes()));
        self
    }

    fn u32s(&mut self, values: &[u32]) -> &mut Self {
        values.iter().for_each(|value| self.0.extend(value.to_le_bytes()));
        self
    }

    fn u64s(&mut self, values: &[u64]) -> &mut Self {
        values.iter().for_each(|value| self.0.extend(value.to_le_bytes()));
        self
    }

    /// Zeros up to `address`.
    fn pad_to(&mut self, address: u64) -> &mut Self {
        self.0.resize(usize::try_from(address).unwrap_or(usize::MAX), 0);
        self
    }

    /// Head of a version 1 object header with its messages' count and bytes.
    fn object_header(&mut self, messages: u16, bytes: u32) -> &mut Self {
        self.raw(&[1, 0]).u16s(&[messages]).u32s(&[1, bytes, 0])
    }

    /// Head of a header message.
    fn message(&mut self, kind: u16, bytes: u16) -> &mut Self {
        self.u16s(&[kind, bytes]).u32s(&[0])
    }
}

/// Everything before the map's own bytes.
fn head(height: u64, width: u64) -> Vec<u8> {
    let bytes = 2 * height * width;
    let mut out = Bytes(Vec::new());
    // Superblock: versions, sizes of offsets and lengths, leaf and internal node K, addresses.
    out.raw(b"\x89HDF\r\n\x1a\n").raw(&[0, 0, 0, 0, 0, 8, 8, 0]).u16s(&[4, 16]).u32s(&[0]);
    out.u64s(&[0, UNDEFINED, MAP + bytes, UNDEFINED]);
    out.u64s(&[0, ROOT]).u32s(&[1, 0]).u64s(&[TREE, HEAP]);
    // Root group: symbol table message.
    out.object_header(1, 24).message(0x11, 16).u64s(&[TREE, HEAP]);
    // B-tree of groups, level 0, one child between the empty name and ours.
    out.raw(b"TREE").raw(&[0, 0]).u16s(&[1]).u64s(&[UNDEFINED, UNDEFINED, 0, SYMBOLS, NAME]);
    // Local heap: 88 bytes of data, a free block from 16 on that is the last.
    out.pad_to(HEAP).raw(b"HEAP").u32s(&[0]).u64s(&[88, 16, HEAP_DATA]);
    out.u64s(&[0]).raw(b"value\0\0\0").u64s(&[1, 72]);
    out.pad_to(VALUE).object_header(4, 112);
    // Dataspace of rank 2.
    out.message(0x01, 24).raw(&[1, 2, 0, 0, 0, 0, 0, 0]).u64s(&[height, width]);
    // IEEE half: class 1, implied leading bit, sign in bit 15; 2 bytes; 16 bits from 0, exponent of 5
    // bits at 10, mantissa of 10 at 0, bias 15.
    out.message(0x03, 24).raw(&[0x11, 0x20, 15, 0]).u32s(&[2]);
    out.u16s(&[0, 16]).raw(&[10, 5, 0, 10]).u32s(&[15, 0]);
    // Fill value version 2: space allocated early, written if set, none defined.
    out.message(0x05, 8).raw(&[2, 1, 2, 0, 0, 0, 0, 0]);
    // Layout version 3: contiguous.
    out.message(0x08, 24).raw(&[3, 1]).u64s(&[MAP, bytes]).raw(&[0; 6]);
    // Symbol node with room for 8 entries, one used.
    out.raw(b"SNOD").raw(&[1, 0]).u16s(&[1]).u64s(&[NAME, VALUE, 0, 0, 0]);
    out.pad_to(MAP);
    out.0
}

/// Writes a score map `(scores.len() / width, width)` as float16.
///
/// # Errors
/// The system's word on the file.
pub fn write_map(path: &Path, scores: &[f32], width: usize) -> Result<()> {
    let height = scores.len() / width.max(1);
    let values = scores.iter().flat_map(|score| f16::from_f32(*score).to_le_bytes());
    let values: Vec<u8> = values.collect();
    file::write(path, |out| {
        out.write_all(&head(height as u64, width as u64))?;
        out.write_all(&values)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_lie_where_the_addresses_say() {
        let head = head(3, 5);
        let at = |address: u64| &head[usize::try_from(address).unwrap()..];
        assert_eq!(head.len() as u64, MAP);
        assert_eq!(head[40..48], (MAP + 30).to_le_bytes());
        assert_eq!(at(ROOT)[..4], [1, 0, 1, 0]);
        assert_eq!(at(VALUE)[..4], [1, 0, 4, 0]);
        for (address, magic) in [(TREE, b"TREE"), (HEAP, b"HEAP"), (SYMBOLS, b"SNOD")] {
            assert_eq!(at(address)[..4], *magic);
        }
        assert_eq!(at(HEAP_DATA + NAME)[..6], *b"value\0");
        // Height first.
        assert_eq!(
            at(VALUE + 16 + 16)[..16],
            [3u64.to_le_bytes(), 5u64.to_le_bytes()].concat()[..]
        );
    }

    /// The official writer places the symbol node elsewhere, and its file is longer.
    #[test]
    fn the_group_is_byte_for_byte_that_of_the_hdf5_library() {
        let shared = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../shared/golden/eval/submission_example.hdf5");
        let Ok(official) = std::fs::read(&shared) else {
            eprintln!("SKIP official HDF5 file: no {}", shared.display());
            return;
        };
        let ours = head(120, 200);
        let (end_of_file, symbols) = (40..48, 168..176);
        for (i, (a, b)) in ours.iter().zip(&official).enumerate().take(800) {
            let differs = end_of_file.contains(&i) || symbols.contains(&i);
            assert!(a == b || differs, "byte {i}: {a}, the library wrote {b}");
        }
    }
}
