//! The loop of both stages: batches, steps, log, validation, weights and state on disk, a clean stop.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::Stage;
use super::loader::{Loader, Source};
use super::log::{Row, read_csv, write_csv, write_picture};
use super::schedule::learning_rate;
use super::state::{self, Counters};
use crate::config::{RunConfig, ScheduleConfig};
use crate::model::Model;
use crate::{Error, Result, checkpoint};

/// Everything about a run but the stage itself.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where, how often.
    pub run: RunConfig,
    /// Learning rate and number of steps.
    pub schedule: ScheduleConfig,
    /// Samples.
    pub source: Arc<Source>,
    /// Name of the validation's number, higher is better.
    pub score: &'static str,
    /// The settings that decide the numbers, a line each.
    pub settings: String,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Steps done.
    pub step: u64,
    /// Best validation.
    pub best: Option<f64>,
    /// Whether it was asked to stop before its last step.
    pub stopped: bool,
}

impl Plan {
    fn path(&self, name: &str) -> PathBuf {
        self.run.out.join(name)
    }

    /// Trains to the last step, or until `stop` is set; `report` sees every step.
    ///
    /// With `resume` it goes on from `run.out`'s state where there is one.
    ///
    /// # Errors
    /// A run that is there already without `resume`, a state of another run, bad data, a loss that is not
    /// finite, a file that cannot be written, frozen weights that changed. The state on disk stays good.
    pub fn run(
        &self,
        stage: &mut dyn Stage,
        resume: bool,
        watch: &mut Watch<'_>,
    ) -> Result<Outcome> {
        let mut progress = self.begin(stage, resume)?;
        let last = self.schedule.max_steps;
        let steps = progress.counters.step..last;
        let mut loader = Loader::start(&self.source, steps, self.run.workers)?;
        let mut since = Instant::now();
        while progress.counters.step < last {
            if watch.stop.load(Ordering::Relaxed) {
                self.save(stage, &progress)?;
                break;
            }
            let step = progress.counters.step;
            let (images, labels) = loader.next_batch()?.tensors(stage.model().device());
            let lr = learning_rate(&self.schedule, step);
            let loss = stage.step(&images, &labels, lr)?;
            let crops_per_s = self.run.batch_size as f64 / since.elapsed().as_secs_f64();
            since = Instant::now();
            progress.counters.step += 1;
            let score = self.validate(stage, &mut progress, watch)?;
            let row = Row { step: step + 1, loss, lr, crops_per_s, score };
            progress.rows.push(row);
            (watch.report)(&row);
            if score.is_some() || due(step + 1, self.run.checkpoint_every_steps) {
                self.save(stage, &progress)?;
                since = Instant::now();
            }
        }
        let Counters { step, best, .. } = progress.counters;
        Ok(Outcome { step, best, stopped: step < last })
    }

    /// The start of a run, or its continuation.
    fn begin(&self, stage: &mut dyn Stage, resume: bool) -> Result<Progress> {
        let path = self.path("state.safetensors");
        if path.exists() {
            if !resume {
                let problem =
                    "a run is there already; go on with --resume or choose another run.out";
                return Err(Error::bad_file(path, problem));
            }
            let counters = state::restore(stage, &self.settings, &path)?;
            let rows = read_csv(&self.path("log.csv"), counters.step)?;
            return Ok(Progress { counters, rows });
        }
        let counters = Counters {
            step: 0,
            best: None,
            settings: self.settings.clone(),
            frozen: state::frozen_hash(stage),
            optimizer_steps: 0,
            queue_ptr: Vec::new(),
            iteration_counter: 0,
        };
        Ok(Progress { counters, rows: Vec::new() })
    }

    /// The validation's number where one is due; the best weights are written.
    fn validate(
        &self,
        stage: &mut dyn Stage,
        progress: &mut Progress,
        watch: &mut Watch<'_>,
    ) -> Result<Option<f64>> {
        let counters = &mut progress.counters;
        let end = counters.step == self.schedule.max_steps;
        if !end && !due(counters.step, self.run.validate_every_steps) {
            return Ok(None);
        }
        let score = tch::no_grad(|| (watch.validate)(stage.model()))?;
        if score.is_finite() && counters.best.is_none_or(|best| score > best) {
            counters.best = Some(score);
            self.save_weights(stage, counters, "best.safetensors")?;
        }
        Ok(Some(score))
    }

    /// Weights, log and, last, the state that vouches for them.
    fn save(&self, stage: &mut dyn Stage, progress: &Progress) -> Result<()> {
        self.save_weights(stage, &progress.counters, "last.safetensors")?;
        write_csv(&progress.rows, self.score, &self.path("log.csv"))?;
        write_picture(&progress.rows, self.score, &self.path("log.png"))?;
        state::save(stage, progress.counters.clone(), &self.path("state.safetensors"))
    }

    /// Writes a network whose frozen part is what it was.
    fn save_weights(&self, stage: &dyn Stage, counters: &Counters, name: &str) -> Result<()> {
        let path = self.path(name);
        if state::frozen_hash(stage) != counters.frozen {
            let problem =
                "not written: frozen weights changed in training, which is a fault of this program";
            return Err(Error::bad_file(path, problem));
        }
        checkpoint::save(stage.model(), &path)
    }
}

/// What a run asks and tells the one who started it.
pub struct Watch<'a> {
    /// Set to stop after the step at hand.
    pub stop: &'a AtomicBool,
    /// The validation's number of a network, higher is better; called without gradients.
    pub validate: &'a mut dyn FnMut(&Model) -> Result<f64>,
    /// Called after every step.
    pub report: &'a mut dyn FnMut(&Row),
}

/// Where a run is.
struct Progress {
    counters: Counters,
    rows: Vec<Row>,
}

fn due(step: u64, every: u64) -> bool {
    step.is_multiple_of(every)
}
