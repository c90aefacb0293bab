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
        let recorded = flat(|| self.model.record(plugin, batch));
        let passes = recorded.map(|deviation| {
            format!("CUDA graphs of 1 to {batch} windows, {deviation:e} at most from plain passes")
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
