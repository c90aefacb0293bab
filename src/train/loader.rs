//! Batches for training: files, outliers, augmentation, ahead of the step that needs them.

use std::path::PathBuf;
use std::sync::Arc;
use std::thread;

use crossbeam_channel::{Receiver, bounded};
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tch::{Device, Kind, Tensor};

use super::augment::augment;
use super::mix;
use crate::config::AugmentConfig;
use crate::data::{IGNORE, OOD, Pair, Sample};
use crate::{Error, Result, preprocess};

/// Objects to paste.
#[derive(Clone, Debug)]
pub struct Outliers {
    /// Pictures whose pixels labelled [`OOD`] are pasted.
    pub pairs: Vec<Pair>,
    /// Share of pictures that get one.
    pub probability: f64,
}

/// What samples are made of; sample `i` is the same whenever it is made.
#[derive(Clone, Debug)]
pub struct Source {
    /// Street pictures, each once per epoch, in an order that every epoch shuffles anew.
    pub streets: Vec<Pair>,
    /// Outliers, in stage 2.
    pub outliers: Option<Outliers>,
    /// Augmentation.
    pub augment: AugmentConfig,
    /// Height and width of a sample, px.
    pub window: [usize; 2],
    /// Samples per step.
    pub batch_size: usize,
    /// Seed of order, outliers and augmentation.
    pub seed: u64,
    /// Number of inlier classes.
    pub num_classes: usize,
}

/// Samples of one step, as they lie in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    rgb: Vec<u8>,
    labels: Vec<u8>,
    size: [i64; 3],
}

impl Source {
    /// The samples of a step.
    ///
    /// # Errors
    /// A file that cannot be read, or a label outside the classes.
    pub fn batch(&self, step: u64) -> Result<Batch> {
        let [height, width] = self.window;
        let size = [self.batch_size, height, width].map(|n| i64::try_from(n).unwrap_or(i64::MAX));
        let mut batch = Batch { rgb: Vec::new(), labels: Vec::new(), size };
        let count = self.batch_size as u64;
        for index in step * count..(step + 1) * count {
            let sample = self.sample(index)?;
            batch.rgb.extend(sample.rgb);
            batch.labels.extend(sample.labels);
        }
        Ok(batch)
    }

    fn sample(&self, index: u64) -> Result<Sample> {
        let count = self.streets.len() as u64;
        // Streams with the highest bit shuffle epochs, the others belong to one sample each.
        let mut order: Vec<usize> = (0..self.streets.len()).collect();
        order.shuffle(&mut stream(self.seed, (index / count) | (1 << 63)));
        let place = usize::try_from(index % count).unwrap_or(0);
        let mut rng = stream(self.seed, index);
        let mut street = self.read(&self.streets[order[place]])?;
        if let Some(outliers) = &self.outliers
            && rng.gen_bool(outliers.probability)
        {
            paste_one(&mut street, &outliers.pairs, &mut rng)?;
        }
        Ok(augment(&street, &self.augment, self.window, &mut rng))
    }

    fn read(&self, pair: &Pair) -> Result<Sample> {
        let street = pair.read()?;
        street.check_labels(self.num_classes, &[IGNORE], &pair.labels)?;
        Ok(street)
    }

    /// Street picture `index` of `pairs` at full size with one outlier of `objects`, the same each time.
    ///
    /// # Errors
    /// As [`Source::batch`].
    pub fn with_outlier(&self, pair: &Pair, index: u64, objects: &[Pair]) -> Result<Sample> {
        let mut street = self.read(pair)?;
        paste_one(&mut street, objects, &mut stream(self.seed, index | (1 << 62)))?;
        Ok(street)
    }
}

fn stream(seed: u64, stream: u64) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(stream);
    rng
}

fn paste_one(street: &mut Sample, objects: &[Pair], rng: &mut ChaCha8Rng) -> Result<()> {
    let object = &objects[rng.gen_range(0..objects.len())];
    let source = object.read()?;
    source.check_labels(1, &[OOD], &object.labels)?;
    mix::paste(street, &source, |most| rng.gen_range(0..=most));
    Ok(())
}

impl Batch {
    /// Normalised pictures `(b, 3, h, w)` and int64 labels `(b, h, w)` on a device.
    pub fn tensors(&self, device: Device) -> (Tensor, Tensor) {
        let [b, h, w] = self.size;
        let rgb = Tensor::from_data_size(&self.rgb, &[b, h, w, 3], Kind::Uint8).to_device(device);
        let rgb = rgb.permute([0, 3, 1, 2]);
        let images: Vec<_> = (0..b).map(|i| preprocess::normalise(&rgb.get(i))).collect();
        let labels = Tensor::from_data_size(&self.labels, &[b, h, w], Kind::Uint8);
        (Tensor::cat(&images, 0), labels.to_device(device).to_kind(Kind::Int64))
    }
}

/// Threads that make the batches of steps `first..end`, a few ahead, in order.
#[derive(Debug)]
pub struct Loader {
    queues: Vec<Receiver<Result<Batch>>>,
    taken: usize,
}

impl Loader {
    /// Starts `workers` threads; they end when the loader is dropped or the steps are done.
    ///
    /// # Errors
    /// The system refuses a thread.
    pub fn start(
        source: &Arc<Source>,
        steps: std::ops::Range<u64>,
        workers: usize,
    ) -> Result<Self> {
        let mut queues = Vec::with_capacity(workers);
        for worker in 0..workers {
            let (sender, receiver) = bounded(1);
            let source = Arc::clone(source);
            let own = steps.clone().skip(worker).step_by(workers);
            let work = move || {
                for step in own {
                    let batch = source.batch(step);
                    let failed = batch.is_err();
                    if sender.send(batch).is_err() || failed {
                        return;
                    }
                }
            };
            let name = format!("loader {worker}");
            let started = thread::Builder::new().name(name.clone()).spawn(work);
            started.map_err(|source| Error::Io { path: PathBuf::from(name), source })?;
            queues.push(receiver);
        }
        Ok(Self { queues, taken: 0 })
    }

    /// The next batch.
    ///
    /// # Errors
    /// What kept a worker from making it.
    pub fn next_batch(&mut self) -> Result<Batch> {
        let queue = &self.queues[self.taken % self.queues.len()];
        self.taken += 1;
        let gone = |_| Error::Torch {
            what: "loading a batch",
            problem: "a loader thread ended early".into(),
        };
        queue.recv().map_err(gone)?
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::write_png;

    /// Three street pictures of 40x60 px, grey 50, 51, 52, labelled 0, 1, 2.
    fn source(folder: &std::path::Path, batch_size: usize) -> Source {
        let pair = |i: u8| {
            let pair = Pair {
                image: folder.join(format!("{i}.png")),
                labels: folder.join(format!("{i}_labels.png")),
            };
            write_png(&pair.image, 40, 60, &vec![50 + i; 40 * 60 * 3]).unwrap();
            write_png(&pair.labels, 40, 60, &vec![i; 40 * 60]).unwrap();
            pair
        };
        Source {
            streets: (0..3).map(pair).collect(),
            outliers: None,
            augment: AugmentConfig {
                scale: [1.0, 1.0],
                crop: [28, 42],
                flip: 0.0,
                colour_jitter: 0.0,
            },
            window: [28, 42],
            batch_size,
            seed: 1,
            num_classes: 3,
        }
    }

    #[test]
    fn an_epoch_shows_every_picture_once_and_workers_keep_the_order() {
        let folder = tempfile::tempdir().unwrap();
        let source = Arc::new(source(folder.path(), 3));
        for step in 0..4 {
            let batch = source.batch(step).unwrap();
            let mut seen: Vec<_> = (0..3).map(|i| batch.labels[i * 28 * 42]).collect();
            seen.sort_unstable();
            assert_eq!(seen, [0, 1, 2], "epoch {step}");
        }
        let mut loader = Loader::start(&source, 5..9, 3).unwrap();
        for step in 5..9 {
            assert_eq!(loader.next_batch().unwrap(), source.batch(step).unwrap(), "step {step}");
        }
        let (images, labels) = source.batch(0).unwrap().tensors(Device::Cpu);
        assert_eq!(images.size(), [3, 3, 28, 42]);
        let value = 50.0 + labels.double_value(&[1, 3, 4]);
        let expected = (value / 255.0 - 0.456) / 0.224;
        assert!((images.double_value(&[1, 1, 3, 4]) - expected).abs() < 1e-6);
    }

    #[test]
    fn a_label_outside_the_classes_stops_the_loader_with_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let source = Source { num_classes: 2, ..source(folder.path(), 3) };
        let mut loader = Loader::start(&Arc::new(source), 0..9, 2).unwrap();
        let error = loader.next_batch().unwrap_err().chain();
        assert!(error.contains("2_labels.png") && error.contains("label 2 at row 0"), "{error}");
    }
}
