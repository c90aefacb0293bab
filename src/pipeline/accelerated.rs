//! CUDA graphs and pinned copies in place of plain passes and copies, where they are proved equal.

use log::{info, warn};

use super::{Pipeline, guarded};
use crate::Result;
use crate::model::cuda::{Copies, Plugin};

impl Pipeline {
    /// Records the network as CUDA graphs and copies through pinned buffers from now on, as far as the
    /// plug-in is there and each proves equal to the plain way; the log says why not. To be called when the
    /// network is warm. What is used then, the self-test asks too.
    pub fn accelerate(&mut self) {
        match Plugin::open(self.model.device()) {
            Ok(plugin) => self.accelerate_with(&plugin),
            Err(error) => warn!("no CUDA graphs, no pinned copies: {}", error.chain()),
        }
    }

    pub(crate) fn accelerate_with(&mut self, plugin: &Plugin) {
        let batch = self.config.batch;
        let passes = flat(|| {
            let graphs = self.model.record(plugin, batch)?;
            let (windows, deviation) = (graphs.batch(), graphs.deviation());
            Ok(format!(
                "CUDA graphs of 1 to {windows} windows, at most {deviation:e} from plain passes"
            ))
        });
        let copies = flat(|| Copies::new(plugin)).map(|copies| {
            self.copies = Some(copies);
            "pinned copies, equal to plain ones".to_owned()
        });
        let or_plain = |made: Result<String>, plain: &str| {
            made.unwrap_or_else(|error| {
                warn!("{plain} instead: {}", error.chain());
                plain.to_owned()
            })
        };
        self.way =
            format!("{}; {}", or_plain(passes, "plain passes"), or_plain(copies, "plain copies"));
        info!("{}", self.way);
    }

    /// How passes and copies are made, for people.
    pub fn way(&self) -> &str {
        &self.way
    }
}

/// As [`guarded`], for work that can fail by itself.
fn flat<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    guarded("trying the CUDA plug-in", work)?
}

#[cfg(test)]
mod tests {
    use super::super::tests::{ALL, picture, pipeline};
    use super::super::{Frame, Planes, Prediction, Timing, View};
    use super::Pipeline;
    use crate::model::Score;
    use crate::model::cuda::stub;
    use crate::window::Plan;

    #[test]
    fn pinned_copies_change_no_bit_of_any_frame_and_graphs_that_replay_nothing_are_not_used() {
        let mut pipeline = pipeline(Plan::Tiles);
        let images = [picture(150, 301), picture(90, 100), picture(1, 1), picture(140, 280)];
        let view = View::default();
        let frames: Vec<Frame<'_>> = [0, 1, 2, 3, 0, 3]
            .into_iter()
            .zip([ALL, Planes::default()].into_iter().cycle())
            .map(|(i, planes)| (&images[i], &view, planes))
            .collect();
        let run = |pipeline: &Pipeline| {
            let predictions = pipeline.run_batch(&frames).into_iter().map(Result::unwrap);
            let timeless = |one| Prediction { timing: Timing::default(), ..one };
            let maps = pipeline.scores(&images[0], &[Score::Msp, Score::Llr]).unwrap();
            (predictions.map(timeless).collect::<Vec<_>>(), maps)
        };
        let plain = run(&pipeline);
        pipeline.accelerate_with(&stub::open(&[]));
        assert_eq!(pipeline.way(), "plain passes; pinned copies, equal to plain ones");
        for _ in 0..2 {
            assert!(run(&pipeline) == plain);
        }
    }

    #[test]
    fn without_a_plug_in_that_works_everything_is_plain() {
        let mut pipeline = pipeline(Plan::Tiles);
        let before = pipeline.way().to_owned();
        pipeline.accelerate(); // there is none for a CPU
        assert_eq!(pipeline.way(), before);
        pipeline.accelerate_with(&stub::open(&["-DSTUB_SPOILS_COPIES"]));
        assert_eq!(pipeline.way(), "plain passes; plain copies");
        pipeline.run(&picture(60, 100), ALL).unwrap();
    }
}
