//! A frame's bytes -> RGB on the device -> the network's normalised input.
//!
//! The raw rows go up once, in the camera's own format; everything else is tensor operations there.

use tch::{Device, Kind, Tensor};

use crate::Result;
use crate::image::{Encoding, Image, Reject};

/// ImageNet's mean and standard deviation per channel, RGB, for pixels in 0..1; DINOv2's as well.
const MEAN: [f32; 3] = [0.485, 0.456, 0.406];
const STD: [f32; 3] = [0.229, 0.224, 0.225];

/// The frame as RGB `(3, h, w)` uint8 on `device`; `encoding` is what [`Image::validate`] gave.
///
/// * mono: the grey value three times; alpha is dropped.
/// * YUV: ITU-R BT.601, limited range, as OpenCV and cv_bridge convert it, with the three-digit
///   coefficients they use (their fixed-point sums round some ties the other way: one level); a chroma
///   pair serves its 2 (`nv12`: 4) pixels without interpolation.
/// * Bayer: bilinear, as OpenCV's plain demosaicing inside the picture; beyond the border the mosaic is
///   mirrored about the outermost pixel, which keeps its colours in phase.
///
/// # Errors
/// [`Reject::LayoutShort`] where `encoding` is not this image's and asks for more data than there is.
pub fn to_rgb(image: &Image, encoding: Encoding, device: Device) -> Result<Tensor> {
    to_rgb_by(image, encoding, |bytes| Ok(Tensor::from_slice(bytes).to(device)))
}

/// As [`to_rgb`], on the device to which `upload` brings the raw bytes; it is called once at most.
///
/// # Errors
/// As [`to_rgb`], and those of `upload`.
pub fn to_rgb_by(
    image: &Image,
    encoding: Encoding,
    upload: impl FnOnce(&[u8]) -> Result<Tensor>,
) -> Result<Tensor> {
    let raw = rows(image, encoding, upload)?;
    let (h, w) = (i64::from(image.height), i64::from(image.width));
    let packed = |channels: i64| raw.reshape([h, w, channels]).permute([2, 0, 1]).narrow(0, 0, 3);
    let rgb = match encoding {
        Encoding::Rgb8 => packed(3),
        Encoding::Rgba8 => packed(4),
        Encoding::Bgr8 => packed(3).flip([0]),
        Encoding::Bgra8 => packed(4).flip([0]),
        Encoding::Mono8 => raw.expand([3, h, w], false),
        Encoding::Uyvy => yuv422(&raw.reshape([h, w, 2]).flip([2])),
        Encoding::Yuyv => yuv422(&raw.reshape([h, w, 2])),
        Encoding::Nv12 => {
            let chroma = raw.narrow(0, h, h / 2).reshape([h / 2, w / 2, 2]);
            yuv(&raw.narrow(0, 0, h), &chroma.repeat_interleave_self_int(2, 0, None))
        }
        Encoding::Bayer(colours) => demosaic(&raw, colours),
    };
    Ok(rgb.contiguous())
}

/// RGB `(3, h, w)` uint8 as the network's input `(1, 3, h, w)` float32: `(pixel / 255 - mean) / std`.
pub fn normalise(rgb: &Tensor) -> Tensor {
    let per_channel =
        |values: [f32; 3]| Tensor::from_slice(&values).to(rgb.device()).view([3, 1, 1]);
    let mut x = rgb.to_kind(Kind::Float) / 255.0;
    x -= per_channel(MEAN); // in place
    x /= per_channel(STD);
    x.unsqueeze(0)
}

/// The raw rows `(rows, row_bytes)` uint8 on the device, without their padding.
fn rows(
    image: &Image,
    encoding: Encoding,
    upload: impl FnOnce(&[u8]) -> Result<Tensor>,
) -> Result<Tensor> {
    let rows = encoding.rows(image.height);
    let (found, needed) = (image.data.len() as u64, rows * u64::from(image.step));
    let bytes = usize::try_from(needed).ok().and_then(|needed| image.data.get(..needed));
    let bytes = bytes.ok_or(Reject::LayoutShort { found, needed })?;
    let raw = upload(bytes)?.view([rows.cast_signed(), image.step.into()]);
    Ok(raw.narrow(1, 0, encoding.row_bytes(image.width).cast_signed()))
}

/// RGB from `(h, w, 2)`: Y beside U in even columns, Y beside V in odd ones.
fn yuv422(pairs: &Tensor) -> Tensor {
    let (h, w, _) = pairs.size3().unwrap_or_default();
    yuv(&pairs.select(2, 0), &pairs.select(2, 1).reshape([h, w / 2, 2]))
}

/// RGB from Y `(h, w)` and the pairs U, V `(h, w / 2, 2)`, all uint8.
fn yuv(y: &Tensor, chroma: &Tensor) -> Tensor {
    let chroma = chroma.to_kind(Kind::Float).repeat_interleave_self_int(2, 1, None) - 128.0;
    let (u, v) = (chroma.select(2, 0), chroma.select(2, 1));
    let y = (y.to_kind(Kind::Float) - 16.0).clamp_min(0.0) * 1.164;
    let r = &y + 1.596 * &v;
    let g = &y - 0.391 * &u - 0.813 * &v;
    let b = &y + 2.018 * &u;
    to_bytes(&Tensor::stack(&[r, g, b], 0))
}

/// RGB from a mosaic `(h, w)` whose 2x2 cells hold the `colours` 0 red, 1 green, 2 blue.
///
/// A missing colour is the mean of the pixels around that have it: 2 or 4 of them.
fn demosaic(mosaic: &Tensor, colours: [u8; 4]) -> Tensor {
    let (h, w) = mosaic.size2().unwrap_or_default();
    let device = mosaic.device();
    let cell: Vec<_> =
        (0..3).flat_map(|c| colours.map(|colour| f32::from(u8::from(colour == c)))).collect();
    let cells = Tensor::from_slice(&cell).view([3, 2, 2]).repeat([1, (h + 1) / 2, (w + 1) / 2]);
    let sites = cells.narrow(1, 0, h).narrow(2, 0, w).to(device); // 1 where the colour was measured
    let sparse = (sites * mosaic.to_kind(Kind::Float)).unsqueeze(0).reflection_pad2d([1; 4]);
    let cross = [0.25, 0.5, 0.25, 0.5, 1.0, 0.5, 0.25, 0.5, 0.25f32]; // a colour at one site of a cell
    let quincunx = [0.0, 0.25, 0.0, 0.25, 1.0, 0.25, 0.0, 0.25, 0.0f32]; // green, at two sites
    let kernels = Tensor::from_slice(&[cross, quincunx, cross].concat()).view([3, 1, 3, 3]);
    let rgb = sparse.conv2d(&kernels.to(device), None::<Tensor>, [1, 1], [0, 0], [1, 1], 3);
    to_bytes(&rgb.squeeze_dim(0))
}

/// Rounded, halves up, and saturated to uint8.
fn to_bytes(x: &Tensor) -> Tensor {
    (x + 0.5).floor().clamp(0.0, 255.0).to_kind(Kind::Uint8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Limits;

    /// The pixels `R G B R G B ..` of rows of `step` bytes.
    fn pixels(encoding: &str, width: u32, height: u32, step: u32, data: &[u8]) -> Vec<u8> {
        let (encoding, data) = (encoding.into(), data.to_vec());
        let image = Image { height, width, encoding, step, data: data.into(), ..Image::default() };
        let encoding = image.validate(&Limits::default()).unwrap();
        let rgb = to_rgb(&image, encoding, Device::Cpu).unwrap();
        assert_eq!(rgb.size(), [3, i64::from(height), i64::from(width)]);
        Vec::try_from(rgb.permute([1, 2, 0]).reshape(-1)).unwrap()
    }

    #[test]
    fn channel_orders_and_padding_do_not_change_the_picture() {
        let rgb: Vec<u8> = (1..=18).collect(); // 2 rows of 3 pixels
        let padded = [&rgb[..9], &[99; 4], &rgb[9..], &[99; 4]].concat();
        assert_eq!(pixels("rgb8", 3, 2, 9, &rgb), rgb);
        assert_eq!(pixels("rgb8", 3, 2, 13, &padded), rgb);
        let reordered = |order: &[usize]| {
            let pixel = |px: &[u8]| order.iter().map(|&c| *px.get(c).unwrap_or(&99)).collect();
            rgb.chunks(3).flat_map(|px| -> Vec<u8> { pixel(px) }).collect::<Vec<u8>>()
        };
        assert_eq!(pixels("bgr8", 3, 2, 9, &reordered(&[2, 1, 0])), rgb);
        assert_eq!(pixels("8UC3", 3, 2, 9, &reordered(&[2, 1, 0])), rgb);
        assert_eq!(pixels("rgba8", 3, 2, 12, &reordered(&[0, 1, 2, 3])), rgb);
        assert_eq!(pixels("bgra8", 3, 2, 12, &reordered(&[2, 1, 0, 3])), rgb);
        assert_eq!(
            pixels("mono8", 3, 2, 4, &[1, 2, 3, 99, 4, 5, 6, 99]),
            [1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4, 5, 5, 5, 6, 6, 6]
        );
    }

    #[test]
    fn yuv_is_bt601_limited_range() {
        // Y 81, U 90, V 240 is red: R 1.164 * 65 + 1.596 * 112 = 254.4, G 75.7 + 14.9 - 91.1 < 0.
        let row = [254, 0, 0, 255, 179, 178, 0, 0, 255, 0, 0, 226];
        assert_eq!(pixels("uyvy", 4, 1, 9, &[90, 81, 240, 235, 240, 41, 110, 16, 99]), row);
        assert_eq!(pixels("yuyv", 4, 1, 8, &[81, 90, 235, 240, 41, 240, 16, 110]), row);
        let black = [179, 0, 0, 179, 0, 0, 0, 0, 226, 0, 0, 226]; // Y 16 with the same chroma
        let nv12 = [81, 235, 41, 16, 99, 16, 16, 0, 16, 99, 90, 240, 240, 110, 99];
        assert_eq!(pixels("nv12", 4, 2, 5, &nv12), [row, black].concat());
    }

    #[test]
    fn bayer_is_the_mean_of_the_pixels_that_have_the_colour() {
        #[rustfmt::skip]
        let mosaic = [
            10,  20,  31,  40, // R G R G
            50,  60,  75,  80, // G B G B
            90, 101, 110, 120, // R G R G
        ];
        let rgb = pixels("bayer_rggb8", 4, 3, 4, &mosaic);
        let at = |y: usize, x: usize| &rgb[3 * (4 * y + x)..][..3];
        assert_eq!(at(1, 1), [60, 62, 60]); // R (10+31+90+110)/4, G (20+50+75+101)/4
        assert_eq!(at(1, 2), [71, 75, 70]); // R above and below, B left and right
        assert_eq!(at(0, 0), [10, 35, 60]); // mirrored: G (50+50+20+20)/4
        assert_eq!(at(0, 3), [31, 40, 80]);
        assert_eq!(at(2, 3), [110, 120, 80]);
        let swapped: Vec<_> = rgb.chunks(3).flat_map(|px| [px[2], px[1], px[0]]).collect();
        assert_eq!(pixels("bayer_bggr8", 4, 3, 4, &mosaic), swapped);
        // One column or row further into a mosaic its first cell reads differently; inside, the
        // picture is the same.
        let next: Vec<_> = mosaic.chunks(4).flat_map(|row| &row[1..]).copied().collect();
        let grbg = pixels("bayer_grbg8", 3, 3, 3, &next);
        assert_eq!([&grbg[3..9], &grbg[12..18]], [&rgb[6..12], &rgb[18..24]]);
        let gbrg = pixels("bayer_gbrg8", 4, 2, 4, &mosaic[4..]);
        assert_eq!(gbrg[12..], rgb[24..]);
    }

    #[test]
    fn another_images_encoding_is_refused_not_read_beyond_the_data() {
        let image =
            Image { height: 2, width: 4, step: 4, data: vec![0; 8].into(), ..Image::default() };
        assert!(to_rgb(&image, Encoding::Nv12, Device::Cpu).is_err());
    }

    #[test]
    fn normalised_as_the_reference_does() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/golden/preprocess.safetensors");
        let golden: std::collections::HashMap<_, _> =
            Tensor::read_safetensors(path).unwrap().into_iter().collect();
        let x = normalise(&golden["norm.in"].permute([2, 0, 1]));
        let error = (x.squeeze_dim(0) - &golden["norm.out"]).abs().max().double_value(&[]);
        assert!(error <= 5e-7, "max-abs error {error:e}, tolerance 5e-7");
    }
}
