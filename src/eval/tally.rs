//! Exact counts per distinct score for sets larger than memory: sorted runs on disk.
//!
//! A [`Tally`] takes the pixels of one score frame by frame, sorts what fits into its buffer, spills it
//! as a run and joins runs by eights, so that memory stays constant and each pixel is rewritten a few
//! times at most. A run is a multiset of integers: runs of different machines merge exactly, in any order.
//!
//! File: `OODRUN1\n`, positives and negatives (u64, little endian), then per distinct score, descending,
//! three LEB128 numbers: distance to the previous key, positives, negatives.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use super::metrics::Bin;
use crate::data::IGNORE;
use crate::{Error, Result, file};

const MAGIC: &[u8; 8] = b"OODRUN1\n";
/// Runs of one generation that are joined into one of the next.
const FAN_IN: usize = 8;
/// Pixels per run: 32 MiB of memory for each score.
const BUFFER: usize = 4 << 20;

/// Key of a score: ascending keys are descending scores. The two zeros share one.
pub(super) fn key(score: f32) -> u32 {
    let bits = (score + 0.0).to_bits();
    if bits >> 31 == 0 { !(bits | 1 << 31) } else { bits }
}

/// The score of a key.
pub(super) fn score(key: u32) -> f32 {
    f32::from_bits(if key >> 31 == 0 { !key & !(1 << 31) } else { key })
}

/// Counts of one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    key: u32,
    pos: u64,
    neg: u64,
}

/// Gathers the pixels of one score over a set, or over a shard of it.
#[derive(Debug)]
pub struct Tally {
    folder: PathBuf,
    buffer_len: usize,
    /// `key << 1 | positive`
    buffer: Vec<u64>,
    generations: Vec<Vec<PathBuf>>,
    serial: usize,
}

impl Tally {
    /// An empty tally that spills into `folder`, which is its own and goes with it.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self::with_buffer(folder.into(), BUFFER)
    }

    fn with_buffer(folder: PathBuf, buffer_len: usize) -> Self {
        Self { folder, buffer_len, buffer: Vec::new(), generations: Vec::new(), serial: 0 }
    }

    /// Adds the pixels of a frame whose label is not [`IGNORE`]. Scores must not be NaN.
    ///
    /// # Errors
    /// A full disk, or whatever else the system says about the spilled files.
    pub fn add(&mut self, scores: &[f32], labels: &[u8]) -> Result<()> {
        for (value, label) in scores.iter().zip(labels).filter(|(_, label)| **label != IGNORE) {
            if self.buffer.len() == self.buffer_len {
                self.spill()?;
            }
            self.buffer.push(u64::from(key(*value)) << 1 | u64::from(*label != 0));
        }
        Ok(())
    }

    /// Joins everything into the one run `path`.
    ///
    /// # Errors
    /// As [`Tally::add`].
    pub fn finish(mut self, path: &Path) -> Result<()> {
        self.spill()?;
        let runs: Vec<PathBuf> = self.generations.drain(..).flatten().collect();
        merge(&runs, path)
    }

    fn spill(&mut self) -> Result<()> {
        self.buffer.sort_unstable();
        let groups = self.buffer.chunk_by(|a, b| a >> 1 == b >> 1);
        let entries = groups.map(|group| {
            let pos = group.iter().filter(|pixel| **pixel & 1 == 1).count() as u64;
            let key = u32::try_from(group[0] >> 1).unwrap_or(u32::MAX);
            Ok(Entry { key, pos, neg: group.len() as u64 - pos })
        });
        let pos = self.buffer.iter().filter(|pixel| **pixel & 1 == 1).count() as u64;
        let totals = (pos, self.buffer.len() as u64 - pos);
        let path = self.folder.join(format!("{}.run", self.serial));
        write_run(&path, totals, entries)?;
        self.serial += 1;
        self.buffer.clear();
        self.keep(path, 0)
    }

    /// Files a run under its generation; a full generation becomes one run of the next.
    fn keep(&mut self, path: PathBuf, generation: usize) -> Result<()> {
        if self.generations.len() == generation {
            self.generations.push(Vec::new());
        }
        self.generations[generation].push(path);
        if self.generations[generation].len() < FAN_IN {
            return Ok(());
        }
        let runs = std::mem::take(&mut self.generations[generation]);
        let joined = self.folder.join(format!("{}.run", self.serial));
        self.serial += 1;
        merge(&runs, &joined)?;
        for run in runs {
            fs::remove_file(&run).map_err(Error::io(&run))?;
        }
        self.keep(joined, generation + 1)
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        if let Err(left) = fs::remove_dir_all(&self.folder) {
            log::debug!("{}: {left}", self.folder.display());
        }
    }
}

/// Joins runs into one; no run at all makes an empty one.
///
/// # Errors
/// A file that is not a whole run, or the system's word.
pub fn merge(runs: &[PathBuf], path: &Path) -> Result<()> {
    let entries = Entries::open(runs)?;
    write_run(path, entries.totals, entries)
}

/// Positives, negatives and the `exact` bins of the pixels in all `runs` together, descending.
///
/// # Errors
/// A file that is not a whole run; each item too may be such an error.
pub fn bins(runs: &[PathBuf]) -> Result<(u64, u64, impl Iterator<Item = Result<Bin>> + use<>)> {
    let entries = Entries::open(runs)?;
    let (pos, neg) = entries.totals;
    let bin =
        |entry: Entry| Bin { threshold: score(entry.key).into(), pos: entry.pos, neg: entry.neg };
    Ok((pos, neg, entries.map(move |entry| entry.map(bin))))
}

fn write_run(
    path: &Path,
    (pos, neg): (u64, u64),
    entries: impl Iterator<Item = Result<Entry>>,
) -> Result<()> {
    let mut failure = None;
    let written = file::write(path, |out| {
        out.write_all(MAGIC)?;
        out.write_all(&pos.to_le_bytes())?;
        out.write_all(&neg.to_le_bytes())?;
        let mut last = 0;
        for entry in entries {
            let entry = entry.map_err(|error| {
                failure = Some(error);
                io::Error::other("its source cannot be read")
            })?;
            write_number(out, u64::from(entry.key - last))?;
            write_number(out, entry.pos)?;
            write_number(out, entry.neg)?;
            last = entry.key;
        }
        Ok(())
    });
    match failure {
        Some(error) => Err(error),
        None => written,
    }
}

fn write_number(out: &mut BufWriter<File>, mut number: u64) -> io::Result<()> {
    while number > 0x7f {
        out.write_all(&[(number & 0x7f) as u8 | 0x80])?;
        number >>= 7;
    }
    out.write_all(&[(number & 0x7f) as u8])
}

/// Reads one run.
struct Run {
    path: PathBuf,
    input: BufReader<File>,
    /// Pixels still to come: (positives, negatives).
    left: (u64, u64),
    key: u32,
}

impl Run {
    fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::io(path))?;
        let mut input = BufReader::with_capacity(1 << 16, file);
        let mut head = [0; 24];
        input.read_exact(&mut head).map_err(Error::io(path))?;
        if head[..8] != *MAGIC {
            return Err(Error::bad_file(path, "does not start with OODRUN1: not a run of scores"));
        }
        let number = |at: usize| {
            head[at..at + 8].iter().rev().fold(0u64, |sum, byte| sum << 8 | u64::from(*byte))
        };
        Ok(Self { path: path.into(), input, left: (number(8), number(16)), key: 0 })
    }

    fn next(&mut self) -> Result<Option<Entry>> {
        if self.left == (0, 0) {
            return Ok(None);
        }
        let (step, pos, neg) = (self.number()?, self.number()?, self.number()?);
        let key = u32::try_from(u64::from(self.key).saturating_add(step)).ok();
        let left = self.left.0.checked_sub(pos).zip(self.left.1.checked_sub(neg));
        let (Some(key), Some(left)) = (key, left) else {
            let problem = "holds more pixels than its head says: damaged, make this part again";
            return Err(Error::bad_file(&self.path, problem));
        };
        (self.key, self.left) = (key, left);
        Ok(Some(Entry { key, pos, neg }))
    }

    fn number(&mut self) -> Result<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let mut byte = [0];
            self.input.read_exact(&mut byte).map_err(Error::io(&self.path))?;
            number |= u64::from(byte[0] & 0x7f) << shift;
            if byte[0] & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(Error::bad_file(&self.path, "holds a number of more than 64 bits: damaged"))
    }
}

/// Ascending entries of several runs, equal keys joined.
struct Entries {
    runs: Vec<Run>,
    heads: BinaryHeap<Reverse<(Entry, usize)>>,
    totals: (u64, u64),
}

impl Entries {
    fn open(paths: &[PathBuf]) -> Result<Self> {
        let runs = paths.iter().map(|path| Run::open(path)).collect::<Result<Vec<_>>>()?;
        let totals = runs.iter().fold((0, 0), |sum, run| (sum.0 + run.left.0, sum.1 + run.left.1));
        let mut entries = Self { runs, heads: BinaryHeap::new(), totals };
        for index in 0..entries.runs.len() {
            entries.refill(index)?;
        }
        Ok(entries)
    }

    fn refill(&mut self, index: usize) -> Result<()> {
        if let Some(entry) = self.runs[index].next()? {
            self.heads.push(Reverse((entry, index)));
        }
        Ok(())
    }
}

impl Iterator for Entries {
    type Item = Result<Entry>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut joined: Option<Entry> = None;
        while let Some(&Reverse((head, index))) = self.heads.peek() {
            match &mut joined {
                None => joined = Some(head),
                Some(entry) if entry.key == head.key => {
                    entry.pos += head.pos;
                    entry.neg += head.neg;
                }
                Some(_) => break,
            }
            self.heads.pop();
            if let Err(error) = self.refill(index) {
                return Some(Err(error));
            }
        }
        joined.map(Ok)
    }
}

#[cfg(test)]
mod tests {
    use super::super::metrics::exact_bins;
    use super::*;

    fn all(runs: &[PathBuf]) -> Vec<Bin> {
        bins(runs).unwrap().2.map(Result::unwrap).collect()
    }

    #[test]
    fn keys_order_every_score_downwards_and_join_the_zeros() {
        let scores = [f32::INFINITY, 3.5, 1e-40, 0.0, -1e-40, -2.0, f32::NEG_INFINITY];
        assert!(scores.map(key).is_sorted());
        assert_eq!(scores.map(|value| score(key(value))), scores);
        assert_eq!(key(-0.0), key(0.0));
    }

    #[test]
    fn spilled_runs_hold_what_memory_would_and_shards_merge_exactly() {
        let folder = tempfile::tempdir().unwrap();
        let scores: Vec<f32> = (0..1000u16).map(|i| f32::from(i * 37 % 101) - 50.0).collect();
        let labels: Vec<u8> = (0..1000u16).map(|i| [0, 1, 255, 0, 2][usize::from(i % 5)]).collect();
        let mut runs = Vec::new();
        for (i, part) in [0..1000, 0..300, 300..1000].into_iter().enumerate() {
            let mut tally = Tally::with_buffer(folder.path().join(format!("scratch{i}")), 7);
            tally.add(&scores[part.clone()], &labels[part]).unwrap();
            runs.push(folder.path().join(format!("{i}.run")));
            tally.finish(&runs[i]).unwrap();
            assert!(!folder.path().join(format!("scratch{i}")).exists());
        }
        let expected = exact_bins(&scores, &labels);
        assert_eq!(all(&runs[..1]), expected);
        assert_eq!(all(&runs[1..]), expected);
        let whole = fs::read(&runs[0]).unwrap();
        merge(&[runs[2].clone(), runs[1].clone()], &folder.path().join("m")).unwrap();
        assert_eq!(fs::read(folder.path().join("m")).unwrap(), whole, "byte for byte");
        assert_eq!(all(&[]), []);
    }

    #[test]
    fn a_run_cut_short_or_of_another_kind_is_an_error_with_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.run");
        let mut tally = Tally::new(folder.path().join("scratch"));
        tally.add(&[1.0, 2.0, 3.0], &[0, 1, 0]).unwrap();
        tally.finish(&path).unwrap();
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..whole.len() - 1]).unwrap();
        let error = bins(std::slice::from_ref(&path)).unwrap().2.find_map(Result::err).unwrap();
        assert!(error.chain().contains("a.run"), "{}", error.chain());
        fs::write(&path, b"something else altogether").unwrap();
        assert!(bins(&[path]).err().unwrap().chain().contains("OODRUN1"));
    }
}
