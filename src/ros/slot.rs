//! One frame of memory between two threads: the newest frame wins.

use crossbeam_channel::{Receiver, Sender, bounded};

/// The writing end; there is one.
#[derive(Debug)]
pub(crate) struct Slot<T> {
    sender: Sender<T>,
    unread: Receiver<T>,
}

/// A slot and its reading end; the reader sees the end when the [`Slot`] is dropped and empty.
pub(crate) fn slot<T>() -> (Slot<T>, Receiver<T>) {
    let (sender, unread) = bounded(1);
    (Slot { sender, unread: unread.clone() }, unread)
}

impl<T> Slot<T> {
    /// Whether the reader has taken what was put last.
    pub(crate) fn is_empty(&self) -> bool {
        self.unread.is_empty()
    }

    /// Puts a value for the reader, made with sight of the unread one that it replaces.
    pub(crate) fn put(&mut self, value: impl FnOnce(Option<T>) -> T) {
        let sent = self.sender.try_send(value(self.unread.try_recv().ok()));
        debug_assert!(sent.is_ok(), "the only writer has just emptied the slot");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Puts `value` and returns what it replaced.
    fn put<T>(slot: &mut Slot<T>, value: T) -> Option<T> {
        let mut replaced = None;
        slot.put(|unread| {
            replaced = unread;
            value
        });
        replaced
    }

    #[test]
    fn the_newest_wins_and_the_replaced_one_comes_back() {
        let (mut slot, reader) = slot();
        assert_eq!(put(&mut slot, 1), None);
        assert_eq!(put(&mut slot, 2), Some(1));
        assert_eq!(put(&mut slot, 3), Some(2));
        assert_eq!(reader.recv(), Ok(3));
        assert_eq!(put(&mut slot, 4), None);
    }

    #[test]
    fn the_last_value_is_read_before_the_end() {
        let (mut slot, reader) = slot();
        put(&mut slot, "last");
        drop(slot);
        assert_eq!(reader.recv(), Ok("last"));
        assert!(reader.recv().is_err());
    }

    #[test]
    fn every_value_is_read_or_handed_back_while_both_ends_run() {
        let (mut slot, reader) = slot();
        let count = std::thread::scope(|scope| {
            let read = scope.spawn(move || {
                let mut last = 0;
                reader.iter().inspect(|&n| assert!(std::mem::replace(&mut last, n) < n)).count()
            });
            let replaced = (1..=10_000).filter(|&n| put(&mut slot, n).is_some()).count();
            drop(slot);
            read.join().unwrap() + replaced
        });
        assert_eq!(count, 10_000);
    }
}
