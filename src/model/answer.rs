//! What a network says at sampled pixels of known pictures: to be kept, and compared with later.

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// What the network says at one pixel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// Train id.
    pub class: u8,
    /// One number of all inlier logits, and one of the UEM where there is one.
    pub values: [f32; 2],
}

/// Samples in a fixed order. In a file they are hexadecimal digits: class and the bits of the values.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Answer(pub Vec<Sample>);

/// How far two answers may be apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    /// Share of the samples whose class may differ: there two classes are equally likely.
    pub classes: f32,
    /// Difference of two values, as a share of `1 + |value|`.
    pub values: f32,
}

impl Answer {
    /// What is wrong with `self` where `expected` is right; `None` within the tolerance.
    pub fn deviation(&self, expected: &Self, tolerance: Tolerance) -> Option<String> {
        let (found, wanted) = (self.0.len(), expected.0.len());
        if found != wanted {
            return Some(format!("{found} samples instead of {wanted}"));
        }
        let pairs = || self.0.iter().zip(&expected.0);
        let others = pairs().filter(|(a, b)| a.class != b.class).count();
        if others as f32 > tolerance.classes * wanted as f32 {
            return Some(format!("another class in {others} of {wanted} samples"));
        }
        let values = pairs().flat_map(|(a, b)| a.values.into_iter().zip(b.values));
        let mut errors = values.map(|(a, b)| ((a - b).abs() / (1.0 + b.abs()), a, b));
        let far = errors.find(|(error, ..)| !error.is_finite() || *error > tolerance.values);
        far.map(|(_, a, b)| format!("{a} instead of {b} in one of {wanted} samples"))
    }
}

impl From<Answer> for String {
    fn from(answer: Answer) -> Self {
        let digits = answer.0.iter().map(|Sample { class, values: [a, b] }| {
            format!("{class:02x}{:08x}{:08x}", a.to_bits(), b.to_bits())
        });
        digits.collect()
    }
}

impl TryFrom<String> for Answer {
    type Error = Error;

    fn try_from(digits: String) -> Result<Self> {
        let sample = |sample: &[u8]| {
            let class = u8::try_from(hexadecimal(&sample[..2])?).ok()?;
            let value = |at| Some(f32::from_bits(hexadecimal(&sample[at..at + 8])?));
            Some(Sample { class, values: [value(2)?, value(10)?] })
        };
        let samples = digits.as_bytes().chunks(18);
        let samples: Option<Vec<_>> =
            samples.map(|text| (text.len() == 18).then(|| sample(text))?).collect();
        let allowed = "18 hexadecimal digits a sample; `ood_seg check --write` makes it";
        samples.map(Self).ok_or_else(|| Error::setting("answer", &digits, allowed))
    }
}

/// The number that these digits are, at most eight of them, without a sign.
pub(super) fn hexadecimal(digits: &[u8]) -> Option<u32> {
    let digit = |&digit: &u8| char::from(digit).to_digit(16);
    digits.iter().map(digit).try_fold(0, |number, digit| Some(number << 4 | digit?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(classes: &[u8], values: &[f32]) -> Answer {
        let samples = classes.iter().zip(values);
        Answer(samples.map(|(&class, &a)| Sample { class, values: [a, -a] }).collect())
    }

    #[test]
    fn an_answer_survives_its_file_to_the_last_bit_and_other_text_is_refused() {
        let ours = answer(&[0, 18, 255], &[1.5, f32::MIN_POSITIVE, -3e30]);
        let text = String::from(ours.clone());
        assert_eq!(Answer::try_from(text.clone()).unwrap(), ours);
        assert!(Answer::try_from(text[1..].to_owned()).is_err());
        assert!(Answer::try_from(text.replace('1', "x")).is_err());
        assert!(Answer::try_from(format!("+{}", &text[1..])).is_err());
        assert!(Answer::try_from("é".repeat(9)).is_err());
    }

    #[test]
    fn classes_and_values_deviate_beyond_their_own_tolerance_only() {
        let tolerance = Tolerance { classes: 0.5, values: 0.1 };
        let ours = answer(&[1, 2], &[0.0, 9.0]);
        let deviation = |other: Answer| other.deviation(&ours, tolerance);
        assert_eq!(deviation(answer(&[1, 3], &[0.09, 9.9])), None);
        assert!(deviation(answer(&[0, 3], &[0.0, 9.0])).unwrap().contains("2 of 2"));
        assert!(deviation(answer(&[1, 2], &[0.0, 10.1])).unwrap().contains("10.1 instead of 9"));
        assert!(deviation(answer(&[1, 2], &[f32::NAN, 9.0])).is_some());
        assert!(deviation(answer(&[1], &[0.0])).is_some());
    }
}
