//! Bytes to and from the device through pinned buffers, on a stream of their own.
//!
//! Two buffers each way up are used in turn: while the device converts one frame of a batch, the next one
//! is written and copied. A frame of the *next* batch is not uploaded ahead: while a batch computes, a
//! newer frame may still take the place of the one that waits (newest wins), and one that is on the device
//! already could not be replaced.

use std::cell::{Cell, Ref, RefCell};

use tch::kind::Element;
use tch::{Device, Kind, Tensor};

use super::objects::{Event, Pinned, Stream};
use super::plugin::Plugin;
use crate::{Error, Result};

/// What is smaller gains nothing, and a picture of one pixel might still be a view of its upload.
const LEAST: usize = 4096;

/// Planes in pinned memory begin at multiples of this many bytes.
const ALIGNMENT: usize = 64;

/// Both ways.
#[derive(Debug)]
pub struct Copies {
    plugin: Plugin,
    stream: Stream,
    up: [RefCell<Slot>; 2],
    turn: Cell<usize>,
    down: RefCell<Pinned>,
    /// What is to be downloaded has been computed.
    computed: Event,
    /// It has been copied.
    copied: Event,
}

/// A pinned buffer and the device's, of the same size.
#[derive(Debug)]
struct Slot {
    pinned: Pinned,
    device: Tensor,
    /// The copy is over.
    arrived: Event,
    /// Its last reader is.
    read: Event,
}

impl Slot {
    fn new(plugin: &Plugin) -> Result<Self> {
        let (arrived, read) = (Event::new(plugin)?, Event::new(plugin)?);
        let mut slot =
            Self { pinned: Pinned::new(plugin, 0)?, device: Tensor::new(), arrived, read };
        slot.grow(plugin, LEAST)?;
        Ok(slot)
    }

    /// No copy is under way when the old buffers go, see [`Copies::upload`].
    fn grow(&mut self, plugin: &Plugin, bytes: usize) -> Result<()> {
        let size = i64::try_from(bytes).unwrap_or(i64::MAX);
        self.pinned = Pinned::new(plugin, bytes)?;
        self.device = Tensor::empty([size], (Kind::Uint8, plugin.device));
        // This memory may have been another tensor's, which the current stream still reads.
        self.read.record(None)
    }
}

impl Copies {
    /// Ready, and compared with libtorch's own copies in both directions.
    ///
    /// # Errors
    /// [`Error::Torch`] where the plug-in fails or bytes differ.
    pub fn new(plugin: &Plugin) -> Result<Self> {
        let copies = Self {
            plugin: *plugin,
            stream: Stream::new(plugin)?,
            up: [Slot::new(plugin)?.into(), Slot::new(plugin)?.into()],
            turn: Cell::new(0),
            down: Pinned::new(plugin, 0)?.into(),
            computed: Event::new(plugin)?,
            copied: Event::new(plugin)?,
        };
        copies.compare()?;
        Ok(copies)
    }

    /// The bytes on the device, uint8, for what is queued on the current stream before the next upload.
    ///
    /// # Errors
    /// [`Error::Torch`].
    pub fn upload(&self, bytes: &[u8]) -> Result<Tensor> {
        if bytes.len() < LEAST {
            return Ok(Tensor::from_slice(bytes).to_device(self.plugin.device));
        }
        let last = self.turn.get();
        self.up[last].borrow().read.record(None)?;
        let turn = (last + 1) % self.up.len();
        self.turn.set(turn);
        let mut slot = self.up[turn].borrow_mut();
        slot.arrived.sync()?;
        if slot.pinned.bytes() < bytes.len() {
            slot.grow(&self.plugin, bytes.len())?;
        }
        // SAFETY: the last copy out of it, the only kind there is, was waited for.
        unsafe { slot.pinned.write(bytes) };
        slot.read.block(Some(&self.stream))?;
        // SAFETY: both stay in the slot, which waits for `arrived` before it is written, grows or goes;
        // the stream waits for `read`, and the current one for `arrived`.
        unsafe { slot.pinned.copy_to(&slot.device, bytes.len(), &self.stream)? };
        slot.arrived.record(Some(&self.stream))?;
        slot.arrived.block(None)?;
        Ok(slot.device.narrow(0, 0, i64::try_from(bytes.len()).unwrap_or(0)))
    }

    /// Uploads of three patterns through two buffers, and downloads of several types at a time, must be
    /// what libtorch's plain copies give.
    fn compare(&self) -> Result<()> {
        let differs = |way: &str| {
            let problem = format!("bytes {way} the GPU are not those of libtorch's plain copy");
            Error::Torch { what: "comparing pinned copies", problem }
        };
        let pattern = |seed: usize| -> Vec<u8> {
            (0..LEAST * (1 + seed % 2) + 7)
                .map(|i| (i * 31 + i / 256 + seed).to_le_bytes()[0])
                .collect()
        };
        let patterns = [1, 2, 3].map(pattern);
        let mut there = Vec::new();
        for bytes in &patterns {
            there.push(self.upload(bytes)?.copy());
        }
        for (there, bytes) in there.iter().zip(&patterns) {
            if plain::<u8>(there) != *bytes {
                return Err(differs("to"));
            }
        }
        for _ in 0..2 {
            let mut planes = Download::new(Some(self));
            let floats = there[0].to_kind(Kind::Float) / 3.0;
            let places = [planes.add(&there[1]), planes.add(&floats), planes.add(&there[2])];
            let planes = planes.wait()?;
            let bytes = planes.take::<u8>(places[0]) == patterns[1]
                && planes.take::<u8>(places[2]) == patterns[2];
            if !bytes || planes.take::<f32>(places[1]) != plain::<f32>(&floats) {
                return Err(differs("from"));
            }
        }
        Ok(())
    }
}

impl Drop for Copies {
    /// Buffers go when nothing is on its way into or out of them any more.
    fn drop(&mut self) {
        let arrived = self.up.iter().map(|slot| slot.borrow().arrived.sync());
        for error in arrived.chain([self.copied.sync()]).filter_map(Result::err) {
            log::error!("{error}");
        }
    }
}

/// Planes to be fetched from the device together: through [`Copies`] with one wait for all of them, or
/// each by libtorch's plain copy.
#[derive(Debug)]
pub struct Download<'a> {
    copies: Option<&'a Copies>,
    planes: Vec<Tensor>,
}

impl<'a> Download<'a> {
    /// Of nothing yet.
    pub fn new(copies: Option<&'a Copies>) -> Self {
        Self { copies, planes: Vec::new() }
    }

    /// Fetches this plane, too; its place for [`Downloaded::take`].
    pub fn add(&mut self, plane: &Tensor) -> usize {
        self.planes.push(plane.contiguous());
        self.planes.len() - 1
    }

    /// Waits for all of them.
    ///
    /// # Errors
    /// [`Error::Torch`].
    pub fn wait(self) -> Result<Downloaded<'a>> {
        let bytes = |plane: &Tensor| plane.numel() * plane.kind().elt_size_in_bytes();
        let (mut starts, mut end) = (Vec::new(), 0);
        for plane in &self.planes {
            starts.push(end);
            end += bytes(plane).next_multiple_of(ALIGNMENT);
        }
        if let Some(copies) = self.copies {
            let mut pinned = copies.down.borrow_mut();
            if pinned.bytes() < end {
                *pinned = Pinned::new(&copies.plugin, end)?; // every earlier copy was waited for
            }
            copies.computed.record(None)?;
            copies.computed.block(Some(&copies.stream))?;
            for (plane, &at) in self.planes.iter().zip(&starts) {
                // SAFETY: planes and buffer stay until `copied` was waited for, below; the stream waits
                // until the current one has computed the planes, and nothing writes to them again.
                unsafe { pinned.copy_from(plane, at, &copies.stream)? };
            }
            copies.copied.record(Some(&copies.stream))?;
            copies.copied.sync()?;
        }
        let pinned = self.copies.map(|copies| copies.down.borrow());
        Ok(Downloaded { pinned, planes: self.planes, starts })
    }
}

/// What [`Download::wait`] waited for; there is one at a time, for the next one overwrites it.
#[derive(Debug)]
pub struct Downloaded<'a> {
    pinned: Option<Ref<'a, Pinned>>,
    planes: Vec<Tensor>,
    starts: Vec<usize>,
}

impl Downloaded<'_> {
    /// The numbers of the plane at this place, row by row.
    ///
    /// # Panics
    /// For numbers of another type than the plane's.
    pub fn take<T: Element + Copy + Default>(&self, place: usize) -> Vec<T> {
        let plane = &self.planes[place];
        assert_eq!(plane.kind(), T::KIND);
        match &self.pinned {
            None => plain(plane),
            // SAFETY: waited for; of this type.
            Some(pinned) => unsafe { pinned.read(self.starts[place], plane.numel()) },
        }
    }
}

/// The numbers by libtorch's own copy.
fn plain<T: Element + Copy + Default>(plane: &Tensor) -> Vec<T> {
    let plane = plane.to_device(Device::Cpu).contiguous();
    let mut numbers = vec![T::default(); plane.numel()];
    plane.copy_data(&mut numbers, plane.numel());
    numbers
}

#[cfg(test)]
mod tests {
    use super::super::stub;
    use super::*;

    fn noise(count: usize, seed: usize) -> Vec<u8> {
        (0..count)
            .map(|i| ((i + seed).wrapping_mul(2_654_435_761) >> 13).to_le_bytes()[0])
            .collect()
    }

    #[test]
    fn every_upload_is_whole_when_it_is_read_though_the_buffers_are_two_and_grow() {
        let copies = Copies::new(&stub::open(&[])).unwrap();
        for (seed, size) in
            [5000, 5000, 9000, 300, 5000, 100_000, 9000, 4096].into_iter().enumerate()
        {
            let bytes = noise(size, seed);
            assert_eq!(plain::<u8>(&copies.upload(&bytes).unwrap()), bytes, "upload {seed}");
        }
    }

    #[test]
    fn planes_of_every_type_and_shape_come_back_with_one_wait() {
        let copies = Copies::new(&stub::open(&[])).unwrap();
        for round in 1..4 {
            let bytes = Tensor::from_slice(&noise(1000 * round, round)).view([-1, 10]);
            let scores = bytes.to_kind(Kind::Float).transpose(0, 1) / 7.0;
            let bad = scores.isnan().sum(Kind::Int64);
            let mut planes = Download::new(Some(&copies));
            let places = [&bytes, &scores, &bad, &bytes.narrow(0, 3, 1)].map(|x| planes.add(x));
            let planes = planes.wait().unwrap();
            assert_eq!(planes.take::<u8>(places[0]), plain::<u8>(&bytes));
            assert_eq!(planes.take::<f32>(places[1]), plain::<f32>(&scores));
            assert_eq!(planes.take::<i64>(places[2]), [0]);
            assert_eq!(planes.take::<u8>(places[3]), plain::<u8>(&bytes.narrow(0, 3, 1)));
        }
    }

    #[test]
    fn copies_that_spoil_a_bit_are_refused() {
        let error = Copies::new(&stub::open(&["-DSTUB_SPOILS_COPIES"])).unwrap_err().to_string();
        assert!(error.contains("bytes to the GPU"), "{error}");
    }

    #[test]
    fn the_stub_sees_a_buffer_filled_again_too_early() {
        let plugin = stub::open(&[]);
        let copies = Copies::new(&plugin).unwrap();
        let mut slot = copies.up[0].borrow_mut();
        slot.grow(&plugin, 5000).unwrap();
        slot.read.block(Some(&copies.stream)).unwrap();
        let old = noise(5000, 1);
        // SAFETY: none of the rules is kept from here on, which on the host spoils bytes only.
        unsafe {
            slot.pinned.write(&old);
            slot.pinned.copy_to(&slot.device, 5000, &copies.stream).unwrap();
            slot.pinned.write(&noise(5000, 2)); // before the copy
        }
        slot.arrived.record(Some(&copies.stream)).unwrap();
        slot.arrived.block(None).unwrap();
        assert_ne!(plain::<u8>(&slot.device.narrow(0, 0, 5000)), old);
        // SAFETY: as above.
        let again = || unsafe { slot.pinned.copy_to(&slot.device, 5000, &copies.stream) };
        assert!(again().unwrap_err().to_string().contains("filled again before the host knows"));
        slot.arrived.sync().unwrap();
        assert!(again().unwrap_err().to_string().contains("may still be read"));
        // SAFETY: as above.
        let early = unsafe { slot.pinned.copy_from(&slot.device, 0, &copies.stream) };
        assert!(early.unwrap_err().to_string().contains("before it was computed"));
    }
}
