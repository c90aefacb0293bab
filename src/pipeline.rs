//! One picture in, planes out: what the node, the tools and the evaluation all call.
//!
//! Logits are averaged over the windows first and scored after: a maximum does not commute with a
//! mean. The only place that turns a panic of libtorch into an [`Error`].

mod accelerated;
mod operating;
mod view;

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use tch::{Kind, Tensor};

use crate::image::{Image, Limits};
use crate::model::cuda::{Copies, Download};
use crate::model::familiar::Familiarity;
use crate::model::{Fused, Model, ModelConfig, Outputs, Score, classes};
use crate::msg::Header;
use crate::obstacle::{Maps, Obstacle, ObstacleConfig, obstacles};
use crate::preprocess;
use crate::window::{self, Plan};
use crate::{Error, Result};

pub use operating::OperatingPoint;
pub use view::{EgoMask, Resolution, Rotation, UNLABELLED, View};

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
    /// Which pixels above it count, and what more belongs to them.
    pub obstacle: ObstacleConfig,
    /// Largest frame accepted.
    pub limits: Limits,
}

/// A frame to segment, seen how, and what is wanted of it.
pub type Frame<'a> = (&'a Image, &'a View, Planes);

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
    /// Boxes and outlines of the mask's regions.
    pub obstacles: bool,
}

/// What the network says about one frame. Planes are row-major, `height * width` pixels, in the
/// orientation of the camera's picture. Outside the valid area ([`View::ego_mask`]) a pixel is
/// [`UNLABELLED`], its mask, confidence and probability are 0 and its score is NaN.
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
    /// The threshold of [`Prediction::ood_mask`].
    pub ood_threshold: f32,
    /// 255 where an obstacle is, else 0; where the score is above the threshold, unless
    /// [`PipelineConfig::obstacle`] says more. Empty while nothing is known about obstacles.
    pub ood_mask: Vec<u8>,
    /// Share of the frame's pixels whose score is above the threshold.
    pub ood_fraction: f32,
    /// The obstacles of the mask.
    pub obstacles: Option<Vec<Obstacle>>,
    /// The score per pixel, higher is more out of distribution.
    pub score: Option<Vec<f32>>,
    /// Largest softmax probability per pixel, 0 to 255.
    pub confidence: Option<Vec<u8>>,
    /// `sigmoid(score)` per pixel, 0 to 255; for the LLR the probability of "outlier" that the UEM was
    /// trained for.
    pub probability: Option<Vec<u8>>,
    /// The picture, three bytes per pixel.
    pub rgb: Option<Vec<u8>>,
    /// Distance of the picture from those that the model was calibrated on, by the calibrated bound: a
    /// picture above 1 is unlike them. `None` where the model's calibration does not say.
    pub unfamiliarity: Option<f32>,
    /// Where the time went.
    pub timing: Timing,
}

/// Milliseconds per stage. On a GPU work is queued, so waiting for it counts where results are fetched.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Timing {
    /// Validation, upload, colour conversion, normalisation.
    pub preprocess_ms: f32,
    /// Windows through the network, those of the frames in the same batch included.
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
    /// What the picture as a whole looks like to the backbone.
    pub descriptor: Vec<f32>,
}

/// A loaded network and how to use it.
#[derive(Debug)]
pub struct Pipeline {
    model: Fused,
    config: PipelineConfig,
    classes_only: bool,
    /// Pinned copies to and from a GPU, see [`Pipeline::accelerate`].
    copies: Option<Copies>,
    /// How passes and copies are made, for people.
    way: String,
}

impl Pipeline {
    /// A pipeline on a loaded model.
    ///
    /// # Errors
    /// [`Error::Setting`]: an empty batch, a threshold that is not finite, limits of obstacles that
    /// contradict each other, a score that needs the UEM of a model that has none.
    pub fn new(model: Model, config: PipelineConfig) -> Result<Self> {
        if config.batch == 0 {
            return Err(Error::setting("batch", &config.batch, "1 window per pass or more"));
        }
        check_threshold(config.ood_threshold)?;
        config.obstacle.validate()?;
        check_score(model.config(), config.score)?;
        let model = guarded("folding the network", || Fused::new(model))?;
        let way = "plain passes and copies".into();
        Ok(Self { model, config, classes_only: false, copies: None, way })
    }

    /// The network.
    pub fn model(&self) -> &Fused {
        &self.model
    }

    /// The settings.
    pub fn config(&self) -> &PipelineConfig {
        &self.config
    }

    /// What holds where the parameters leave it to the model.
    pub fn calibrated(&self) -> OperatingPoint {
        OperatingPoint::of(self.model.config(), self.config.score)
    }

    /// Moves the operating point; the next frame uses it.
    ///
    /// # Errors
    /// [`Error::Setting`] for a threshold that is not finite; the old one stays.
    pub fn set_ood_threshold(&mut self, threshold: f32) -> Result<()> {
        check_threshold(threshold)?;
        self.config.ood_threshold = threshold;
        Ok(())
    }

    /// Does less or more from the next frame on: with these windows, and with the UEM or without, when
    /// nothing is known about obstacles ([`Prediction::ood_mask`] is empty).
    pub fn set_effort(&mut self, plan: Plan, obstacles: bool) {
        self.config.plan = plan;
        self.model.rest_uem(!obstacles);
        self.classes_only = !obstacles;
    }

    /// Whether the whole network is at work, see [`Pipeline::set_effort`].
    pub fn knows_obstacles(&self) -> bool {
        !self.classes_only
    }

    /// Runs the network once with every number of windows that a pass can have, 1 to `batch`, so that
    /// no frame has to wait for what libtorch does the first time; milliseconds of each.
    ///
    /// # Errors
    /// [`Error::Torch`].
    pub fn warm_up(&self) -> Result<Vec<f32>> {
        let [h, w] = self.model.config().window;
        let pass = |windows: usize| {
            let start = Instant::now();
            guarded("warming up", || {
                let window = Tensor::zeros([1, 3, h, w], (Kind::Float, self.model.device()));
                let windows: Vec<_> = (0..windows).map(|_| window.shallow_clone()).collect();
                let outputs = window::segment(&self.model, &windows, Plan::Tiles, windows.len());
                // Work is queued on a GPU; a number that is fetched is done.
                outputs.iter().map(|one| one.logits.double_value(&[0, 0, 0, 0])).sum::<f64>()
            })?;
            Ok(milliseconds(start))
        };
        (1..=self.config.batch).map(pass).collect()
    }

    /// Segments one frame as it comes.
    ///
    /// # Errors
    /// [`Error::Frame`] for a frame that cannot be processed, [`Error::NotFinite`] for a result that
    /// must not be published, [`Error::Torch`] when libtorch fails.
    pub fn run(&self, image: &Image, planes: Planes) -> Result<Prediction> {
        self.run_batch(&[(image, &View::default(), planes)]).remove(0)
    }

    /// Segments frames of one or several cameras, whose windows share forward passes; one result per
    /// frame, in their order.
    ///
    /// # Errors
    /// In the frame's own entry, as [`Pipeline::run`], and [`Error::Setting`] for a [`View`] that does
    /// not fit the frame. The other frames are not concerned, unless libtorch fails in a shared pass.
    pub fn run_batch(&self, frames: &[Frame<'_>]) -> Vec<Result<Prediction>> {
        let uploads: Vec<_> =
            frames.iter().map(|frame| self.upload(frame, &self.config.limits)).collect();
        let start = Instant::now();
        let pictures = uploads.iter().flatten().map(|upload| upload.picture.shallow_clone());
        let mut outputs = self.segment(&pictures.collect::<Vec<_>>()).into_iter();
        let inference_ms = milliseconds(start);
        let finish = |(frame, upload): (&Frame<'_>, Result<Upload>)| {
            let upload = upload?;
            let outputs = outputs.next().unwrap_or_else(|| unreachable!("one per upload"))?;
            guarded("scoring a frame", || {
                let mut prediction = self.predict(frame, &upload, outputs)?;
                prediction.timing.inference_ms = inference_ms;
                Ok(prediction)
            })?
        };
        frames.iter().zip(uploads).map(finish).collect()
    }

    /// Classes and any number of scores from one pass of the network.
    ///
    /// # Errors
    /// As [`Pipeline::run`], and [`Error::Setting`] for a score that this model cannot give.
    pub fn scores(&self, image: &Image, scores: &[Score]) -> Result<ScoreMaps> {
        self.scores_within(image, scores, &self.config.limits)
    }

    /// As [`Pipeline::scores`], whatever the largest frame accepted is.
    pub(crate) fn scores_within(
        &self,
        image: &Image,
        scores: &[Score],
        limits: &Limits,
    ) -> Result<ScoreMaps> {
        for &score in scores {
            check_score(self.model.config(), score)?;
        }
        let Upload { picture, .. } =
            self.upload(&(image, &View::default(), Planes::default()), limits)?;
        let outputs = self.segment(&[picture.shallow_clone()]).remove(0)?;
        guarded("scoring a frame", || {
            let outputs = raised(outputs, &picture);
            let (height, width) = size(&outputs.logits);
            let mut planes = Download::new(self.copies.as_ref());
            let queued: Vec<_> = scores
                .iter()
                .map(|&score| {
                    let plane = plane(score, &outputs);
                    (score, planes.add(&not_finite(&plane)), planes.add(&plane))
                })
                .collect();
            let classes = planes.add(&classes(&outputs.logits));
            let descriptor = planes.add(&outputs.descriptor);
            let planes = planes.wait()?;
            let maps = queued.into_iter().map(|(score, bad, plane)| {
                check_finite(score, planes.take(bad)[0], height * width)?;
                Ok((score, planes.take(plane)))
            });
            Ok(ScoreMaps {
                height,
                width,
                scores: maps.collect::<Result<_>>()?,
                classes: planes.take(classes),
                descriptor: planes.take(descriptor),
            })
        })?
    }

    fn upload(&self, &(image, view, planes): &Frame<'_>, limits: &Limits) -> Result<Upload> {
        let start = Instant::now();
        let encoding = image.validate(limits)?;
        view.check(image)?;
        guarded("uploading a frame", || {
            let rgb = match &self.copies {
                None => preprocess::to_rgb(image, encoding, self.model.device())?,
                Some(copies) => {
                    preprocess::to_rgb_by(image, encoding, |bytes| copies.upload(bytes))?
                }
            };
            let picture = preprocess::normalise(&view.rotation.turn(&rgb));
            let rgb = planes.rgb.then_some(rgb);
            Ok(Upload { picture, rgb, preprocess_ms: milliseconds(start) })
        })?
    }

    /// The averaged outputs of each picture; a failure of libtorch is everybody's.
    fn segment(&self, pictures: &[Tensor]) -> Vec<Result<Outputs>> {
        let PipelineConfig { plan, batch, .. } = self.config;
        let work = || {
            #[cfg(feature = "fault-injection")]
            crate::fault::network(&self.model);
            window::segment(&self.model, pictures, plan, batch)
        };
        match caught(work) {
            Ok(outputs) => outputs.into_iter().map(Ok).collect(),
            Err(problem) => {
                let error =
                    || Error::Torch { what: "segmenting a frame", problem: problem.clone() };
                pictures.iter().map(|_| Err(error())).collect()
            }
        }
    }

    fn predict(
        &self,
        &(image, view, planes): &Frame<'_>,
        upload: &Upload,
        outputs: Outputs,
    ) -> Result<Prediction> {
        let start = Instant::now();
        let outputs = match view.resolution {
            Resolution::Input => raised(outputs, &upload.picture),
            Resolution::Network => outputs,
        };
        let back = view.rotation.inverse();
        let kind = if self.classes_only { Score::NegId } else { self.config.score };
        let score = back.turn(&plane(kind, &outputs));
        let threshold = view.ood_threshold.unwrap_or(self.config.ood_threshold);
        let above = score.gt(f64::from(threshold));
        let (height, width) = size(&score);
        let search = planes.obstacles || !self.config.obstacle.accepts_all(height * width);
        let confidence = || back.turn(&outputs.logits.softmax(1, Kind::Float).amax([1], false));
        let byte = |share: Tensor| (share * 255.0).round().to_kind(Kind::Uint8);
        let rgb = upload.rgb.as_ref().map(|rgb| resized(rgb, &score).permute([1, 2, 0]));

        let mut got = Download::new(self.copies.as_ref());
        let bad = got.add(&not_finite(&score));
        let class = got.add(&back.turn(&classes(&outputs.logits)));
        let mask = got.add(&(above.to_kind(Kind::Uint8) * 255));
        let share = got.add(&above.to_kind(Kind::Float).mean(Kind::Float));
        let values = (planes.score || search).then(|| got.add(&score));
        let confidence = planes.confidence.then(|| got.add(&byte(confidence())));
        let probability = planes.probability.then(|| got.add(&byte(score.sigmoid())));
        let rgb = rgb.map(|rgb| got.add(&rgb));
        let familiar = self.familiarity().map(|it| (it, got.add(&outputs.descriptor)));
        let got = got.wait()?;

        check_finite(kind, got.take(bad)[0], height * width)?;
        let mut prediction = Prediction {
            header: image.header.clone(),
            height,
            width,
            classes: got.take(class),
            ood_threshold: threshold,
            ood_mask: got.take(mask),
            ood_fraction: got.take(share)[0],
            obstacles: None,
            score: values.map(|at| got.take(at)),
            confidence: confidence.map(|at| got.take(at)),
            probability: probability.map(|at| got.take(at)),
            rgb: rgb.map(|at| got.take(at)),
            unfamiliarity: familiar.map(|(it, at)| it.ratio(&got.take(at))),
            timing: Timing { preprocess_ms: upload.preprocess_ms, ..Timing::default() },
        };
        if let Some(mask) = &view.ego_mask {
            mask.apply(&mut prediction);
        }
        if self.classes_only {
            prediction.forget_obstacles();
        } else if search {
            self.find_obstacles(&mut prediction, planes);
        }
        prediction.timing.postprocess_ms = milliseconds(start);
        Ok(prediction)
    }

    /// What the pictures of the calibration look like, where they were seen through the same windows.
    pub fn familiarity(&self) -> Option<&Familiarity> {
        let calibration = self.model.config().calibration.as_ref()?;
        let same = calibration.plan == self.config.plan.to_string();
        calibration.familiarity.as_ref().filter(|_| same)
    }

    /// Leaves the obstacles in the mask, and of them and the score what is wanted.
    fn find_obstacles(&self, prediction: &mut Prediction, planes: Planes) {
        let score = prediction.score.take().unwrap_or_default();
        let maps = Maps { score: &score, classes: &prediction.classes, width: prediction.width };
        let table = &self.model.config().classes;
        let found = obstacles(&maps, prediction.ood_threshold, &self.config.obstacle, table);
        prediction.ood_mask = found.mask;
        prediction.obstacles = planes.obstacles.then_some(found.list);
        prediction.score = planes.score.then_some(score);
    }
}

impl Prediction {
    /// Leaves the classes, and nothing that could be taken for "no obstacle".
    fn forget_obstacles(&mut self) {
        self.ood_mask.clear();
        self.ood_fraction = 0.0;
        (self.obstacles, self.score, self.probability, self.rgb) = (None, None, None, None);
    }
}

/// A frame on the device.
struct Upload {
    /// The network's input `(1, 3, h, w)`, upright.
    picture: Tensor,
    /// The camera's picture `(3, h, w)` uint8, if wanted.
    rgb: Option<Tensor>,
    preprocess_ms: f32,
}

fn check_threshold(threshold: f32) -> Result<()> {
    if threshold.is_finite() {
        return Ok(());
    }
    Err(Error::setting("ood_threshold", &threshold, "a finite number"))
}

/// Refuses a score that reads the UEM of a model without one.
fn check_score(model: &ModelConfig, score: Score) -> Result<()> {
    if score.needs_uem() && model.uem.is_none() {
        let allowed = "a score without UEM (neg_id, msp, max_logit, entropy, energy, rba): \
                       these weights are a segmentor alone";
        return Err(Error::setting("score", &score, allowed));
    }
    Ok(())
}

/// Runs `work` without gradients; a panic of libtorch becomes an [`Error::Torch`].
fn guarded<T>(what: &'static str, work: impl FnOnce() -> T) -> Result<T> {
    caught(work).map_err(|problem| Error::Torch { what, problem })
}

/// As [`guarded`], with the first line of the panic for an error.
fn caught<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    let caught = catch_unwind(AssertUnwindSafe(|| {
        let _no_grad = tch::no_grad_guard();
        work()
    }));
    caught.map_err(|panic| panic_text(&*panic))
}

/// The first line of what a panic said.
pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without text");
    text.lines().next().unwrap_or_default().to_owned()
}

/// Outputs at the size of the picture `(1, 3, h, w)` they are about.
fn raised(outputs: Outputs, picture: &Tensor) -> Outputs {
    let (h, w) = (picture.size()[2], picture.size()[3]);
    let there = outputs.logits.size()[2..] == [h, w];
    if there { outputs } else { window::raise(&outputs, [h, w]) }
}

/// The picture `(3, h, w)` uint8 at the size of `plane`, anti-aliased.
fn resized(rgb: &Tensor, plane: &Tensor) -> Tensor {
    let (h, w) = (plane.size()[1], plane.size()[2]);
    if rgb.size()[1..] == [h, w] {
        return rgb.shallow_clone();
    }
    let x = rgb.to_kind(Kind::Float).unsqueeze(0);
    let x = x.internal_upsample_bilinear2d_aa([h, w], false, None, None);
    x.squeeze_dim(0).round().clamp(0.0, 255.0).to_kind(Kind::Uint8)
}

/// The score `(1, h, w)`.
fn plane(score: Score, outputs: &Outputs) -> Tensor {
    let plane = score.of(outputs);
    #[cfg(feature = "fault-injection")]
    let plane = crate::fault::score(plane);
    plane
}

/// How many pixels of a score are not a number, int64.
fn not_finite(plane: &Tensor) -> Tensor {
    plane.isfinite().logical_not().sum(Kind::Int64)
}

/// Refuses a score with `bad` pixels of all that are not a number.
fn check_finite(score: Score, bad: i64, of: usize) -> Result<()> {
    match bad {
        0 => Ok(()),
        _ => Err(Error::NotFinite { what: score.name(), bad, of }),
    }
}

/// Height and width: the last two dimensions.
fn size(plane: &Tensor) -> (usize, usize) {
    let mut sides = plane.size().into_iter().rev().map(|side| usize::try_from(side).unwrap_or(0));
    let width = sides.next().unwrap_or(0);
    (sides.next().unwrap_or(0), width)
}

#[expect(clippy::cast_possible_truncation, reason = "milliseconds need no more digits")]
fn milliseconds(since: Instant) -> f32 {
    (since.elapsed().as_secs_f64() * 1e3) as f32
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;
    use crate::config::ClassTable;

    fn model() -> Model {
        tch::manual_seed(5);
        let config = ModelConfig::named("tiny", "d-d", ClassTable::cityscapes()).unwrap();
        Model::new(&config, Device::Cpu).unwrap()
    }

    pub(super) fn pipeline(plan: Plan) -> Pipeline {
        let model = model();
        let limits = Limits::default();
        let config = PipelineConfig {
            plan,
            batch: 2,
            score: Score::Llr,
            ood_threshold: 0.0,
            obstacle: ObstacleConfig::default(),
            limits,
        };
        Pipeline::new(model, config).unwrap()
    }

    pub(super) fn picture(h: u32, w: u32) -> Image {
        let data = (0..h * w * 3).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let encoding = "rgb8".into();
        Image { height: h, width: w, step: 3 * w, encoding, data, ..Image::default() }
    }

    #[test]
    fn warming_up_runs_every_batch_shape_and_changes_no_result() {
        let pipeline = pipeline(Plan::Tiles);
        let before = pipeline.run(&picture(60, 100), ALL).unwrap();
        let times = pipeline.warm_up().unwrap();
        assert_eq!(times.len(), 2);
        assert!(times.iter().all(|ms| *ms > 0.0), "{times:?}");
        let after = pipeline.run(&picture(60, 100), ALL).unwrap();
        assert_eq!((before.score, before.classes), (after.score, after.classes));
    }

    pub(super) const ALL: Planes =
        Planes { score: true, confidence: true, probability: true, rgb: true, obstacles: true };

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
        let broken = model();
        let bias = broken.variables().remove("ood_head._head.bias").unwrap();
        tch::no_grad(|| drop(bias.get(1).fill_(f64::NAN)));
        let sound = std::mem::replace(&mut pipeline.model, Fused::new(broken));
        let error = pipeline.run(&picture(140, 280), Planes::default()).unwrap_err();
        assert!(matches!(error, Error::NotFinite { bad: 39_200, of: 39_200, .. }), "{error}");
        pipeline.model = sound;
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
            obstacle: ObstacleConfig::default(),
            limits,
        };
        let error = Pipeline::new(model, llr).unwrap_err().to_string();
        assert!(error.contains("llr") && error.contains("neg_id"), "{error}");
    }

    #[test]
    fn frames_in_a_batch_get_what_they_get_alone_and_a_bad_one_fails_alone() {
        for plan in Plan::ALL {
            let mut pipeline = pipeline(plan);
            pipeline.config.batch = 5; // windows of all frames in one pass under `single`
            let images = [picture(150, 301), picture(90, 100), picture(140, 280)];
            let broken = Image { encoding: "mono16".into(), ..picture(90, 100) };
            let plain = View::default();
            let low = View { ood_threshold: Some(-1e3), ..View::default() };
            let wrong = View { ood_threshold: Some(f32::NAN), ..View::default() };
            let got = pipeline.run_batch(&[
                (&images[0], &plain, ALL),
                (&broken, &plain, ALL),
                (&images[1], &low, Planes::default()),
                (&images[1], &wrong, ALL),
                (&images[2], &plain, ALL),
            ]);
            let errors: Vec<_> =
                got.iter().map(|one| one.as_ref().err().map(Error::chain)).collect();
            assert!(errors[1].as_ref().unwrap().contains("mono16"), "{errors:?}");
            assert!(errors[3].as_ref().unwrap().contains("ood_threshold"), "{errors:?}");
            for (i, image) in [(0, &images[0]), (2, &images[1]), (4, &images[2])] {
                let (ours, alone) = (got[i].as_ref().unwrap(), pipeline.run(image, ALL).unwrap());
                assert_eq!((ours.height, ours.width), (alone.height, alone.width));
                let classes = ours.classes.iter().zip(&alone.classes);
                let others = classes.filter(|(a, b)| a != b).count(); // where two classes tie
                assert!(others <= alone.classes.len() / 1000, "{plan} {i}: {others} pixels");
                if i == 2 {
                    assert!(ours.score.is_none() && ours.ood_mask.iter().all(|&ood| ood == 255));
                    continue;
                }
                let pairs = ours.score.iter().flatten().zip(alone.score.iter().flatten());
                let error = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(error < 1e-5, "{plan} {i}: {error:e}"); // batched kernels sum in another order
                assert_eq!(ours.rgb, alone.rgb);
            }
        }
        assert!(pipeline(Plan::Tiles).run_batch(&[]).is_empty());
    }

    #[test]
    fn a_turned_camera_gets_the_upright_pictures_planes_turned_back() {
        let pipeline = pipeline(Plan::Tiles);
        let upright = picture(150, 200);
        let expected = pipeline.run(&upright, ALL).unwrap();
        // As a camera sees it that hangs on its right side: its rows are our columns from the right.
        let at = |y: usize, x: usize| (149 - x, y); // of the upright picture, for 200 rows of 150
        let turned = |pixel: &dyn Fn(usize) -> Vec<u8>| -> Vec<u8> {
            let places = (0..200).flat_map(|y| (0..150).map(move |x| at(y, x)));
            places.flat_map(|(y, x)| pixel(200 * y + x)).collect()
        };
        let data = turned(&|i| upright.data[3 * i..3 * i + 3].to_vec());
        let image =
            Image { height: 200, width: 150, step: 450, data: data.into(), ..upright.clone() };
        let view = View { rotation: Rotation::from_degrees(270).unwrap(), ..View::default() };
        let got = pipeline.run_batch(&[(&image, &view, ALL)]).remove(0).unwrap();
        assert_eq!((got.height, got.width), (200, 150));
        assert_eq!(got.rgb.unwrap(), image.data);
        assert_eq!(got.classes, turned(&|i| vec![expected.classes[i]]));
        assert_eq!(got.ood_mask, turned(&|i| vec![expected.ood_mask[i]]));
        let confidence = expected.confidence.unwrap();
        assert_eq!(got.confidence.unwrap(), turned(&|i| vec![confidence[i]]));
    }

    #[test]
    fn the_vehicle_in_the_picture_has_no_class_and_no_score() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hood.png");
        let hood = [vec![0; 60 * 100], vec![255; 30 * 100]].concat(); // the lowest 30 rows
        crate::image::write_png(&path, 90, 100, &hood).unwrap();
        let ego_mask = Some(EgoMask::read_file(&path, &Limits::default()).unwrap());
        let view = View { ego_mask, ood_threshold: Some(-1e3), ..View::default() };
        let (fitting, other) = (picture(90, 100), picture(100, 90));
        let pipeline = pipeline(Plan::Tiles);
        let got = pipeline.run_batch(&[(&fitting, &view, ALL), (&other, &view, ALL)]);
        let error = got[1].as_ref().unwrap_err().to_string();
        assert!(error.contains("100x90") && error.contains("90x100"), "{error}");
        let seen = got[0].as_ref().unwrap();
        for (i, score) in seen.score.iter().flatten().enumerate() {
            let vehicle = i >= 6000;
            assert_eq!((seen.classes[i] == UNLABELLED, score.is_nan()), (vehicle, vehicle));
            assert_eq!(seen.ood_mask[i] == 0, vehicle);
        }
    }

    #[test]
    fn the_mask_is_the_same_whether_obstacles_are_listed_or_not_and_small_ones_go() {
        let mut pipeline = pipeline(Plan::Tiles);
        let image = picture(150, 301);
        let mut scores = pipeline.run(&image, ALL).unwrap().score.unwrap();
        scores.sort_by(f32::total_cmp);
        pipeline.set_ood_threshold(scores[scores.len() * 9 / 10]).unwrap();
        let listed = pipeline.run(&image, ALL).unwrap();
        let plain = pipeline.run(&image, Planes::default()).unwrap();
        assert_eq!((&plain.ood_mask, &plain.obstacles), (&listed.ood_mask, &None));
        let areas: Vec<_> = listed.obstacles.iter().flatten().map(|o| o.area).collect();
        let on = listed.ood_mask.iter().filter(|&&pixel| pixel == 255).count();
        assert_eq!(areas.iter().sum::<usize>(), on);
        pipeline.config.obstacle.min_area = areas.iter().max().unwrap() + 1;
        let none = pipeline.run(&image, Planes::default()).unwrap();
        assert!(on > 0 && none.ood_mask.iter().all(|&pixel| pixel == 0));
        assert_eq!((none.score, none.obstacles), (None, None));
    }

    #[test]
    fn planes_at_the_networks_size_are_the_windows_own() {
        let pipeline = pipeline(Plan::Single);
        let [wh, ww] = pipeline.model.config().window.map(|side| usize::try_from(side).unwrap());
        let view = View { resolution: Resolution::Network, ..View::default() };
        let image = picture(150, 301);
        let got = pipeline.run_batch(&[(&image, &view, ALL)]).remove(0).unwrap();
        assert_eq!((got.height, got.width), (wh, ww));
        assert_eq!(got.rgb.unwrap().len(), 3 * wh * ww);
        let upload = pipeline.upload(&(&image, &view, ALL), &Limits::default()).unwrap();
        let outputs = pipeline.segment(&[upload.picture]).remove(0).unwrap();
        assert_eq!(
            got.score.unwrap(),
            Vec::<f32>::try_from(Score::Llr.of(&outputs).view(-1)).unwrap()
        );
        let raised = window::raise(&outputs, [150, 301]);
        let full = pipeline.run(&image, ALL).unwrap().score.unwrap();
        assert_eq!(full, Vec::<f32>::try_from(Score::Llr.of(&raised).view(-1)).unwrap());
    }
}
