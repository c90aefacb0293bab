//! Where `segment` puts its results: a folder of files, or one bag.

use std::collections::HashMap;
use std::io::Write;
use std::path::Path;

use ood_segmentation::bag::{BagWriter, Qos, TopicId};
use ood_segmentation::config::ClassTable;
use ood_segmentation::image::Image;
use ood_segmentation::msg;
use ood_segmentation::pipeline::{Planes, Prediction};
use ood_segmentation::{Error, Result, file, image, overlay};

use crate::inputs::Frame;

/// A kind of result file.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kind {
    /// `_labels.png`: train ids
    Labels,
    /// `_ood.png`: 0 or 255
    Ood,
    /// `_score.npy`: float32, higher is more out of distribution
    Score,
    /// `_overlay.png`: classes and OoD mask over the picture
    Overlay,
}

impl Kind {
    /// What follows the picture's name in the file's.
    pub(crate) fn ending(self) -> &'static str {
        match self {
            Self::Labels => "_labels.png",
            Self::Ood => "_ood.png",
            Self::Score => "_score.npy",
            Self::Overlay => "_overlay.png",
        }
    }
}

/// Files in a folder.
pub(crate) struct Folder<'a> {
    /// The folder.
    pub(crate) path: &'a Path,
    /// What to write per picture.
    pub(crate) kinds: &'a [Kind],
    /// Colours of the overlay.
    pub(crate) classes: &'a ClassTable,
}

impl Folder<'_> {
    /// Makes the folder.
    ///
    /// # Errors
    /// A file in its place, no permission.
    pub(crate) fn create(&self) -> Result<()> {
        if self.path.exists() && !self.path.is_dir() {
            let problem = "a file, the results need a folder; name another with --out";
            return Err(Error::bad_file(self.path, problem));
        }
        std::fs::create_dir_all(self.path).map_err(Error::io(self.path))
    }

    /// The planes that the chosen kinds need.
    pub(crate) fn planes(&self) -> Planes {
        Planes {
            score: self.kinds.contains(&Kind::Score),
            rgb: self.kinds.contains(&Kind::Overlay),
            ..Planes::default()
        }
    }

    /// Writes the results of one picture.
    pub(crate) fn add(&self, name: &Path, prediction: &Prediction) -> Result<()> {
        let (h, w) = (prediction.height, prediction.width);
        let path = |end: &str| {
            let mut file = name.as_os_str().to_os_string();
            file.push(end);
            self.path.join(file)
        };
        for kind in self.kinds {
            let path = path(kind.ending());
            match kind {
                Kind::Labels => image::write_png(&path, h, w, &prediction.classes)?,
                Kind::Ood => image::write_png(&path, h, w, &prediction.ood_mask)?,
                Kind::Score => {
                    write_npy(&path, h, w, prediction.score.as_deref().unwrap_or_default())?;
                }
                Kind::Overlay => {
                    image::write_png(&path, h, w, &overlay_of(prediction, self.classes))?;
                }
            }
        }
        Ok(())
    }
}

/// A float32 plane as NumPy reads it (format version 1.0).
fn write_npy(path: &Path, height: usize, width: usize, plane: &[f32]) -> Result<()> {
    let header =
        format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({height}, {width}), }}");
    // Magic, version and length take 10 bytes; the data starts at a multiple of 64.
    let padded = (10 + header.len() + 1).next_multiple_of(64) - 10;
    file::write(path, |out| {
        out.write_all(b"\x93NUMPY\x01\x00")?;
        out.write_all(&u16::try_from(padded).unwrap_or(u16::MAX).to_le_bytes())?;
        writeln!(out, "{header:<width$}", width = padded - 1)?;
        for value in plane {
            out.write_all(&value.to_le_bytes())?;
        }
        Ok(())
    })
}

/// One bag with every output of every frame, under the topic names of the node.
pub(crate) struct BagOut {
    bag: BagWriter,
    topics: HashMap<String, TopicId>,
}

impl BagOut {
    /// Begins the bag, which appears when it is finished.
    pub(crate) fn create(path: &Path) -> Result<Self> {
        Ok(Self { bag: BagWriter::create(path)?, topics: HashMap::new() })
    }

    /// Writes the outputs of one recorded picture with its header, at the time it was recorded.
    ///
    /// # Errors
    /// A picture that is not from a bag: it has neither camera nor time.
    pub(crate) fn add(
        &mut self,
        frame: &Frame,
        prediction: &Prediction,
        classes: &ClassTable,
    ) -> Result<()> {
        let Some((camera, log_time_ns)) = &frame.recorded else {
            let problem = "a picture file has no camera and no time: --bag-out takes bags only";
            return Err(Error::bad_file(&frame.source, problem));
        };
        let score = prediction.score.iter().flatten().flat_map(|value| value.to_le_bytes());
        let planes = [
            ("semantic/image", "mono8", prediction.classes.clone()),
            ("semantic/confidence", "mono8", prediction.confidence.clone().unwrap_or_default()),
            ("ood/image", "mono8", prediction.ood_mask.clone()),
            ("ood/probability", "mono8", prediction.probability.clone().unwrap_or_default()),
            ("ood/score", "32FC1", score.collect()),
            ("overlay/image", "rgb8", overlay_of(prediction, classes)),
        ];
        for (name, encoding, data) in planes {
            let (h, w) = (prediction.height, prediction.width);
            let image = Image::packed(prediction.header.clone(), (h, w), encoding, data);
            self.write(&format!("{camera}/{name}"), *log_time_ns, &image)?;
        }
        Ok(())
    }

    fn write(&mut self, topic: &str, log_time_ns: u64, image: &Image) -> Result<()> {
        let bad = |error: msg::CdrError| Error::bad_file(topic, error.to_string());
        let bytes = msg::encode(image).map_err(bad)?;
        let id = match self.topics.get(topic) {
            Some(id) => *id,
            None => self.bag.add_topic(topic, &msg::IMAGE, Qos::default())?,
        };
        self.topics.insert(topic.to_owned(), id);
        self.bag.write(id, log_time_ns, &bytes)
    }

    /// Completes the bag.
    pub(crate) fn finish(self) -> Result<()> {
        self.bag.finish()
    }
}

/// Classes and OoD mask over the picture, rgb8.
fn overlay_of(prediction: &Prediction, classes: &ClassTable) -> Vec<u8> {
    let rgb = prediction.rgb.as_deref().unwrap_or_default();
    overlay::overlay(
        rgb,
        prediction.width,
        &prediction.classes,
        &prediction.ood_mask,
        (classes, 0.5),
    )
}
