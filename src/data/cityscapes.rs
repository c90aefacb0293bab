//! Cityscapes: `leftImg8bit/<split>/<city>/*_leftImg8bit.png` and, made with cityscapesScripts,
//! `gtFine/<split>/<city>/*_gtFine_labelTrainIds.png`.

use std::path::Path;

use super::pair::{Pair, entries, name};
use crate::{Error, Result};

const PICTURE: &str = "_leftImg8bit.png";
const LABELS: &str = "_gtFine_labelTrainIds.png";

/// Every picture of a split (`train`, `val`) with its labels, by city and name.
///
/// # Errors
/// A missing folder, a picture without labels, labels without a picture, or an empty split.
pub fn pairs(root: &Path, split: &str) -> Result<Vec<Pair>> {
    let pictures = root.join("leftImg8bit").join(split);
    let labels = root.join("gtFine").join(split);
    let mut pairs = Vec::new();
    for city in entries(&pictures)?.into_iter().filter(|path| path.is_dir()) {
        let stems = stems(&city, PICTURE)?;
        let labelled = labels.join(name(&city));
        let with_labels = self::stems(&labelled, LABELS)?;
        for (here, there, folder, ending) in
            [(&stems, &with_labels, &labelled, LABELS), (&with_labels, &stems, &city, PICTURE)]
        {
            if let Some(stem) = here.iter().find(|stem| there.binary_search(stem).is_err()) {
                let missing = folder.join(format!("{stem}{ending}"));
                let problem =
                    "missing, its other half is there; complete the data set or remove the half";
                return Err(Error::bad_file(missing, problem));
            }
        }
        pairs.extend(stems.iter().map(|stem| Pair {
            image: city.join(format!("{stem}{PICTURE}")),
            labels: labelled.join(format!("{stem}{LABELS}")),
        }));
    }
    if pairs.is_empty() {
        let problem = format!("no <city>/*{PICTURE} below it");
        return Err(Error::bad_file(pictures, problem));
    }
    Ok(pairs)
}

/// Names of the files in `folder` that end so, without the ending, sorted.
fn stems(folder: &Path, ending: &str) -> Result<Vec<String>> {
    let names = entries(folder)?.into_iter().map(|path| name(&path));
    Ok(names.filter_map(|name| name.strip_suffix(ending).map(str::to_string)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touch(root: &Path, file: &str) {
        let path = root.join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, b"").unwrap();
    }

    #[test]
    fn pairs_come_by_city_and_name_and_a_missing_half_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        for stem in ["ulm/ulm_1", "bonn/bonn_2", "bonn/bonn_10"] {
            touch(root, &format!("leftImg8bit/train/{stem}{PICTURE}"));
            touch(root, &format!("gtFine/train/{stem}{LABELS}"));
            touch(root, &format!("gtFine/train/{stem}_gtFine_color.png"));
        }
        let found = pairs(root, "train").unwrap();
        let names: Vec<_> = found.iter().map(|pair| name(&pair.labels)).collect();
        let expected = ["bonn_10", "bonn_2", "ulm_1"].map(|stem| format!("{stem}{LABELS}"));
        assert_eq!(names, expected);
        touch(root, "leftImg8bit/train/ulm/ulm_3_leftImg8bit.png");
        let error = pairs(root, "train").unwrap_err().chain();
        assert!(error.contains("ulm_3_gtFine_labelTrainIds.png"), "{error}");
        assert!(pairs(root, "val").unwrap_err().chain().contains("leftImg8bit/val"));
    }
}
