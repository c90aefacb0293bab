//! The files that `segment` puts into a folder.

use std::io::Write;
use std::path::Path;

use ood_segmentation::config::ClassTable;
use ood_segmentation::pipeline::{Planes, Prediction};
use ood_segmentation::{Error, Result, file, image, overlay};

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

/// Classes and OoD mask over the picture, rgb8.
pub(crate) fn overlay_of(prediction: &Prediction, classes: &ClassTable) -> Vec<u8> {
    let rgb = prediction.rgb.as_deref().unwrap_or_default();
    overlay::overlay(rgb, prediction.width, &prediction.classes, &prediction.ood_mask, classes)
}
