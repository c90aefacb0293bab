//! What is particular to one camera: how it hangs, what of the vehicle it sees, its operating point.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use tch::Tensor;

use super::{Prediction, check_threshold};
use crate::image::{Image, Limits};
use crate::{Error, Result};

/// Class of a pixel that has none, as vision_msgs/LabelInfo reserves it in 8-bit label images.
pub const UNLABELLED: u8 = 255;

/// Settings of one camera.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct View {
    /// How far its pictures are turned before the network sees them.
    pub rotation: Rotation,
    /// The part of its pictures that shows the own vehicle.
    pub ego_mask: Option<EgoMask>,
    /// Its own threshold, where the pipeline's does not serve.
    pub ood_threshold: Option<f32>,
    /// The size of its planes.
    pub resolution: Resolution,
}

impl View {
    /// Refuses settings that do not fit a picture.
    pub(super) fn check(&self, image: &Image) -> Result<()> {
        if let Some(threshold) = self.ood_threshold {
            check_threshold(threshold)?;
        }
        self.ego_mask.as_ref().map_or(Ok(()), |mask| mask.check(image))
    }
}

/// A turn that brings up to the top: networks are trained on pictures that stand upright.
///
/// The planes are turned back, so that they fit the camera's own picture, header and calibration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rotation {
    /// Clockwise, 0 to 3.
    quarters: i64,
}

impl Rotation {
    /// A clockwise turn: 90 for a camera whose pictures have up at their left edge.
    ///
    /// # Errors
    /// [`Error::Setting`] for anything but 0, 90, 180, 270.
    pub fn from_degrees(degrees: i64) -> Result<Self> {
        match degrees {
            0 | 90 | 180 | 270 => Ok(Self { quarters: degrees / 90 }),
            _ => Err(Error::setting("rotation", &degrees, "0, 90, 180, 270 degrees clockwise")),
        }
    }

    /// The turned picture or plane; rows and columns are its last two dimensions.
    pub(super) fn turn(self, picture: &Tensor) -> Tensor {
        match self.quarters {
            0 => picture.shallow_clone(),
            quarters => picture.rot90(-quarters, [-2, -1]), // torch counts anticlockwise
        }
    }

    /// The turn back.
    pub(super) fn inverse(self) -> Self {
        Self { quarters: (4 - self.quarters) % 4 }
    }
}

/// The size of the planes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Resolution {
    /// That of the camera's picture.
    #[default]
    Input,
    /// That of the network's window where the plan resizes the picture to it (`single`), else the
    /// picture's; planes are smaller, and what is thinner than a pixel of theirs is lost.
    Network,
}

impl fmt::Display for Resolution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Input => "input",
            Self::Network => "network",
        })
    }
}

impl FromStr for Resolution {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let found = [Self::Input, Self::Network].into_iter().find(|r| r.to_string() == name);
        found.ok_or_else(|| Error::setting("output_resolution", name, "input, network"))
    }
}

/// Where a camera sees the vehicle that carries it, such as its bonnet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EgoMask {
    height: usize,
    width: usize,
    /// Not 0 on the vehicle.
    pixels: Vec<u8>,
}

impl EgoMask {
    /// A grey picture of the camera's size, in the camera's own orientation: the vehicle is where it is
    /// not black.
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::BadFile`]: a picture in colour, or one that leaves nothing to see.
    pub fn read_file(path: &Path, limits: &Limits) -> Result<Self> {
        let Image { height, width, encoding, data, .. } = Image::read_file(path, limits)?;
        if encoding != "mono8" {
            let problem = format!("a picture in {encoding}, expected a grey one (mono8)");
            return Err(Error::bad_file(path, problem));
        }
        if !data.contains(&0) {
            let problem = "no black pixel, expected black wherever the vehicle is not";
            return Err(Error::bad_file(path, problem));
        }
        Ok(Self { height: height as usize, width: width as usize, pixels: data.into() })
    }

    /// Refuses a mask made for pictures of another size.
    fn check(&self, image: &Image) -> Result<()> {
        if (image.height as usize, image.width as usize) != (self.height, self.width) {
            let value = format!("{}x{}", self.width, self.height);
            let allowed =
                format!("the size of the camera's picture, {}x{}", image.width, image.height);
            return Err(Error::setting("ego_mask", &value, allowed));
        }
        Ok(())
    }

    /// Takes the vehicle out of the planes: unlabelled, not out of distribution, no score, no
    /// confidence, no probability.
    pub(super) fn apply(&self, prediction: &mut Prediction) {
        let Prediction { height, width, .. } = *prediction;
        for (i, class) in prediction.classes.iter_mut().enumerate() {
            let (y, x) = (i / width * self.height / height, i % width * self.width / width);
            if self.pixels[y * self.width + x] == 0 {
                continue;
            }
            *class = UNLABELLED;
            prediction.ood_mask[i] = 0;
            if let Some(score) = &mut prediction.score {
                score[i] = f32::NAN;
            }
            let shares = [&mut prediction.confidence, &mut prediction.probability];
            for share in shares.into_iter().flatten() {
                share[i] = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::write_png;

    fn plane(values: &[i64], h: i64, w: i64) -> Tensor {
        Tensor::from_slice(values).view([1, h, w])
    }

    #[test]
    fn a_turn_is_clockwise_and_its_inverse_undoes_it() {
        let x = plane(&[1, 2, 3, 4, 5, 6], 2, 3);
        for (degrees, turned) in [
            (0, plane(&[1, 2, 3, 4, 5, 6], 2, 3)),
            (90, plane(&[4, 1, 5, 2, 6, 3], 3, 2)),
            (180, plane(&[6, 5, 4, 3, 2, 1], 2, 3)),
            (270, plane(&[3, 6, 2, 5, 1, 4], 3, 2)),
        ] {
            let rotation = Rotation::from_degrees(degrees).unwrap();
            assert_eq!(rotation.turn(&x), turned, "{degrees}");
            assert_eq!(rotation.inverse().turn(&turned), x, "{degrees}");
        }
        let error = Rotation::from_degrees(45).unwrap_err().to_string();
        assert!(error.contains("45") && error.contains("270"), "{error}");
    }

    #[test]
    fn the_vehicle_is_taken_out_of_every_plane_at_any_resolution() {
        let mask = EgoMask { height: 2, width: 4, pixels: vec![0, 0, 0, 0, 0, 0, 255, 255] };
        let of = |height, width| {
            let pixels = height * width;
            let mut prediction = Prediction {
                ood_fraction: 0.0,
                header: crate::msg::Header::default(),
                height,
                width,
                classes: vec![7; pixels],
                ood_threshold: 0.0,
                ood_mask: vec![255; pixels],
                obstacles: None,
                score: Some(vec![1.0; pixels]),
                confidence: Some(vec![9; pixels]),
                probability: Some(vec![9; pixels]),
                rgb: None,
                unfamiliarity: None,
                timing: super::super::Timing::default(),
            };
            mask.apply(&mut prediction);
            prediction
        };
        let got = of(2, 4);
        assert_eq!(got.classes, [7, 7, 7, 7, 7, 7, 255, 255]);
        assert_eq!(got.ood_mask, [255, 255, 255, 255, 255, 255, 0, 0]);
        assert_eq!(got.confidence.unwrap(), [9, 9, 9, 9, 9, 9, 0, 0]);
        assert_eq!(got.probability.unwrap(), [9, 9, 9, 9, 9, 9, 0, 0]);
        let invalid: Vec<_> = got.score.unwrap().iter().map(|score| score.is_nan()).collect();
        assert_eq!(invalid, [false, false, false, false, false, false, true, true]);
        assert_eq!(of(2, 2).classes, [7, 7, 7, 255]);
        assert_eq!(of(4, 2).classes, [7, 7, 7, 7, 7, 255, 7, 255]);
    }

    #[test]
    fn masks_of_another_size_or_kind_are_refused_with_both_sizes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hood.png");
        let limits = Limits::default();
        write_png(&path, 2, 3, &[0, 0, 0, 1, 1, 1]).unwrap();
        let mask = EgoMask::read_file(&path, &limits).unwrap();
        let image = Image { height: 3, width: 2, ..Image::default() };
        let error = mask.check(&image).unwrap_err().to_string();
        assert!(error.contains("3x2") && error.contains("2x3"), "{error}");
        mask.check(&Image { height: 2, width: 3, ..Image::default() }).unwrap();
        for (pixels, problem) in [(vec![1; 6], "no black"), (vec![0; 18], "rgb8")] {
            write_png(&path, 2, 3, &pixels).unwrap();
            let error = EgoMask::read_file(&path, &limits).unwrap_err().to_string();
            assert!(error.contains(problem), "{error}");
        }
    }
}
