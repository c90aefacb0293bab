//! The thread that encodes and publishes what is only looked at, while the next frame is in the network.
//!
//! It does its work in the order in which it comes. Nothing is left out: who is faster than the encoders
//! waits for them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};

use super::raw::failed;
use crate::Result;
use crate::supervisor::Watch;

/// Encodes and publishes a picture, and says itself what goes wrong.
pub(crate) type Picture = Box<dyn FnOnce() + Send>;

/// Those of a frame.
type Work = Vec<Picture>;

/// The thread; dropping it waits for all that it was given.
pub(crate) struct Encoder {
    work: Option<Sender<Work>>,
    thread: Option<JoinHandle<()>>,
}

/// How often it says that it lives when there is nothing to do.
const IDLE: Duration = Duration::from_millis(500);

impl Encoder {
    /// # Errors
    /// [`crate::Error::Ros`]: no thread.
    pub(crate) fn start(watch: &Watch) -> Result<Self> {
        let (sender, work) = bounded::<Work>(1);
        let pulse = watch.pulse("encoder");
        let run = move || {
            loop {
                pulse.beat();
                match work.recv_timeout(IDLE) {
                    // Of a panic the hook has told; it costs these pictures.
                    Ok(work) => {
                        let all = || work.into_iter().for_each(|picture| picture());
                        drop(catch_unwind(AssertUnwindSafe(all)));
                    }
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => break,
                }
            }
        };
        let thread = thread::Builder::new().name("encoder".into()).spawn(run);
        let thread = thread.map_err(failed(|| "thread of the encoder".into()))?;
        Ok(Self { work: Some(sender), thread: Some(thread) })
    }

    /// Passes a frame's work on, and waits while that of another has not been begun.
    pub(crate) fn encode(&self, work: Work) {
        if work.is_empty() {
            return;
        }
        let given = self.work.as_ref().is_some_and(|it| it.send(work).is_ok());
        debug_assert!(given, "the thread outlives its sender");
    }
}

impl Drop for Encoder {
    fn drop(&mut self) {
        self.work = None;
        if let Some(Err(_)) = self.thread.take().map(JoinHandle::join) {
            log::error!("the thread of the encoder panicked");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_done_in_its_order_and_to_the_end_and_a_panic_costs_its_own() {
        let encoder = Encoder::start(&Watch::start().unwrap()).unwrap();
        let (done, order) = bounded(200);
        for number in 0..100 {
            let done = done.clone();
            let tell = move || done.send(number).unwrap();
            let fail = move || assert!(number != 7, "on purpose");
            encoder.encode(vec![Box::new(tell.clone()), Box::new(fail), Box::new(tell)]);
        }
        drop(encoder);
        let expected = (0..100).flat_map(|number| vec![number; if number == 7 { 1 } else { 2 }]);
        assert!(order.try_iter().eq(expected));
    }
}
