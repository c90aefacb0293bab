//! The functions of `plugin.h`, and an owner for each kind of object behind them.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::Path;
use std::{env, fmt, mem, ptr};

use tch::kind::Element;
use tch::{Device, Kind, Tensor};

use crate::{Error, Result};

/// `OOD_SEGMENTATION_CUDA_ABI` of `plugin.h`.
const ABI: u32 = 1;

const FILE: &str = "libood_segmentation_cuda.so";

type Free = unsafe extern "C" fn(*mut c_void);
type New = unsafe extern "C" fn(c_int, *mut *mut c_void) -> c_int;
type With = unsafe extern "C" fn(*mut c_void) -> c_int;
type Pair = unsafe extern "C" fn(*mut c_void, *mut c_void) -> c_int;

/// `struct ood_segmentation_cuda` of `plugin.h`, field by field.
#[repr(C)]
struct Table {
    abi: u32,
    error: unsafe extern "C" fn() -> *const c_char,
    stream_new: New,
    stream_free: Free,
    stream_enter: With,
    stream_leave: With,
    event_new: New,
    event_free: Free,
    event_record: Pair,
    event_block: Pair,
    event_sync: With,
    event_elapsed: unsafe extern "C" fn(*mut c_void, *mut c_void, *mut f32) -> c_int,
    pinned_new: unsafe extern "C" fn(c_int, usize, *mut *mut c_void) -> c_int,
    pinned_free: Free,
    copy: unsafe extern "C" fn(*mut c_void, *const c_void, usize, *mut c_void) -> c_int,
    graph_begin: unsafe extern "C" fn(c_int, *mut c_void, *mut *mut c_void) -> c_int,
    graph_end: With,
    graph_replay: With,
    graph_free: Free,
    cache_empty: unsafe extern "C" fn() -> c_int,
}

/// The open plug-in, for one device; it stays open for the life of the process.
#[derive(Clone, Copy)]
pub struct Plugin {
    table: &'static Table,
    device: Device,
    index: c_int,
}

impl fmt::Debug for Plugin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{FILE} for {:?}", self.device)
    }
}

/// What a tool of ours was doing, as an [`Error::Torch`] says it.
const OPENING: &str = "opening the CUDA plug-in (`make cuda-plugin`)";

impl Plugin {
    /// Opens the plug-in beside the executable, else where the loader finds `libtorch_cuda.so`.
    ///
    /// [`device::select`](crate::model::device::select) has opened that library before.
    ///
    /// # Errors
    /// [`Error::Torch`]: a device that is no GPU; the loader's word; a plug-in for another release of
    /// this program.
    pub fn open(device: Device) -> Result<Self> {
        if !device.is_cuda() {
            let problem = format!("the network runs on {device:?}, not on a GPU");
            return Err(Error::Torch { what: OPENING, problem });
        }
        let beside = env::current_exe().ok().map(|program| program.with_file_name(FILE));
        match beside.filter(|path| path.exists()) {
            Some(path) => Self::open_at(&path, device),
            None => Self::open_at(Path::new(FILE), device),
        }
    }

    /// Opens this file.
    ///
    /// # Errors
    /// As [`Plugin::open`].
    pub fn open_at(path: &Path, device: Device) -> Result<Self> {
        let failed = |problem: String| Error::Torch { what: OPENING, problem };
        let name = std::ffi::CString::new(path.as_os_str().as_encoded_bytes())
            .map_err(|error| failed(error.to_string()))?;
        // SAFETY: a C string; the plug-in and the libraries it needs run no code when they are opened but
        // constructors that register things.
        let library = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        if library.is_null() {
            return Err(failed(loader_error()));
        }
        // SAFETY: the library is open, the name is a C string.
        let symbol = unsafe { libc::dlsym(library, c"ood_segmentation_cuda_table".as_ptr()) };
        if symbol.is_null() {
            return Err(failed(loader_error()));
        }
        // SAFETY: plugin.h says that the symbol of this name is this function; it returns a constant.
        let table = unsafe {
            mem::transmute::<*mut c_void, unsafe extern "C" fn() -> *const Table>(symbol)()
        };
        // SAFETY: every table begins with this number, whatever follows it.
        let abi = unsafe { ptr::addr_of!((*table).abi).read() };
        if abi != ABI {
            let path = path.display();
            return Err(failed(format!(
                "{path} has interface {abi}, this program {ABI}: build it again"
            )));
        }
        let index = match device {
            Device::Cuda(index) => c_int::try_from(index).unwrap_or(0),
            _ => 0,
        };
        // SAFETY: of this interface number, so the fields are those of `Table`; never closed.
        Ok(Self { table: unsafe { &*table }, device, index })
    }

    /// Where its objects live.
    pub(super) fn device(&self) -> Device {
        self.device
    }

    /// Gives back device memory that libtorch keeps and nothing uses.
    pub(super) fn empty_cache(&self) -> Result<()> {
        // SAFETY: takes nothing.
        self.check("emptying CUDA's cache", unsafe { (self.table.cache_empty)() })
    }

    fn check(&self, what: &'static str, code: c_int) -> Result<()> {
        if code == 0 {
            return Ok(());
        }
        // SAFETY: a C string of this thread, valid until its next failure.
        let text = unsafe { CStr::from_ptr((self.table.error)()) }.to_string_lossy();
        let text = text.lines().next().unwrap_or_default().to_owned();
        // As libtorch says it, for those who tell this error from others by its words.
        let memory = code == 2 && !text.contains("CUDA out of memory");
        let problem = if memory { format!("CUDA out of memory: {text}") } else { text };
        Err(Error::Torch { what, problem })
    }

    fn object(&self, what: &'static str, new: New, free: Free) -> Result<Object> {
        let mut pointer = ptr::null_mut();
        // SAFETY: `pointer` is written before it is read, where the call succeeds.
        self.check(what, unsafe { new(self.index, &raw mut pointer) })?;
        Ok(Object { pointer, free, plugin: *self })
    }
}

fn loader_error() -> String {
    // SAFETY: dlerror returns null or a C string valid until the next dl call of this thread.
    let text = unsafe { libc::dlerror().as_ref().map(|text| CStr::from_ptr(text)) };
    text.map_or("no reason given".into(), |text| text.to_string_lossy().into_owned())
}

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

/// A queue of work on the device.
#[derive(Debug)]
pub(super) struct Stream(Object);

impl Stream {
    pub(super) fn new(plugin: &Plugin) -> Result<Self> {
        let Table { stream_new, stream_free, .. } = *plugin.table;
        Ok(Self(plugin.object("making a CUDA stream", stream_new, stream_free)?))
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
    /// [`Error::Torch`].
    pub fn new(plugin: &Plugin) -> Result<Self> {
        let Table { event_new, event_free, .. } = *plugin.table;
        Ok(Self(plugin.object("making a CUDA event", event_new, event_free)?))
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
    /// [`Error::Torch`]: also of the work before it.
    pub fn sync(&self) -> Result<()> {
        let plugin = &self.0.plugin;
        // SAFETY: an object of this kind.
        plugin.check("waiting for the GPU", unsafe { (plugin.table.event_sync)(self.0.pointer) })
    }

    /// After what this thread has queued so far.
    ///
    /// # Errors
    /// [`Error::Torch`].
    pub fn now(&self) -> Result<()> {
        self.record(None)
    }

    /// Milliseconds of device time from this event to a later one; both are over.
    ///
    /// # Errors
    /// [`Error::Torch`].
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
    fn a_plug_in_that_is_absent_foreign_or_of_another_interface_is_refused_and_says_so() {
        let refused = |path: &Path| Plugin::open_at(path, Device::Cpu).unwrap_err().to_string();
        let absent = refused(Path::new("/nowhere/libood_segmentation_cuda.so"));
        assert!(absent.contains("make cuda-plugin") && absent.contains("No such file"), "{absent}");
        let foreign = refused(Path::new("libc.so.6"));
        assert!(foreign.contains("undefined symbol: ood_segmentation_cuda_table"), "{foreign}");
        let other = refused(&stub::file(&["-DSTUB_ABI=99"]));
        assert!(other.contains("has interface 99, this program 1: build it again"), "{other}");
        let cpu = Plugin::open(Device::Cpu).unwrap_err().to_string();
        assert!(cpu.contains("not on a GPU"), "{cpu}");
    }

    #[test]
    fn memory_that_ran_out_is_told_in_the_words_by_which_libtorchs_own_is_known() {
        let plugin = stub::open(&[]);
        let all: Vec<_> = (0..65).map(|_| Pinned::new(&plugin, 8)).collect();
        let last = all.last().unwrap().as_ref().unwrap_err().to_string();
        assert!(last.contains("CUDA out of memory: no more than 64 buffers"), "{last}");
    }

    #[test]
    fn the_headers_interface_number_is_ours() {
        let header = include_str!("plugin.h");
        assert!(header.contains(&format!("#define OOD_SEGMENTATION_CUDA_ABI {ABI}\n")));
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
