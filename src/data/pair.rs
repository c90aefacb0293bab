//! A picture and its labels: the files, and what is read from them.

use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// A picture and its labels, one file each.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pair {
    /// The picture, any format the `image` crate reads here: JPEG, PNG, WebP.
    pub image: PathBuf,
    /// The labels, 8-bit, one value per pixel.
    pub labels: PathBuf,
}

/// A picture with a label per pixel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// Red, green, blue, row by row: `height * width * 3` bytes.
    pub rgb: Vec<u8>,
    /// `height * width` labels: train ids, [`OOD`](super::OOD), [`IGNORE`](super::IGNORE).
    pub labels: Vec<u8>,
}

impl Pair {
    /// Reads both files. Labels of several channels count by their first, as upstream reads them.
    ///
    /// # Errors
    /// A file that cannot be decoded, or two sizes that differ.
    pub fn read(&self) -> Result<Sample> {
        let picture = decode(&self.image)?.into_rgb8();
        let labels = decode(&self.labels)?;
        let labels = match labels {
            ::image::DynamicImage::ImageLuma8(plane) => plane,
            ::image::DynamicImage::ImageRgb8(_) | ::image::DynamicImage::ImageRgba8(_) => {
                let rgb = labels.into_rgb8();
                let first = rgb.pixels().map(|pixel| pixel.0[0]).collect();
                let plane = ::image::GrayImage::from_raw(rgb.width(), rgb.height(), first);
                plane.unwrap_or_default()
            }
            other => {
                let problem =
                    format!("labels of type {:?}, expected 8 bits per pixel", other.color());
                return Err(Error::bad_file(&self.labels, problem));
            }
        };
        if picture.dimensions() != labels.dimensions() {
            let ((w, h), (lw, lh)) = (picture.dimensions(), labels.dimensions());
            let problem = format!(
                "labels are {lh}x{lw} px (height x width), their picture {} is {h}x{w}",
                self.image.display()
            );
            return Err(Error::bad_file(&self.labels, problem));
        }
        Ok(Sample {
            height: picture.height() as usize,
            width: picture.width() as usize,
            rgb: picture.into_raw(),
            labels: labels.into_raw(),
        })
    }
}

impl Sample {
    /// Checks that every label is a train id below `classes`, or one of `others`.
    ///
    /// # Errors
    /// The first label outside, with the file it came from.
    pub fn check_labels(&self, classes: usize, others: &[u8], path: &Path) -> Result<()> {
        let fits = |label: u8| usize::from(label) < classes || others.contains(&label);
        let Some(at) = self.labels.iter().position(|&label| !fits(label)) else { return Ok(()) };
        let (row, column, label) = (at / self.width, at % self.width, self.labels[at]);
        let problem = format!(
            "label {label} at row {row}, column {column}; expected a train id of 0 to {} or one of {others:?}",
            classes - 1
        );
        Err(Error::bad_file(path, problem))
    }
}

fn decode(path: &Path) -> Result<::image::DynamicImage> {
    let reader = ::image::ImageReader::open(path).map_err(Error::io(path))?;
    let reader = reader.with_guessed_format().map_err(Error::io(path))?;
    reader.decode().map_err(|error| Error::bad_file(path, error.to_string()))
}

/// Files and folders directly in `folder`, by name.
pub(super) fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(Error::io(folder))? {
        found.push(entry.map_err(Error::io(folder))?.path());
    }
    found.sort();
    Ok(found)
}

/// The file's name, lossily; empty for a path that has none.
pub(super) fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
