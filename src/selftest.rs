//! Known-answer test: the loaded network, where it runs, on pictures whose answer is known.
//!
//! The sidecar holds the answer of the weights in float32 on a CPU (`ood_seg check --write`). The first
//! answer after loading must agree with it, as far as another device and precision let it; every later
//! one must agree with the first, and the weights must have the bits they had. A flipped bit, a sick
//! device, or a library that counts differently shows here and not in a mask.

use crate::image::{Image, Limits};
use crate::model::answer::{Answer, Sample, Tolerance};
use crate::model::{Precision, Score};
use crate::pipeline::Pipeline;
use crate::{Error, Result};

/// Known pictures.
pub const PICTURES: u32 = 3;

/// Samples of a picture: this many rows by as many columns.
const GRID: usize = 8;

/// The weights are looked at in as many parts, one at every [`SelfTest::step`].
const PARTS: usize = 6;

/// Of an answer from the first one after loading: the same kernels on the same device.
const AGAIN: Tolerance = Tolerance { classes: 0.02, values: 1e-3 };

/// The running test of a loaded network.
#[derive(Debug)]
pub struct SelfTest {
    /// The first answer, picture by picture.
    first: Vec<Answer>,
    /// Sums of the weights' bits, part by part.
    weights: Vec<Vec<(String, i64)>>,
    steps: usize,
    stored: bool,
}

impl SelfTest {
    /// Asks for every picture, and compares with the sidecar's answer where there is one.
    ///
    /// # Errors
    /// [`Error::SelfTest`] where they differ; [`Error::Torch`].
    pub fn start(pipeline: &Pipeline) -> Result<Self> {
        let weights = |part| pipeline.model().bit_sums(part, PARTS);
        let weights = (0..PARTS).map(weights).collect::<Result<_>>()?;
        let first = (0..PICTURES).map(|i| ask(pipeline, i)).collect::<Result<Vec<_>>>()?;
        let stored = pipeline.model().config().answer.as_ref();
        if let Some(expected) = stored {
            check(&joined(&first), expected, tolerance(pipeline), "its sidecar's")?;
        }
        Ok(Self { first, weights, steps: 0, stored: stored.is_some() })
    }

    /// Whether the weights came with an answer; without one the first is taken for right.
    pub fn stored(&self) -> bool {
        self.stored
    }

    /// Asks for the next picture, a window's work, and looks at the next part of the weights.
    ///
    /// # Errors
    /// As [`SelfTest::start`].
    pub fn step(&mut self, pipeline: &Pipeline) -> Result<()> {
        let part = self.steps % PARTS;
        let sums = pipeline.model().bit_sums(part, PARTS)?;
        let changed = self.weights[part].iter().zip(&sums).find(|(before, now)| before != now);
        if let Some(((name, _), _)) = changed {
            return Err(Error::SelfTest(format!("the bits of `{name}` are not those loaded")));
        }
        let picture = self.steps % self.first.len();
        self.steps += 1;
        if !pipeline.knows_obstacles() {
            return Ok(()); // the answer is that of the whole network
        }
        let answer = ask(pipeline, u32::try_from(picture).unwrap_or(0))?;
        check(&answer, &self.first[picture], AGAIN, "the first")
    }

    /// Every picture and every part of the weights.
    ///
    /// # Errors
    /// As [`SelfTest::start`].
    pub fn all(&mut self, pipeline: &Pipeline) -> Result<()> {
        (0..PARTS.max(self.first.len())).try_for_each(|_| self.step(pipeline))
    }
}

/// The answer to every picture, for the sidecar.
///
/// # Errors
/// [`Error::SelfTest`] for one that is not made of finite numbers; [`Error::Torch`].
pub fn answer(pipeline: &Pipeline) -> Result<Answer> {
    let answers = (0..PICTURES).map(|i| ask(pipeline, i)).collect::<Result<Vec<_>>>()?;
    Ok(joined(&answers))
}

fn joined(answers: &[Answer]) -> Answer {
    Answer(answers.iter().flat_map(|answer| answer.0.iter().copied()).collect())
}

fn check(found: &Answer, expected: &Answer, tolerance: Tolerance, whose: &str) -> Result<()> {
    let deviation = found.deviation(expected, tolerance);
    let error = |what| Error::SelfTest(format!("the answer is not {whose}: {what}"));
    deviation.map_or(Ok(()), |what| Err(error(what)))
}

/// How far this device and precision may be from float32 on a CPU.
fn tolerance(pipeline: &Pipeline) -> Tolerance {
    match (pipeline.model().precision(), pipeline.model().device().is_cuda()) {
        (Precision::F32, false) => Tolerance { classes: 0.01, values: 1e-3 },
        (Precision::F32, true) => Tolerance { classes: 0.01, values: 0.05 },
        (Precision::Bf16 | Precision::F16, _) => Tolerance { classes: 0.1, values: 0.2 },
    }
}

/// The answer to one picture.
fn ask(pipeline: &Pipeline, picture: u32) -> Result<Answer> {
    let model = pipeline.model();
    let [h, w] = model.config().window.map(|side| u32::try_from(side).unwrap_or(0));
    let second = if model.uem.is_some() { Score::Ood } else { Score::NegId };
    let image = self::picture(picture, h, w);
    let limits = Limits { max_width: w, max_height: h, max_bytes: u64::MAX };
    let maps = pipeline.scores_within(&image, &[Score::Energy, second], &limits);
    let maps = maps.map_err(|error| match error {
        Error::NotFinite { .. } => Error::SelfTest(error.to_string()),
        other => other,
    })?;
    let middle = |i: usize, side: usize| (2 * i + 1) * side / (2 * GRID);
    let places = (0..GRID * GRID)
        .map(|i| middle(i / GRID, maps.height) * maps.width + middle(i % GRID, maps.width));
    let sample = |i: usize| Sample {
        class: maps.classes[i],
        values: [maps.scores[0].1[i], maps.scores[1].1[i]],
    };
    Ok(Answer(places.map(sample).collect()))
}

/// Picture `number` of the test, rgb8: slopes, blocks and noise, the same on every machine.
fn picture(number: u32, height: u32, width: u32) -> Image {
    let byte = |y: u32, x: u32, channel: u32| {
        let slope = (y * 160 / height.max(1) + x * 60 / width.max(1)) * (channel + number + 1) / 3;
        let block = (y / (9 + 4 * number) * 7 + x / (13 + 6 * number) * 11 + channel) % 5 * 25;
        let seed = ((y * width + x) * 3 + channel + number).wrapping_mul(2_654_435_761);
        (slope + block + (seed >> 27)).to_le_bytes()[0]
    };
    let rows = (0..height).flat_map(|y| (0..width).map(move |x| (y, x)));
    let data = rows.flat_map(|(y, x)| (0..3).map(move |c| byte(y, x, c))).collect();
    let (encoding, step) = ("rgb8".into(), 3 * width);
    Image { height, width, step, encoding, data, ..Image::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint;
    use crate::obstacle::ObstacleConfig;
    use crate::pipeline::PipelineConfig;
    use crate::window::Plan;

    /// The network in a file, behind limits that its window does not keep.
    fn load(path: &std::path::Path, precision: Precision) -> Pipeline {
        let model = checkpoint::load(path, tch::Device::Cpu, precision).unwrap();
        let score = if model.uem.is_some() { Score::Llr } else { Score::NegId };
        let limits = Limits { max_width: 10, ..Limits::default() };
        let (plan, obstacle) = (Plan::Tiles, ObstacleConfig::default());
        let config = PipelineConfig { plan, batch: 1, score, ood_threshold: 0.0, obstacle, limits };
        Pipeline::new(model, config).unwrap()
    }

    #[test]
    fn what_is_stored_agrees_with_the_network_in_every_precision_and_not_with_another() {
        let folder = tempfile::tempdir().unwrap();
        for variant in ["d-d", "g-g", "d"] {
            let path = folder.path().join(format!("{variant}.safetensors"));
            checkpoint::save(&checkpoint::init("tiny", variant, 3).unwrap(), &path).unwrap();
            let first = load(&path, Precision::F32);
            assert!(!SelfTest::start(&first).unwrap().stored());
            checkpoint::set_answer(&path, answer(&first).unwrap()).unwrap();
            for precision in [Precision::F32, Precision::Bf16] {
                let pipeline = load(&path, precision);
                let mut test = SelfTest::start(&pipeline).unwrap();
                assert!(test.stored());
                test.all(&pipeline).unwrap();
            }
            let text = std::fs::read_to_string(path.with_extension("yaml")).unwrap();
            let other = checkpoint::init("tiny", variant, 4).unwrap();
            checkpoint::save(&other, &path).unwrap();
            let fresh = std::fs::read_to_string(path.with_extension("yaml")).unwrap();
            let line = text.lines().find(|line| line.starts_with("answer: ")).unwrap();
            std::fs::write(path.with_extension("yaml"), format!("{fresh}{line}\n")).unwrap();
            let error = SelfTest::start(&load(&path, Precision::F32)).unwrap_err();
            assert!(matches!(error, Error::SelfTest(_)), "{error}");
        }
    }

    #[test]
    fn one_flipped_bit_of_one_weight_is_found_by_its_sum_and_a_large_one_by_the_answer() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        checkpoint::save(&checkpoint::init("tiny", "d-d", 3).unwrap(), &path).unwrap();
        for (bit, found_by_answer) in [(0, false), (30, true)] {
            let pipeline = load(&path, Precision::F32);
            let mut test = SelfTest::start(&pipeline).unwrap();
            let name = "segmentor.backbone.dinov2.blocks.2.mlp.fc1.weight";
            let weight = pipeline.model().variables().remove(name).unwrap();
            let one = weight.view_dtype(tch::Kind::Int).view(-1).get(1234);
            let _no_grad = tch::no_grad_guard();
            drop(one.shallow_clone().bitwise_xor_(1 << bit));
            let error = test.all(&pipeline).unwrap_err().to_string();
            assert_eq!(error.contains("bits of") && error.contains(name), bit == 0, "{error}");
            let answers = (0..PICTURES).map(|i| ask(&pipeline, i));
            let wrong = answers
                .zip(&test.first)
                .any(|(now, first)| now.map_or(true, |now| check(&now, first, AGAIN, "").is_err()));
            assert_eq!(wrong, found_by_answer, "bit {bit}");
        }
    }

    #[test]
    fn the_pictures_differ_from_each_other_and_are_not_flat() {
        let images: Vec<_> = (0..PICTURES).map(|i| picture(i, 28, 56).data).collect();
        for (i, image) in images.iter().enumerate() {
            assert!(images[..i].iter().all(|other| other != image));
            let (least, most) = (image.iter().min().unwrap(), image.iter().max().unwrap());
            assert!(most - least > 100, "{least} to {most}");
        }
    }
}
