//! Compressed pictures: JPEG, PNG and WebP in, PNG and JPEG out.
//!
//! The first bytes decide the format, whatever the message's `format` field or the file's name says.
//! [`Limits`] hold before anything is decoded, and a picture that is not whole is refused rather than
//! shown half grey. Accepted are 8-bit grey and colour (palettes and fewer bits are expanded, alpha is
//! dropped); the result is `mono8` or `rgb8`. image_transport's `rgb8; jpeg compressed bgr8` names the
//! byte order its encoder was fed with: the file itself is an ordinary one, and decodes to RGB. EXIF
//! rotation is ignored: a camera's pixels stay where its calibration says they are.

use std::fs::File;
use std::io::{Cursor, Read, Write};
use std::path::Path;

use ::image::codecs::jpeg::JpegEncoder;
use ::image::codecs::png::{CompressionType, FilterType, PngEncoder};
use ::image::{ColorType, ExtendedColorType, ImageDecoder, ImageEncoder, ImageFormat, ImageReader};
use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use super::{Image, Limits, Reject};
use crate::msg::{CompressedImage, Header};
use crate::{Error, Result, file};

/// Most scans of a JPEG: encoders write up to about a dozen, and each costs a pass over the picture.
const MAX_SCANS: usize = 32;

impl Image {
    /// The picture in a JPEG, PNG or WebP message, as `rgb8` or `mono8`, with the message's header.
    ///
    /// # Errors
    /// `size_zero`, `size_limit`: what the file's header claims; `encoding`: 16-bit or CMYK samples;
    /// `decode`: another format, cut short or corrupt.
    pub fn from_compressed(message: &CompressedImage, limits: &Limits) -> Result<Self, Reject> {
        decode(message.header.clone(), &message.data, limits)
    }

    /// The picture in a JPEG, PNG or WebP file, as `rgb8` or `mono8`, with an empty header.
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::BadFile`] with the path; a file above `limits.max_bytes` is not read.
    pub fn read_file(path: &Path, limits: &Limits) -> Result<Self> {
        let mut data = Vec::new();
        let most = limits.max_bytes.saturating_add(1);
        let read = File::open(path).and_then(|file| file.take(most).read_to_end(&mut data));
        if read.map_err(Error::io(path))? as u64 == most {
            let problem = format!("longer than the {} bytes allowed", limits.max_bytes);
            return Err(Error::bad_file(path, problem));
        }
        decode(Header::default(), &data, limits)
            .map_err(|reject| Error::bad_file(path, reject.to_string()))
    }
}

fn decode(header: Header, file: &[u8], limits: &Limits) -> Result<Image, Reject> {
    let (width, height, data) = match ::image::guess_format(file) {
        Ok(ImageFormat::Jpeg) => jpeg(file, limits)?,
        Ok(ImageFormat::Png) => png_or_webp(file, ImageFormat::Png, "PNG", limits)?,
        Ok(ImageFormat::WebP) => png_or_webp(file, ImageFormat::WebP, "WebP", limits)?,
        _ => {
            let start = &file[..file.len().min(8)];
            let problem = format!(
                "neither JPEG, PNG nor WebP: {} bytes that begin with {start:02x?}",
                file.len()
            );
            return Err(Reject::Decode { format: "compressed picture", problem });
        }
    };
    let colour = data.len() as u64 > u64::from(width) * u64::from(height);
    let size = (height as usize, width as usize);
    Ok(Image::packed(header, size, if colour { "rgb8" } else { "mono8" }, data))
}

/// Width, height and pixels of a JPEG.
fn jpeg(file: &[u8], limits: &Limits) -> Result<(u32, u32, Vec<u8>), Reject> {
    let refuse = |problem: String| Reject::Decode {
        format: "JPEG",
        problem: problem.replace('"', "").trim().into(), // some come quoted, some with a line end
    };
    // Strict: corrupt data is an error, where other decoders fill the rest of the picture with grey.
    let options = DecoderOptions::default()
        .set_strict_mode(true)
        .set_max_width(usize::MAX)
        .set_max_height(usize::MAX)
        .jpeg_set_max_scans(MAX_SCANS);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(file), options);
    decoder.decode_headers().map_err(|error| refuse(error.to_string()))?;
    let info = decoder.info().ok_or_else(|| refuse("no header".into()))?;
    let (channels, space) = match info.components {
        1 => (1, ColorSpace::Luma),
        3 => (3, ColorSpace::RGB),
        n => return Err(Reject::Encoding { found: format!("JPEG of {n} components") }),
    };
    let (width, height) = (u32::from(info.width), u32::from(info.height));
    limits.check(width, height, u64::from(width) * u64::from(height) * channels)?;
    if !is_whole_jpeg(file) {
        return Err(refuse(format!("{} bytes without an end-of-image marker", file.len())));
    }
    decoder.set_options(options.jpeg_set_out_colorspace(space));
    let data = decoder.decode().map_err(|error| refuse(error.to_string()))?;
    Ok((width, height, data))
}

/// Whether the markers of a JPEG lead to its end-of-image marker.
///
/// The decoder stops once it has its pixels and would not miss the last bytes.
fn is_whole_jpeg(file: &[u8]) -> bool {
    let mut rest = file.get(2..).unwrap_or_default(); // after start of image
    // The next marker; entropy-coded data, with stuffed zeros and restarts, and fill bytes before it.
    while let Some(at) = rest
        .windows(2)
        .position(|pair| pair[0] == 0xFF && !matches!(pair[1], 0 | 0xD0..=0xD7 | 0xFF))
    {
        if rest[at + 1] == 0xD9 {
            return true;
        }
        let segment = &rest[at + 2..];
        let length = segment.first_chunk().map_or(usize::MAX, |&b| u16::from_be_bytes(b).into());
        rest = segment.get(length..).unwrap_or_default();
    }
    false
}

/// Width, height and pixels of a file in one of the other formats.
fn png_or_webp(
    file: &[u8],
    format: ImageFormat,
    name: &'static str,
    limits: &Limits,
) -> Result<(u32, u32, Vec<u8>), Reject> {
    let refuse = |error: ::image::ImageError| {
        let problem = format!("{error} ({} bytes read)", file.len());
        Reject::Decode { format: name, problem }
    };
    let mut reader = ImageReader::with_format(Cursor::new(file), format);
    let mut caps = ::image::Limits::default();
    caps.max_alloc = Some(limits.max_bytes); // also of compressed colour profiles and comments
    reader.limits(caps);
    let decoder = reader.into_decoder().map_err(refuse)?;
    let ((width, height), colour) = (decoder.dimensions(), decoder.color_type());
    limits.check(width, height, decoder.total_bytes())?;
    let channels = match colour {
        ColorType::L8 | ColorType::La8 => 1,
        ColorType::Rgb8 | ColorType::Rgba8 => 3,
        _ => return Err(Reject::Encoding { found: format!("{name} of {colour:?}") }),
    };
    let mut data = vec![0; usize::try_from(decoder.total_bytes()).unwrap_or(usize::MAX)];
    decoder.read_image(&mut data).map_err(refuse)?;
    if colour.has_alpha() {
        data = data.chunks_exact(channels + 1).flat_map(|px| &px[..channels]).copied().collect();
    }
    Ok((width, height, data))
}

/// `data` as a PNG: grey if it holds one byte per pixel, RGB if three. Speed before size.
///
/// # Errors
/// [`Error::Frame`]: no pixels, or another number of bytes.
pub fn encode_png(height: usize, width: usize, data: &[u8]) -> Result<Vec<u8>> {
    let colour = if data.len() == height.saturating_mul(width) {
        ExtendedColorType::L8
    } else {
        ExtendedColorType::Rgb8
    };
    let mut png = Vec::new();
    let encoder =
        PngEncoder::new_with_quality(&mut png, CompressionType::Fast, FilterType::Adaptive);
    encode(encoder, "PNG", (height, width), data, colour)?;
    Ok(png)
}

/// Writes `data` as [`encode_png`] does; the file appears whole or not at all.
///
/// # Errors
/// As [`encode_png`], and [`Error::Io`].
pub fn write_png(path: &Path, height: usize, width: usize, data: &[u8]) -> Result<()> {
    let png = encode_png(height, width, data)?;
    file::write(path, |out| out.write_all(&png))
}

/// `rgb`, three bytes per pixel, as a JPEG of `quality` 1 to 100.
///
/// # Errors
/// [`Error::Frame`]: no pixels, another number of bytes, or above 65535 rows or columns.
pub fn encode_jpeg(height: usize, width: usize, rgb: &[u8], quality: u8) -> Result<Vec<u8>> {
    let mut jpeg = Vec::new();
    let encoder = JpegEncoder::new_with_quality(&mut jpeg, quality);
    encode(encoder, "JPEG", (height, width), rgb, ExtendedColorType::Rgb8)?;
    Ok(jpeg)
}

fn encode(
    encoder: impl ImageEncoder,
    format: &'static str,
    (height, width): (usize, usize),
    data: &[u8],
    colour: ExtendedColorType,
) -> Result<()> {
    let (w, h) =
        (u32::try_from(width).unwrap_or(u32::MAX), u32::try_from(height).unwrap_or(u32::MAX));
    if w == 0 || h == 0 {
        return Err(Reject::SizeZero { width: w, height: h }.into());
    }
    let needed = u64::from(w) * u64::from(h) * u64::from(colour.channel_count());
    if data.len() as u64 != needed {
        return Err(Reject::LayoutShort { found: data.len() as u64, needed }.into());
    }
    let refuse = |error: ::image::ImageError| Reject::Encode { format, problem: error.to_string() };
    encoder.write_image(data, w, h, colour).map_err(refuse)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PICTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/pictures/");

    /// The 16 x 24 picture that the files in `tests/data/pictures` show.
    fn gradient() -> Vec<u8> {
        let pixel = |y: u8, x: u8| [8 * x, 12 * y, 255 - 4 * (x + y)];
        (0..16).flat_map(|y| (0..24).flat_map(move |x| pixel(y, x))).collect()
    }

    fn decoded(file: &[u8], limits: &Limits) -> Result<Image, Reject> {
        let data = file.to_vec();
        Image::from_compressed(&CompressedImage { data, ..CompressedImage::default() }, limits)
    }

    fn reason(file: &[u8]) -> &'static str {
        decoded(file, &Limits::default()).unwrap_err().name()
    }

    fn worst(image: &Image, expected: &[u8]) -> u8 {
        assert_eq!((image.height, image.width, image.step), (16, 24, 72));
        assert_eq!(image.validate(&Limits::default()), Ok(crate::image::Encoding::Rgb8));
        image.data.iter().zip(expected).map(|(&a, &b)| a.abs_diff(b)).max().unwrap()
    }

    #[test]
    fn files_decode_to_the_picture_they_show() {
        // 4:2:0 halves the chroma of a gradient of 8 to 12 levels a pixel.
        for (name, tolerance) in
            [("progressive.jpg", 4), ("restart.jpg", 16), ("lossless.webp", 0), ("alpha.png", 0)]
        {
            let path = Path::new(PICTURES).join(name);
            let image = Image::read_file(&path, &Limits::default()).unwrap();
            assert!(worst(&image, &gradient()) <= tolerance, "{name}");
        }
    }

    #[test]
    fn own_files_come_back_and_the_header_with_them() {
        let png = encode_png(16, 24, &gradient()).unwrap();
        let mut message = CompressedImage { data: png, ..CompressedImage::default() };
        message.header.frame_id = "front_optical".into();
        message.format = "jpeg".into(); // the first bytes decide
        let image = Image::from_compressed(&message, &Limits::default()).unwrap();
        assert_eq!((&image.header, worst(&image, &gradient())), (&message.header, 0));
        let jpeg = encode_jpeg(16, 24, &gradient(), 95).unwrap();
        assert!(worst(&decoded(&jpeg, &Limits::default()).unwrap(), &gradient()) <= 16);
        let mask: Vec<u8> = (0..48).map(|i| 255 * u8::from(i % 5 == 0)).collect();
        let image = decoded(&encode_png(6, 8, &mask).unwrap(), &Limits::default()).unwrap();
        assert_eq!((image.encoding.as_str(), image.step, image.data), ("mono8", 8, mask.into()));
    }

    #[test]
    fn a_cut_file_is_refused_at_every_cut() {
        let png = encode_png(16, 24, &gradient()).unwrap();
        let mut files = vec![encode_jpeg(16, 24, &gradient(), 95).unwrap()];
        for name in ["progressive.jpg", "restart.jpg", "lossless.webp"] {
            files.push(std::fs::read(Path::new(PICTURES).join(name)).unwrap());
        }
        for file in files {
            for cut in 0..file.len() {
                assert_eq!(reason(&file[..cut]), "decode", "{cut} of {} bytes", file.len());
            }
        }
        for cut in 0..png.len() {
            // The end chunk carries no pixels.
            if let Ok(image) = decoded(&png[..cut], &Limits::default()) {
                assert_eq!(worst(&image, &gradient()), 0, "{cut} of {} bytes", png.len());
            }
        }
    }

    #[test]
    fn a_bomb_is_refused_by_its_header() {
        let mut jpeg = encode_jpeg(16, 24, &gradient(), 95).unwrap();
        let size = jpeg.windows(2).position(|pair| pair == [0xFF, 0xC0]).unwrap() + 5;
        jpeg[size..size + 4].copy_from_slice(&[0xFF, 0xDC, 0xFF, 0xDC]); // 65500 x 65500
        assert_eq!(reason(&jpeg), "size_limit");
        let small = Limits { max_bytes: 16 * 72 - 1, ..Limits::default() };
        for name in ["progressive.jpg", "lossless.webp", "alpha.png"] {
            let file = std::fs::read(Path::new(PICTURES).join(name)).unwrap();
            assert_eq!(decoded(&file, &small).unwrap_err().name(), "size_limit", "{name}");
        }
    }

    #[test]
    fn other_samples_formats_and_bytes_are_refused_by_name() {
        for (name, reject, part) in
            [("cmyk.jpg", "encoding", "4 components"), ("rgb16.png", "encoding", "Rgb16")]
        {
            let file = std::fs::read(Path::new(PICTURES).join(name)).unwrap();
            let error = decoded(&file, &Limits::default()).unwrap_err();
            assert!(error.name() == reject && error.to_string().contains(part), "{error}");
        }
        assert_eq!([reason(b""), reason(b"GIF89a.."), reason(&[0; 99])], ["decode"; 3]);
        let error = Image::read_file(Path::new("no/such.jpg"), &Limits::default()).unwrap_err();
        assert!(error.chain().contains("no/such.jpg"), "{error}");
    }

    #[test]
    fn a_plane_of_the_wrong_length_is_not_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        let error = write_png(&path, 4, 5, &[0; 59]).unwrap_err().to_string();
        assert!(error.contains("59") && error.contains("60") && !path.exists(), "{error}");
        assert!(encode_png(0, 5, &[]).is_err());
    }
}
