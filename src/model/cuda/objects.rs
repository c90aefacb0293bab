//! An owner for each kind of object of the plug-in's.

use std::ffi::c_void;
use std::{fmt, mem, ptr};

use tch::kind::Element;
use tch::{Kind, Tensor};

use super::plugin::{Free, New, Pair, Plugin, Table};
use crate::Result;

/// Something of the plug-in's that has to be given back to it.
struct Object {
    pointer: *mut c_void,
    free: Free,
    plugin: Plugin,
}

// SAFETY: plugin.h: any thread may use an object, one at a time; an `Object` is not Sync.
unsafe impl Send for Object {}

impl Drop for Object {
    fn drop(&mut self) {
        // SAFETY: made by the function that belongs to `free`, and given back this once.
        unsafe { (self.free)(self.pointer) }
    }
}

impl fmt::Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:p} of {:?}", self.pointer, self.plugin)
    }
}

impl Object {
    fn new(plugin: &Plugin, what: &'static str, new: New, free: Free) -> Result<Self> {
        let mut pointer = ptr::null_mut();
        // SAFETY: `pointer` is written before it is read, where the call succeeds.
        plugin.check(what, unsafe { new(plugin.index, &raw mut pointer) })?;
        Ok(Self { pointer, free, plugin: *plugin })
    }
}

/// A queue of work on the device.
#[derive(Debug)]
pub(super) struct Stream(Object);

impl Stream {
    pub(super) fn new(plugin: &Plugin) -> Result<Self> {
        let Table { stream_new, stream_free, .. } = *plugin.table;
        Ok(Self(Object::new(plugin, "making a CUDA stream", stream_new, stream_free)?))
    }

    /// Does `work` with this as the thread's current stream: after all that was queued on the one before,
    /// which waits for it in turn.
    pub(super) fn within<T>(&self, work: impl FnOnce() -> T) -> Result<T> {
        let plugin = &self.0.plugin;
        // SAFETY: an object of this kind.
        plugin.check("entering a CUDA stream", unsafe {
            (plugin.table.stream_enter)(self.0.pointer)
        })?;
        let entered = Entered(self);
        let made = work();
        mem::forget(entered);
        self.leave().map(|()| made)
    }

    fn leave(&self) -> Result<()> {
        let plugin = &self.0.plugin;
        // SAFETY: an object of this kind.
        plugin
            .check("leaving a CUDA stream", unsafe { (plugin.table.stream_leave)(self.0.pointer) })
    }
}

/// Leaves the stream where `work` panics.
struct Entered<'a>(&'a Stream);

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.0.leave() {
            log::error!("{error}");
        }
    }
}

/// A point in a stream's work. The stream `None` is the thread's current one.
#[derive(Debug)]
pub struct Event(Object);

impl Event {
    /// One that nothing waits for until it is recorded.
    ///
    /// # Errors
    /// [`crate::Error::Torch`].
    pub fn new(plugin: &Plugin) -> Result<Self> {
        let Table { event_new, event_free, .. } = *plugin.table;
        Ok(Self(Object::new(plugin, "making a CUDA event", event_new, event_free)?))
    }

    /// After what is queued on the stream so far.
    pub(super) fn record(&self, stream: Option<&Stream>) -> Result<()> {
        self.with("recording a CUDA event", self.0.plugin.table.event_record, stream)
    }

    /// What is queued on the stream from now on waits for the event as it was recorded last.
    pub(super) fn block(&self, stream: Option<&Stream>) -> Result<()> {
        self.with("waiting for a CUDA event", self.0.plugin.table.event_block, stream)
    }

    /// This thread waits.
    ///
    /// # Errors
    /// [`crate::Error::Torch`]: also of the work before it.
    pub fn sync(&self) -> Result<()> {
        let plugin = &self.0.plugin;
        // SAFETY: an object of this kind.
        plugin.check("waiting for the GPU", unsafe { (plugin.table.event_sync)(self.0.pointer) })
    }

    /// After what this thread has queued so far.
    ///
    /// # Errors
    /// [`crate::Error::Torch`].
    pub fn now(&self) -> Result<()> {
        self.record(None)
    }

    /// Milliseconds of device time from this event to a later one; both are over.
    ///
    /// # Errors
    /// [`crate::Error::Torch`].
    pub fn until(&self, later: &Self) -> Result<f32> {
        let (plugin, mut ms) = (&self.0.plugin, 0.0);
        // SAFETY: objects of this kind; a float to write to.
        let code =
            unsafe { (plugin.table.event_elapsed)(self.0.pointer, later.0.pointer, &raw mut ms) };
        plugin.check("timing CUDA events", code).map(|()| ms)
    }

    fn with(&self, what: &'static str, call: Pair, stream: Option<&Stream>) -> Result<()> {
        let stream = stream.map_or(ptr::null_mut(), |stream| stream.0.pointer);
        // SAFETY: objects of these kinds; null is the current stream.
        self.0.plugin.check(what, unsafe { call(self.0.pointer, stream) })
    }
}

/// Page-locked host memory.
#[derive(Debug)]
pub(super) struct Pinned {
    object: Object,
    bytes: usize,
}

impl Pinned {
    /// `bytes` of it, zeros.
    pub(super) fn new(plugin: &Plugin, bytes: usize) -> Result<Self> {
        let Table { pinned_new, pinned_free, .. } = *plugin.table;
        let mut pointer = ptr::null_mut();
        // SAFETY: `pointer` is written before it is read, where the call succeeds.
        let code = unsafe { pinned_new(plugin.index, bytes.max(1), &raw mut pointer) };
        plugin.check("allocating pinned memory", code)?;
        // SAFETY: so large.
        unsafe { pointer.cast::<u8>().write_bytes(0, bytes) };
        Ok(Self { object: Object { pointer, free: pinned_free, plugin: *plugin }, bytes })
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Fills its beginning.
    ///
    /// # Safety
    /// No copy out of it or into it is under way.
    pub(super) unsafe fn write(&mut self, from: &[u8]) {
        assert!(from.len() <= self.bytes, "{} bytes into {}", from.len(), self.bytes);
        // SAFETY: within both, which do not overlap: `&mut self`.
        unsafe { ptr::copy_nonoverlapping(from.as_ptr(), self.object.pointer.cast(), from.len()) }
    }

    /// `count` numbers that begin at byte `at`.
    ///
    /// # Safety
    /// No copy into it is under way, and those bytes were made from elements of type `T`.
    pub(super) unsafe fn read<T: Element + Copy + Default>(
        &self,
        at: usize,
        count: usize,
    ) -> Vec<T> {
        let bytes = count * size_of::<T>();
        assert!(at + bytes <= self.bytes, "{bytes} bytes at {at} of {}", self.bytes);
        let mut numbers = vec![T::default(); count];
        // SAFETY: within both, which do not overlap; `T` is a plain number.
        unsafe {
            let from = self.object.pointer.cast::<u8>().add(at);
            ptr::copy_nonoverlapping(from, numbers.as_mut_ptr().cast(), bytes);
        }
        numbers
    }

    /// Queues a copy of its first `bytes` to the beginning of `to`, contiguous bytes on the device.
    ///
    /// # Safety
    /// Until the copy is over both stay where they are, `self` is not written to, and nothing on another
    /// stream reads or writes that part of `to`.
    pub(super) unsafe fn copy_to(&self, to: &Tensor, bytes: usize, stream: &Stream) -> Result<()> {
        assert!(to.kind() == Kind::Uint8 && to.is_contiguous());
        assert!(bytes <= self.bytes && bytes <= to.numel(), "{bytes} bytes into {to:?}");
        let plugin = &self.object.plugin;
        // SAFETY: within both, see above; the rest is the caller's.
        let code = unsafe {
            (plugin.table.copy)(to.data_ptr(), self.object.pointer, bytes, stream.0.pointer)
        };
        plugin.check("copying to the GPU", code)
    }

    /// Queues a copy of `from`, contiguous on the device, to its bytes from `at` on.
    ///
    /// # Safety
    /// Until the copy is over both stay where they are, that part of `self` is neither read nor written,
    /// and nothing on another stream writes to `from`.
    pub(super) unsafe fn copy_from(&self, from: &Tensor, at: usize, stream: &Stream) -> Result<()> {
        let bytes = from.numel() * from.kind().elt_size_in_bytes();
        assert!(from.is_contiguous() && at + bytes <= self.bytes, "{bytes} bytes at {at}");
        let plugin = &self.object.plugin;
        // SAFETY: within both, see above; the rest is the caller's.
        let code = unsafe {
            let to = self.object.pointer.cast::<u8>().add(at).cast();
            (plugin.table.copy)(to, from.data_ptr(), bytes, stream.0.pointer)
        };
        plugin.check("copying from the GPU", code)
    }
}

/// Work that was recorded once, on fixed memory.
#[derive(Debug)]
pub(super) struct Graph(Object);

impl Graph {
    /// Records what `work` queues on the current stream, which is one of ours, instead of running it.
    /// Shares the memory of intermediate results with `sibling`.
    pub(super) fn record<T>(
        plugin: &Plugin,
        sibling: Option<&Self>,
        work: impl FnOnce() -> T,
    ) -> Result<(Self, T)> {
        let Table { graph_begin, graph_free, .. } = *plugin.table;
        let sibling = sibling.map_or(ptr::null_mut(), |graph| graph.0.pointer);
        let mut pointer = ptr::null_mut();
        // SAFETY: `sibling` is null or a finished graph; `pointer` is written where the call succeeds.
        let code = unsafe { graph_begin(plugin.index, sibling, &raw mut pointer) };
        plugin.check("beginning a CUDA graph", code)?;
        let graph = Self(Object { pointer, free: graph_free, plugin: *plugin });
        let mut recording = Recording(Some(graph));
        let made = work();
        Ok((recording.end()?, made))
    }

    /// Queues the work again on the current stream.
    pub(super) fn replay(&self) -> Result<()> {
        let plugin = &self.0.plugin;
        // SAFETY: a finished graph, whose memory its owner keeps.
        plugin
            .check("replaying a CUDA graph", unsafe { (plugin.table.graph_replay)(self.0.pointer) })
    }
}

/// Ends the recording where `work` panics, too: until then the stream runs nothing.
struct Recording(Option<Graph>);

impl Recording {
    fn end(&mut self) -> Result<Graph> {
        let graph = self.0.take().unwrap_or_else(|| unreachable!("ended once"));
        let plugin = &graph.0.plugin;
        // SAFETY: a graph that was begun.
        let code = unsafe { (plugin.table.graph_end)(graph.0.pointer) };
        plugin.check("ending a CUDA graph", code)?;
        Ok(graph)
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        if self.0.is_some()
            && let Err(error) = self.end()
        {
            log::error!("{error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::stub;
    use super::*;

    #[test]
    fn memory_that_ran_out_is_told_in_the_words_by_which_libtorchs_own_is_known() {
        let plugin = stub::open(&[]);
        let all: Vec<_> = (0..65).map(|_| Pinned::new(&plugin, 8)).collect();
        let last = all.last().unwrap().as_ref().unwrap_err().to_string();
        assert!(last.contains("CUDA out of memory: no more than 64 buffers"), "{last}");
    }

    #[test]
    fn events_tell_the_time_between_them() {
        let plugin = stub::open(&[]);
        let [from, to] = [0, 1].map(|_| Event::new(&plugin).unwrap());
        from.now().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(20));
        to.now().unwrap();
        to.sync().unwrap();
        let ms = from.until(&to).unwrap();
        assert!((20.0..5000.0).contains(&ms), "{ms}");
    }
}
