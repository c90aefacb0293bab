//! Frames of several cameras at a time, so that their windows share forward passes.

use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Select, TryRecvError};

/// Takes frames out of slots, no camera before its turn.
#[derive(Debug)]
pub(crate) struct Batcher {
    limit: usize,
    wait: Duration,
    /// The camera that is looked at first next time.
    first: usize,
}

impl Batcher {
    /// Batches of at most `limit` frames, the first of which waits at most `wait` for the others.
    pub(crate) fn new(limit: usize, wait: Duration) -> Self {
        Self { limit, wait, first: 0 }
    }

    /// A frame of every camera that has one, with the camera's index; none after `patience`, and
    /// `None` once a slot is closed.
    ///
    /// A camera that waits is in one of the next `cameras / limit` batches, rounded up: the search
    /// begins behind the last one served.
    pub(crate) fn next<T>(
        &mut self,
        slots: &[&Receiver<T>],
        patience: Duration,
    ) -> Option<Vec<(usize, T)>> {
        let full = self.limit.min(slots.len());
        let mut batch: Vec<(usize, T)> = Vec::new();
        let mut deadline = Instant::now() + patience;
        loop {
            for camera in (0..slots.len()).map(|i| (self.first + i) % slots.len()) {
                if batch.len() == full || is_in(&batch, camera) {
                    continue;
                }
                match slots[camera].try_recv() {
                    Ok(frame) => batch.push((camera, frame)),
                    Err(TryRecvError::Empty) => continue,
                    Err(TryRecvError::Disconnected) => return None,
                }
                if batch.len() == 1 {
                    deadline = Instant::now() + self.wait;
                }
            }
            let mut others = Select::new();
            for (_, slot) in slots.iter().enumerate().filter(|(i, _)| !is_in(&batch, *i)) {
                others.recv(slot);
            }
            if batch.len() == full || others.ready_deadline(deadline).is_err() {
                break;
            }
        }
        if let Some((last, _)) = batch.last() {
            self.first = (last + 1) % slots.len();
        }
        Some(batch)
    }
}

fn is_in<T>(batch: &[(usize, T)], camera: usize) -> bool {
    batch.iter().any(|(taken, _)| *taken == camera)
}

#[cfg(test)]
mod tests {
    use super::super::slot::{Slot, slot};
    use super::*;

    const SOON: Duration = Duration::from_millis(1);
    const LATE: Duration = Duration::from_secs(60);

    fn three() -> (Vec<Slot<char>>, Vec<Receiver<char>>) {
        (0..3).map(|_| slot()).unzip()
    }

    fn next(batcher: &mut Batcher, slots: &[Receiver<char>]) -> Option<Vec<(usize, char)>> {
        batcher.next(&slots.iter().collect::<Vec<_>>(), SOON)
    }

    #[test]
    fn all_that_wait_are_taken_together_and_an_empty_batch_means_nobody_does() {
        let (mut cameras, slots) = three();
        let mut batcher = Batcher::new(8, Duration::ZERO);
        assert_eq!(next(&mut batcher, &slots), Some(vec![]));
        cameras[2].put(|_| 'c');
        cameras[0].put(|_| 'a');
        assert_eq!(next(&mut batcher, &slots), Some(vec![(0, 'a'), (2, 'c')]));
        assert_eq!(next(&mut batcher, &slots), Some(vec![]));
        drop(cameras);
        assert_eq!(next(&mut batcher, &slots), None);
    }

    #[test]
    fn cameras_take_turns_when_more_wait_than_fit() {
        let (mut cameras, slots) = three();
        let mut batcher = Batcher::new(2, Duration::ZERO);
        let mut served = Vec::new();
        for _ in 0..3 {
            for camera in &mut cameras {
                camera.put(|_| 'x');
            }
            served.extend(next(&mut batcher, &slots).unwrap().into_iter().map(|(i, _)| i));
        }
        assert_eq!(served, [0, 1, 2, 0, 1, 2]);
    }

    #[test]
    fn the_first_frame_waits_for_another_camera_and_not_for_its_own_next_one() {
        let (mut cameras, slots) = three();
        let mut batcher = Batcher::new(2, LATE);
        let waiting = slots[0].clone();
        let play = move || {
            cameras[0].put(|_| 'a');
            while !waiting.is_empty() {
                std::thread::sleep(SOON);
            }
            cameras[0].put(|_| 'A');
            cameras[1].put(|_| 'b');
            cameras // stay open
        };
        std::thread::scope(|scope| {
            let _cameras = scope.spawn(play);
            let slots: Vec<_> = slots.iter().collect();
            assert_eq!(batcher.next(&slots, LATE), Some(vec![(0, 'a'), (1, 'b')]));
        });
    }
}
