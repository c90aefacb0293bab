//! How much failing the node bears before it ends, to be started again.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::Error;

/// Failures that count, of late.
#[derive(Debug, Default)]
pub(crate) struct Endurance {
    /// Batches in a row in which libtorch failed.
    failed: u32,
    /// Batches in a row with a result that was not finite.
    not_finite: u32,
    panics: VecDeque<Instant>,
}

/// What a failure calls for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    GoOn,
    /// The network is to prove itself.
    Test,
    End,
}

/// Failures in a row that are one too many.
const TOO_MANY: u32 = 3;
/// Panics count for so long.
const MEMORY: Duration = Duration::from_secs(60);

impl Endurance {
    /// Judges a batch by the failure in it, if there was one that says something about the machine.
    pub(crate) fn judge(&mut self, error: Option<&Error>, cuda: bool, now: Instant) -> Verdict {
        match error {
            Some(Error::Torch { problem, .. }) => {
                self.failed += 1;
                // libtorch has emptied its cache and tried again before it says so; after any other
                // error of a GPU its state is not to be trusted.
                let sticky = cuda && !problem.contains("out of memory");
                if sticky || self.failed >= TOO_MANY { Verdict::End } else { Verdict::GoOn }
            }
            Some(Error::NotFinite { .. }) => {
                self.not_finite += 1;
                let test = self.not_finite.is_multiple_of(TOO_MANY);
                if test { Verdict::Test } else { Verdict::GoOn }
            }
            Some(Error::Panicked { .. }) => {
                self.panics.push_back(now);
                while self.panics.pop_front_if(|then| now - *then > MEMORY).is_some() {}
                let end = self.panics.len() >= TOO_MANY as usize;
                if end { Verdict::End } else { Verdict::GoOn }
            }
            Some(_) => Verdict::GoOn,
            None => {
                (self.failed, self.not_finite) = (0, 0);
                Verdict::GoOn
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn torch(problem: &str) -> Error {
        Error::Torch { what: "segmenting a frame", problem: problem.into() }
    }

    #[test]
    fn three_failures_in_a_row_end_the_node_and_one_on_a_gpu_that_is_not_want_of_memory() {
        let now = Instant::now();
        let mut endurance = Endurance::default();
        let mut judge = |error: Option<&Error>, cuda| endurance.judge(error, cuda, now);
        let (memory, sticky) = (torch("CUDA out of memory. Tried"), torch("illegal access"));
        for cuda in [true, false] {
            assert_eq!(judge(Some(&memory), cuda), Verdict::GoOn);
            assert_eq!(judge(Some(&memory), cuda), Verdict::GoOn);
            assert_eq!(judge(None, cuda), Verdict::GoOn);
        }
        assert_eq!(judge(Some(&sticky), false), Verdict::GoOn);
        assert_eq!(judge(Some(&sticky), true), Verdict::End);
        assert_eq!(judge(Some(&memory), false), Verdict::End);
    }

    #[test]
    fn every_third_result_in_a_row_that_is_not_finite_calls_for_a_test() {
        let now = Instant::now();
        let mut endurance = Endurance::default();
        let nan = Error::NotFinite { what: "llr", bad: 1, of: 2 };
        let verdicts = [0; 6].map(|_| endurance.judge(Some(&nan), true, now));
        assert_eq!(verdicts[2], Verdict::Test);
        assert_eq!(verdicts.iter().filter(|&&verdict| verdict == Verdict::Test).count(), 2);
    }

    #[test]
    fn the_third_panic_of_a_minute_ends_the_node() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let panic = Error::Panicked { problem: "index".into() };
        let mut endurance = Endurance::default();
        let mut judge = |seconds| endurance.judge(Some(&panic), false, at(seconds));
        assert_eq!(
            [0, 50, 70, 109].map(&mut judge),
            [Verdict::GoOn, Verdict::GoOn, Verdict::GoOn, Verdict::End]
        );
    }
}
