//! `ood_seg synth --bag`: what a camera on the drawn road records.

use std::path::Path;

use ood_segmentation::bag::{BagWriter, Qos};
use ood_segmentation::data::synth::{Camera, Rendered, Scene, SceneConfig, Unknowns};
use ood_segmentation::image::{Image, encode_jpeg};
use ood_segmentation::msg::{self, CameraInfo, CompressedImage, Header, Stamp};
use ood_segmentation::{Error, Result};
use serde::Serialize;

use crate::segment::progress;

/// A recording.
#[derive(clap::Args)]
pub(crate) struct Recording {
    /// Instead of data sets, record a drive past unknown obstacles as a rosbag2 bag:
    /// `<camera>/image_raw` and `<camera>/camera_info`
    #[arg(long)]
    bag: bool,
    /// Pictures of the bag
    #[arg(long, default_value_t = 100, requires = "bag")]
    frames: u64,
    /// Pictures per second of the bag
    #[arg(long, default_value_t = 10.0, requires = "bag")]
    fps: f32,
    /// Camera of the bag, its topics' first part
    #[arg(long, default_value = "camera", requires = "bag")]
    camera: String,
    /// `<camera>/image_raw/compressed`, JPEG, instead of `<camera>/image_raw`
    #[arg(long, requires = "bag")]
    jpeg: bool,
}

/// Time of the first picture, 2026-01-01: the same seed gives the same bag.
const START_NS: u64 = 1_767_225_600_000_000_000;

impl Recording {
    /// No bag.
    #[cfg(test)]
    pub(crate) fn none() -> Self {
        Self { bag: false, frames: 0, fps: 1.0, camera: String::new(), jpeg: false }
    }

    /// Whether a bag is asked for.
    pub(crate) fn wanted(&self) -> bool {
        self.bag
    }

    /// Records the drive of a seed.
    ///
    /// # Errors
    /// A size or rate that cannot be drawn, a bag that is there already, a full disk.
    pub(crate) fn record(&self, path: &Path, seed: u64, [width, height]: [u32; 2]) -> Result<()> {
        let config = SceneConfig { width, height, fps: self.fps, unknowns: Unknowns::Along };
        let scene = Scene::new(seed, &config)?;
        let mut bag = BagWriter::create(path)?;
        let (name, kind) = match self.jpeg {
            true => ("image_raw/compressed", &msg::COMPRESSED_IMAGE),
            false => ("image_raw", &msg::IMAGE),
        };
        let topic = |name: &str| format!("/{}/{name}", self.camera.trim_matches('/'));
        let qos = Qos { reliable: true, ..Qos::default() };
        let pictures = bag.add_topic(&topic(name), kind, qos)?;
        let infos = bag.add_topic(&topic("camera_info"), &msg::CAMERA_INFO, qos)?;
        let bar = progress(usize::try_from(self.frames).unwrap_or(usize::MAX));
        for index in 0..self.frames {
            let frame = scene.render(index);
            let time = START_NS + frame.stamp_ns;
            let header = self.header(time);
            let info = encoded(path, &calibration(header.clone(), scene.camera()))?;
            bag.write(infos, time, &info)?;
            bag.write(pictures, time, &self.picture(path, header, frame)?)?;
            bar.inc(1);
        }
        bar.finish();
        bag.finish()?;
        println!("{} frames in {}", self.frames, path.display());
        Ok(())
    }

    fn header(&self, time: u64) -> Header {
        let stamp = Stamp {
            sec: i32::try_from(time / 1_000_000_000).unwrap_or(i32::MAX),
            nanosec: u32::try_from(time % 1_000_000_000).unwrap_or(0),
        };
        Header { stamp, frame_id: format!("{}_optical", self.camera.trim_matches('/')) }
    }

    /// The picture's message.
    fn picture(&self, path: &Path, header: Header, frame: Rendered) -> Result<Vec<u8>> {
        let (height, width) = (frame.height as usize, frame.width as usize);
        if !self.jpeg {
            return encoded(path, &Image::packed(header, (height, width), "rgb8", frame.rgb));
        }
        let data = encode_jpeg(height, width, &frame.rgb, 90)?;
        let format = CompressedImage::JPEG_OF_RGB8.into();
        encoded(path, &CompressedImage { header, format, data })
    }
}

/// The pinhole camera as a calibration: no distortion, rectified already.
fn calibration(header: Header, camera: &Camera) -> CameraInfo {
    let k = camera.intrinsics();
    CameraInfo {
        header,
        height: camera.height,
        width: camera.width,
        distortion_model: "plumb_bob".into(),
        d: vec![0.0; 5],
        k,
        r: [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
        p: [k[0], k[1], k[2], 0.0, k[3], k[4], k[5], 0.0, k[6], k[7], k[8], 0.0],
        ..CameraInfo::default()
    }
}

fn encoded(path: &Path, message: &impl Serialize) -> Result<Vec<u8>> {
    msg::encode(message).map_err(|error| Error::bad_file(path, error.to_string()))
}
