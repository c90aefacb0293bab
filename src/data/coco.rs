//! COCO as a pool of outliers: the masks that stage 2 pastes from, and the pairs of picture and mask.
//!
//! The mask rule is that of meta-ood's preparation script (robin-chan/meta-ood at 8657a5e): pictures
//! that show anything of the inlier world are left out whole, of the others every instance counts.

use std::collections::{BTreeMap, BTreeSet};
use std::io::BufReader;
use std::path::Path;

use serde::Deserialize;

use super::OOD;
use super::pair::{Pair, entries, name};
use crate::{Error, Result, image};

/// Pictures with one of these are left out; `train`, a class of Cityscapes, is not among them.
pub const EXCLUDED: [&str; 8] =
    ["person", "bicycle", "car", "motorcycle", "bus", "truck", "traffic light", "stop sign"];
/// Smallest height and width of a picture that is kept, px.
pub const MIN_SIDE: usize = 480;
/// Folder of the masks under the root.
pub const MASKS: &str = "annotations/ood_seg_train2017";

/// `instances_train2017.json`, as far as it is needed.
#[derive(Deserialize)]
struct Instances {
    images: Vec<Picture>,
    annotations: Vec<Annotation>,
    categories: Vec<Category>,
}

#[derive(Deserialize)]
struct Picture {
    id: u64,
    height: usize,
    width: usize,
}

#[derive(Deserialize)]
struct Annotation {
    image_id: u64,
    category_id: u64,
    segmentation: Segmentation,
}

#[derive(Deserialize)]
struct Category {
    id: u64,
    name: String,
}

/// How an instance is outlined: polygons `x, y, x, y, ..`, or run lengths down the columns.
#[derive(Deserialize)]
#[serde(untagged)]
enum Segmentation {
    Polygons(Vec<Vec<f32>>),
    Runs { counts: Counts },
}

/// Run lengths, plain or in COCO's text form.
#[derive(Deserialize)]
#[serde(untagged)]
enum Counts {
    Plain(Vec<usize>),
    Text(String),
}

/// What a preparation did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Prepared {
    /// Masks written.
    pub written: usize,
    /// Pictures left out for what they show.
    pub excluded: usize,
    /// Pictures left out for their size.
    pub small: usize,
    /// Pictures without any instance.
    pub empty: usize,
}

/// Writes the masks of `root/annotations/instances_train2017.json` to `root/`[`MASKS`]: 8-bit PNGs
/// named by the 12-digit picture id, [`OOD`] on every instance, 0 elsewhere.
///
/// `each` is called after every picture with the number of pictures done and of all.
///
/// # Errors
/// A file that is missing, not COCO's, or contradicts itself; a mask that cannot be written.
pub fn prepare(root: &Path, mut each: impl FnMut(usize, usize)) -> Result<Prepared> {
    let path = root.join("annotations/instances_train2017.json");
    let file = std::fs::File::open(&path).map_err(Error::io(&path))?;
    let instances: Instances = serde_json::from_reader(BufReader::with_capacity(1 << 20, file))
        .map_err(|error| Error::bad_file(&path, format!("not COCO's instances: {error}")))?;
    let excluded: BTreeSet<u64> = instances
        .categories
        .iter()
        .filter(|category| EXCLUDED.contains(&category.name.as_str()))
        .map(|category| category.id)
        .collect();
    if excluded.len() != EXCLUDED.len() {
        let problem = format!("has {} of the categories {EXCLUDED:?}", excluded.len());
        return Err(Error::bad_file(&path, problem));
    }
    let mut shown: BTreeMap<u64, Vec<Annotation>> = BTreeMap::new();
    for annotation in instances.annotations {
        shown.entry(annotation.image_id).or_default().push(annotation);
    }
    let (mut done, count) = (Prepared::default(), instances.images.len());
    for (i, picture) in instances.images.iter().enumerate() {
        match shown.remove(&picture.id) {
            None => done.empty += 1,
            Some(shown) if shown.iter().any(|one| excluded.contains(&one.category_id)) => {
                done.excluded += 1;
            }
            Some(_) if picture.height < MIN_SIDE || picture.width < MIN_SIDE => done.small += 1,
            Some(shown) => {
                write_mask(root, picture, &shown).map_err(|problem| match problem {
                    Problem::Runs(text) => Error::bad_file(&path, text),
                    Problem::File(error) => error,
                })?;
                done.written += 1;
            }
        }
        each(i + 1, count);
    }
    Ok(done)
}

/// Why a mask could not be made.
enum Problem {
    Runs(String),
    File(Error),
}

fn write_mask(
    root: &Path,
    picture: &Picture,
    shown: &[Annotation],
) -> std::result::Result<(), Problem> {
    let (h, w) = (picture.height, picture.width);
    let mut mask = vec![0; h * w];
    for annotation in shown {
        match &annotation.segmentation {
            Segmentation::Polygons(polygons) => {
                polygons.iter().for_each(|polygon| fill_polygon(&mut mask, [h, w], polygon));
            }
            Segmentation::Runs { counts } => {
                let runs = match counts {
                    Counts::Plain(runs) => Some(runs.clone()),
                    Counts::Text(text) => decode_runs(text),
                };
                let filled = runs.and_then(|runs| fill_runs(&mut mask, [h, w], &runs));
                let wrong =
                    format!("picture {}: run lengths that do not add up to {h}x{w} px", picture.id);
                filled.ok_or(Problem::Runs(wrong))?;
            }
        }
    }
    let path = root.join(MASKS).join(format!("{:012}.png", picture.id));
    image::write_png(&path, h, w, &mask).map_err(Problem::File)
}

/// Marks the pixels whose centre is inside a polygon, by the even-odd rule down each column.
fn fill_polygon(mask: &mut [u8], [h, w]: [usize; 2], polygon: &[f32]) {
    let points: Vec<(f32, f32)> = polygon.chunks_exact(2).map(|xy| (xy[0], xy[1])).collect();
    let next = points.iter().cycle().skip(1);
    let edges: Vec<_> = points.iter().zip(next).collect();
    for x in 0..w {
        let centre = x as f32 + 0.5;
        let mut crossings: Vec<f32> = edges
            .iter()
            .filter(|((x0, _), (x1, _))| (*x0 <= centre) != (*x1 <= centre))
            .map(|((x0, y0), (x1, y1))| y0 + (centre - x0) / (x1 - x0) * (y1 - y0))
            .collect();
        crossings.sort_by(f32::total_cmp);
        for pair in crossings.chunks_exact(2) {
            // Rows whose centre y + 0.5 lies between the two crossings.
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped")]
            let row = |y: f32| (y - 0.5).ceil().clamp(0.0, h as f32) as usize;
            for y in row(pair[0])..row(pair[1]) {
                mask[y * w + x] = OOD;
            }
        }
    }
}

/// Marks every second run down the columns; `None` where the runs are not exactly the picture.
fn fill_runs(mask: &mut [u8], [h, w]: [usize; 2], runs: &[usize]) -> Option<()> {
    let mut at = 0usize;
    for (i, &run) in runs.iter().enumerate() {
        let end = at.checked_add(run).filter(|&end| end <= h * w)?;
        if i % 2 == 1 {
            (at..end).for_each(|i| mask[i % h * w + i / h] = OOD);
        }
        at = end;
    }
    (at == h * w).then_some(())
}

/// Run lengths of COCO's text form: groups of five bits from the lowest, least character 48, bit 32
/// for "more follows", sign in the last; from the fourth on a difference to the last but one.
fn decode_runs(text: &str) -> Option<Vec<usize>> {
    let mut runs: Vec<i64> = Vec::new();
    let mut bytes = text.bytes();
    while bytes.len() > 0 {
        let (mut value, mut shift) = (0i64, 0u32);
        loop {
            let bits = i64::from(bytes.next()?.checked_sub(48).filter(|bits| *bits < 64)?);
            value |= (bits & 31).checked_shl(shift).filter(|_| shift < 55)?;
            shift += 5;
            if bits & 32 == 0 {
                if bits & 16 != 0 {
                    value |= -1 << shift;
                }
                break;
            }
        }
        if runs.len() > 2 {
            value = value.checked_add(runs[runs.len() - 2])?;
        }
        runs.push(value);
    }
    runs.into_iter().map(|run| usize::try_from(run).ok()).collect()
}

/// Every prepared mask under `root` with its picture `train2017/<12 digits>.jpg`, by id.
///
/// # Errors
/// No mask, or a mask whose picture is missing.
pub fn pairs(root: &Path) -> Result<Vec<Pair>> {
    let folder = root.join(MASKS);
    let mut pairs = Vec::new();
    for labels in entries(&folder)? {
        let Some(id) = name(&labels).strip_suffix(".png").map(str::to_string) else { continue };
        let image = root.join("train2017").join(format!("{id}.jpg"));
        if !image.is_file() {
            let problem = format!("missing, its mask {} is there", labels.display());
            return Err(Error::bad_file(image, problem));
        }
        pairs.push(Pair { image, labels });
    }
    if pairs.is_empty() {
        return Err(Error::bad_file(folder, "no masks; `ood_seg prepare-coco` makes them"));
    }
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(mask: &[u8], w: usize) -> Vec<String> {
        let row = |row: &[u8]| row.iter().map(|&v| if v == OOD { '#' } else { '.' }).collect();
        mask.chunks_exact(w).map(row).collect()
    }

    #[test]
    fn polygons_and_both_kinds_of_runs_mark_the_pixels_they_enclose() {
        let mut mask = vec![0; 4 * 6];
        // A triangle over the corners (1, 0), (5, 0), (1, 4): its hypotenuse passes through centres.
        fill_polygon(&mut mask, [4, 6], &[1.0, 0.0, 5.0, 0.0, 1.0, 4.2]);
        assert_eq!(picture(&mask, 6), [".####.", ".###..", ".##...", ".#...."]);
        let mut mask = vec![0; 4 * 6];
        fill_runs(&mut mask, [4, 6], &[5, 2, 4, 3, 10]).unwrap();
        assert_eq!(picture(&mask, 6), ["...#..", ".#.#..", ".#....", "..#..."]);
        assert!(fill_runs(&mut mask, [4, 6], &[5, 2]).is_none());
        // pycocotools writes these runs as these texts.
        assert_eq!(decode_runs("52416").unwrap(), [5, 2, 4, 3, 10]);
        assert_eq!(decode_runs("Xl42X1Z9oN").unwrap(), [5000, 2, 40, 300, 7]);
        assert!(decode_runs("5P").is_none());
    }

    /// A root with instances of one picture per `(id, height, width, shown category)`.
    fn root(pictures: &[(u64, usize, usize, Option<&str>)]) -> tempfile::TempDir {
        let names: Vec<_> = EXCLUDED.iter().chain(&["dog"]).collect();
        let category = |name| names.iter().position(|known| **known == name).unwrap() + 1;
        let segmentation = serde_json::json!([[10.0, 20.0, 30.0, 20.0, 30.0, 25.0, 10.0, 25.0]]);
        let shown = pictures.iter().filter_map(|(id, .., name)| Some((id, (*name)?)));
        let json = serde_json::json!({
            "info": { "year": 2017 },
            "images": pictures.iter().map(|(id, height, width, _)| serde_json::json!({
                "id": id, "height": height, "width": width, "file_name": "x.jpg",
            })).collect::<Vec<_>>(),
            "annotations": shown.map(|(id, name)| serde_json::json!({
                "image_id": id, "category_id": category(name), "iscrowd": 0,
                "segmentation": segmentation,
            })).collect::<Vec<_>>(),
            "categories": names.iter().map(|name| serde_json::json!({
                "id": category(name), "name": name,
            })).collect::<Vec<_>>(),
        });
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("annotations/instances_train2017.json");
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, json.to_string()).unwrap();
        folder
    }

    #[test]
    fn street_classes_and_small_pictures_are_left_out_and_the_rest_written() {
        let folder = root(&[
            (7, 480, 500, Some("dog")),
            (8, 480, 500, Some("car")),
            (9, 479, 500, Some("dog")),
            (10, 480, 500, None),
        ]);
        let mut seen = Vec::new();
        let done = prepare(folder.path(), |i, n| seen.push((i, n))).unwrap();
        assert_eq!(done, Prepared { written: 1, excluded: 1, small: 1, empty: 1 });
        assert_eq!(seen.last(), Some(&(4, 4)));
        let missing = pairs(folder.path()).unwrap_err().chain();
        assert!(missing.contains("000000000007.jpg"), "{missing}");
        std::fs::create_dir(folder.path().join("train2017")).unwrap();
        let picture = folder.path().join("train2017/000000000007.jpg");
        image::write_png(&picture, 480, 500, &vec![9; 480 * 500 * 3]).unwrap();
        let sample = pairs(folder.path()).unwrap()[0].read().unwrap();
        let marked = |y: usize, x: usize| sample.labels[y * 500 + x] == OOD;
        assert_eq!(sample.labels.iter().filter(|&&label| label == OOD).count(), 20 * 5);
        assert!(marked(20, 10) && marked(24, 29) && !marked(25, 10) && !marked(20, 30));
    }
}
