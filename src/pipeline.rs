//! One picture in, planes out: what the node, the tools and the evaluation all call.
//!
//! Logits are averaged over the windows first and scored after: a maximum does not commute with a
//! mean. The only place that turns a panic of libtorch into an [`Error`].

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use tch::{Device, Kind, Tensor};

use crate::image::{Image, Limits};
use crate::model::{Model, Outputs, Score};
use crate::msg::Header;
use crate::preprocess;
use crate::window::{self, Plan};
use crate::{Error, Result};

/// How frames are processed.
#[derive(Clone, Debug, PartialEq)]
pub struct PipelineConfig {
    /// Windows over a frame.
    pub plan: Plan,
    /// Windows per forward pass, at least 1.
    pub batch: usize,
    /// The score behind the OoD mask.
    pub score: Score,
    /// A pixel is out of distribution when its score is above this.
    pub ood_threshold: f32,
    /// Largest frame accepted.
    pub limits: Limits,
}

/// Which planes are wanted beside classes and OoD mask; what nobody reads is not computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Planes {
    /// The score itself.
    pub score: bool,
    /// The largest softmax probability.
    pub confidence: bool,
    /// sigmoid(score).
    pub probability: bool,
    /// The picture as rgb8, for overlays.
    pub rgb: bool,
}

/// What the network says about one frame. Planes are row-major, `height * width` pixels.
#[derive(Clone, Debug, PartialEq)]
pub struct Prediction {
    /// The frame's own header.
    pub header: Header,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// Train id per pixel.
    pub classes: Vec<u8>,
    /// 255 where the score is above the threshold, else 0.
    pub ood_mask: Vec<u8>,
    /// The score per pixel, higher is more out of distribution.
    pub score: Option<Vec<f32>>,
    /// Largest softmax probability per pixel, 0 to 255.
    pub confidence: Option<Vec<u8>>,
    /// `sigmoid(score)` per pixel, 0 to 255; for the LLR the probability of "outlier" that the UEM was
    /// trained for.
    pub probability: Option<Vec<u8>>,
    /// The picture, three bytes per pixel.
    pub rgb: Option<Vec<u8>>,
    /// Where the time went.
    pub timing: Timing,
}

/// Milliseconds per stage. On a GPU work is queued, so waiting for it counts where results are fetched.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Timing {
    /// Validation, upload, colour conversion, normalisation.
    pub preprocess_ms: f32,
    /// Windows through the network.
    pub inference_ms: f32,
    /// Score, masks, download.
    pub postprocess_ms: f32,
}

/// Classes and scores for metrics.
#[derive(Clone, Debug, PartialEq)]
pub struct ScoreMaps {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// Train id per pixel.
    pub classes: Vec<u8>,
    /// One plane per score asked for, in that order.
    pub scores: Vec<(Score, Vec<f32>)>,
}

/// A loaded network and how to use it.
#[derive(Debug)]
pub struct Pipeline {
    model: Model,
    config: PipelineConfig,
}

impl Pipeline {
    /// A pipeline on a loaded model.
    ///
    /// # Errors
    /// [`Error::Setting`]: an empty batch, a threshold that is not finite, a score that needs the UEM
    /// of a model that has none.
    pub fn new(model: Model, config: PipelineConfig) -> Result<Self> {
        if config.batch == 0 {
            return Err(Error::setting("batch", &config.batch, "1 window per pass or more"));
        }
        if !config.ood_threshold.is_finite() {
            return Err(Error::setting("ood_threshold", &config.ood_threshold, "a finite number"));
        }
        check_score(&model, config.score)?;
        Ok(Self { model, config })
    }

    /// The network.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The settings.
    pub fn config(&self) -> &PipelineConfig {
        &self.config
    }

    /// Moves the operating point; the next frame uses it.
    ///
    /// # Errors
    /// [`Error::Setting`] for a threshold that is not finite; the old one stays.
    pub fn set_ood_threshold(&mut self, threshold: f32) -> Result<()> {
        if !threshold.is_finite() {
            return Err(Error::setting("ood_threshold", &threshold, "a finite number"));
        }
        self.config.ood_threshold = threshold;
        Ok(())
    }

    /// Segments one frame.
    ///
    /// # Errors
    /// [`Error::Frame`] for a frame that cannot be processed, [`Error::NotFinite`] for a result that
    /// must not be published, [`Error::Torch`] when libtorch fails.
    pub fn run(&self, image: &Image, planes: Planes) -> Result<Prediction> {
        guarded("segmenting a frame", || self.predict(image, planes))?
    }

    /// Classes and any number of scores from one pass of the network.
    ///
    /// # Errors
    /// As [`Pipeline::run`], and [`Error::Setting`] for a score that this model cannot give.
    pub fn scores(&self, image: &Image, scores: &[Score]) -> Result<ScoreMaps> {
        for &score in scores {
            check_score(&self.model, score)?;
        }
        guarded("scoring a frame", || {
            let (_, outputs) = self.outputs(image)?;
            let plane = |&score: &Score| Ok((score, download(&finite(score, &outputs)?)));
            let (height, width) = size(&outputs);
            Ok(ScoreMaps {
                height,
                width,
                classes: download(&classes(&outputs)),
                scores: scores.iter().map(plane).collect::<Result<_>>()?,
            })
        })?
    }

    fn predict(&self, image: &Image, planes: Planes) -> Result<Prediction> {
        let start = Instant::now();
        let rgb = self.upload(image)?;
        let x = preprocess::normalise(&rgb);
        let uploaded = Instant::now();
        let outputs = self.segment(&x);
        let inferred = Instant::now();
        let score = finite(self.config.score, &outputs)?;
        let mask = score.gt(f64::from(self.config.ood_threshold)).to_kind(Kind::Uint8) * 255;
        let confidence = || outputs.logits.softmax(1, Kind::Float).amax([1], false);
        let byte = |share: Tensor| download(&(share * 255.0).round().to_kind(Kind::Uint8));
        let (height, width) = size(&outputs);
        Ok(Prediction {
            header: image.header.clone(),
            height,
            width,
            classes: download(&classes(&outputs)),
            ood_mask: download(&mask),
            score: planes.score.then(|| download(&score)),
            confidence: planes.confidence.then(|| byte(confidence())),
            probability: planes.probability.then(|| byte(score.sigmoid())),
            rgb: planes.rgb.then(|| download(&rgb.permute([1, 2, 0]).contiguous())),
            timing: Timing {
                preprocess_ms: milliseconds(start, uploaded),
                inference_ms: milliseconds(uploaded, inferred),
                postprocess_ms: milliseconds(inferred, Instant::now()),
            },
        })
    }

    /// The picture on the device, `(3, h, w)` uint8, and its averaged outputs.
    fn outputs(&self, image: &Image) -> Result<(Tensor, Outputs)> {
        let rgb = self.upload(image)?;
        let outputs = self.segment(&preprocess::normalise(&rgb));
        Ok((rgb, outputs))
    }

    fn upload(&self, image: &Image) -> Result<Tensor> {
        let encoding = image.validate(&self.config.limits)?;
        preprocess::to_rgb(image, encoding, self.model.device())
    }

    fn segment(&self, x: &Tensor) -> Outputs {
        window::segment(&self.model, x, self.config.plan, self.config.batch)
    }
}

/// Refuses a score that reads the UEM of a model without one.
fn check_score(model: &Model, score: Score) -> Result<()> {
    if score.needs_uem() && model.uem.is_none() {
        let allowed = "a score without UEM (neg_id, msp, max_logit, entropy, energy, rba): \
                       these weights are a segmentor alone";
        return Err(Error::setting("score", &score, allowed));
    }
    Ok(())
}

/// Runs `work` without gradients; a panic of libtorch becomes an [`Error::Torch`].
fn guarded<T>(what: &'static str, work: impl FnOnce() -> T) -> Result<T> {
    let caught = catch_unwind(AssertUnwindSafe(|| {
        let _no_grad = tch::no_grad_guard();
        work()
    }));
    caught.map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without text");
        Error::Torch { what, problem: text.lines().next().unwrap_or_default().to_owned() }
    })
}

/// The score `(1, h, w)`, once it is known that every pixel of it is a number.
fn finite(score: Score, outputs: &Outputs) -> Result<Tensor> {
    let plane = score.of(outputs);
    let bad = plane.isfinite().logical_not().sum(Kind::Int64).int64_value(&[]);
    if bad > 0 {
        return Err(Error::NotFinite { what: score.name(), bad, of: plane.numel() });
    }
    Ok(plane)
}

fn classes(outputs: &Outputs) -> Tensor {
    outputs.logits.argmax(1, false).to_kind(Kind::Uint8)
}

fn size(outputs: &Outputs) -> (usize, usize) {
    let side = |i: usize| usize::try_from(outputs.logits.size()[i]).unwrap_or_default();
    (side(2), side(3))
}

/// A plane as a plain vector.
fn download<T: tch::kind::Element + Copy + Default>(plane: &Tensor) -> Vec<T> {
    let plane = plane.to_device(Device::Cpu).contiguous();
    let mut out = vec![T::default(); plane.numel()];
    plane.copy_data(&mut out, plane.numel());
    out
}

#[expect(clippy::cast_possible_truncation, reason = "milliseconds need no more digits")]
fn milliseconds(from: Instant, to: Instant) -> f32 {
    (to.duration_since(from).as_secs_f64() * 1e3) as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ClassTable;
    use crate::model::ModelConfig;

    fn pipeline(plan: Plan) -> Pipeline {
        tch::manual_seed(5);
        let config = ModelConfig::named("tiny", "d-d", ClassTable::cityscapes()).unwrap();
        let model = Model::new(&config, Device::Cpu).unwrap();
        let limits = Limits::default();
        let config =
            PipelineConfig { plan, batch: 2, score: Score::Llr, ood_threshold: 0.0, limits };
        Pipeline::new(model, config).unwrap()
    }

    fn picture(h: u32, w: u32) -> Image {
        let data = (0..h * w * 3).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let encoding = "rgb8".into();
        Image { height: h, width: w, step: 3 * w, encoding, data, ..Image::default() }
    }

    const ALL: Planes = Planes { score: true, confidence: true, probability: true, rgb: true };

    #[test]
    fn planes_come_back_at_the_frames_size_under_every_plan() {
        for plan in Plan::ALL {
            for (h, w) in [(150, 301), (90, 100), (140, 280)] {
                let image = picture(h, w);
                let got = pipeline(plan).run(&image, ALL).unwrap();
                let pixels = (h * w) as usize;
                assert_eq!((got.height, got.width), (h as usize, w as usize), "{plan}");
                assert_eq!(got.classes.len(), pixels);
                assert!(got.classes.iter().all(|&id| id < 19));
                assert_eq!(got.rgb.unwrap(), image.data);
                let score = got.score.unwrap();
                for (mask, score) in got.ood_mask.iter().zip(&score) {
                    assert_eq!(*mask, if *score > 0.0 { 255 } else { 0 });
                }
                assert_eq!(got.confidence.unwrap().len(), pixels);
                for (byte, score) in got.probability.unwrap().iter().zip(&score) {
                    let share = 255.0 / (1.0 + (-score).exp());
                    assert!((f32::from(*byte) - share).abs() < 0.51, "{byte} {score}");
                }
            }
        }
    }

    #[test]
    fn an_offline_score_is_the_nodes_score_bit_for_bit() {
        let pipeline = pipeline(Plan::Tiles);
        let image = picture(150, 301);
        let got = pipeline.run(&image, ALL).unwrap();
        let maps = pipeline.scores(&image, &[Score::Msp, Score::Llr]).unwrap();
        assert_eq!(maps.classes, got.classes);
        assert_eq!(maps.scores[1], (Score::Llr, got.score.unwrap()));
    }

    #[test]
    fn a_result_that_is_not_a_number_is_an_error_and_the_next_frame_is_not() {
        let mut pipeline = pipeline(Plan::Single);
        let bias = pipeline.model.variables().remove("ood_head._head.bias").unwrap();
        let _no_grad = tch::no_grad_guard();
        let keep = bias.copy();
        let _ = bias.get(1).fill_(f64::NAN);
        let error = pipeline.run(&picture(140, 280), Planes::default()).unwrap_err();
        assert!(matches!(error, Error::NotFinite { bad: 39_200, of: 39_200, .. }), "{error}");
        let mut bias = bias;
        bias.copy_(&keep);
        pipeline.run(&picture(140, 280), Planes::default()).unwrap();
        assert!(pipeline.set_ood_threshold(f32::NAN).is_err());
    }

    #[test]
    fn a_panic_of_libtorch_is_an_error_with_its_first_line() {
        let broken =
            || Tensor::zeros([2, 3], (Kind::Float, Device::Cpu)).matmul(&Tensor::from(1f32));
        let error = guarded("multiplying", broken).unwrap_err().to_string();
        assert!(error.starts_with("multiplying: ") && !error.contains('\n'), "{error}");
    }

    #[test]
    fn a_segmentor_alone_has_no_llr_and_says_so() {
        let config = ModelConfig::named("tiny", "g", ClassTable::cityscapes()).unwrap();
        let model = Model::new(&config, Device::Cpu).unwrap();
        let limits = Limits::default();
        let llr = PipelineConfig {
            plan: Plan::Single,
            batch: 1,
            score: Score::Llr,
            ood_threshold: 0.0,
            limits,
        };
        let error = Pipeline::new(model, llr).unwrap_err().to_string();
        assert!(error.contains("llr") && error.contains("neg_id"), "{error}");
    }
}
