//! From the CDR of an image to its fields, without a copy of the pixels.

use bytes::Bytes;
use ros2_client::dds::rustdds;
use serde::de;

use crate::image::Image;

/// Decodes `sensor_msgs/Image`, whose pixels stay in the message that DDS received.
#[derive(Clone)]
pub(crate) struct ImageSeed {
    pub(crate) max_bytes: usize,
}

impl<'de> de::DeserializeSeed<'de> for ImageSeed {
    type Value = Image;

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Image, D::Error> {
        deserializer.deserialize_tuple(7, self)
    }
}

impl<'de> de::Visitor<'de> for ImageSeed {
    type Value = Image;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("sensor_msgs/Image")
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut fields: A) -> Result<Image, A::Error> {
        fn next<'de, T: de::Deserialize<'de>, A: de::SeqAccess<'de>>(
            fields: &mut A,
        ) -> Result<T, A::Error> {
            fields.next_element()?.ok_or_else(|| de::Error::custom("the message ends early"))
        }
        Ok(Image {
            header: next(&mut fields)?,
            height: next(&mut fields)?,
            width: next(&mut fields)?,
            encoding: next(&mut fields)?,
            is_bigendian: next(&mut fields)?,
            step: next(&mut fields)?,
            data: fields
                .next_element_seed(Pixels { max_bytes: self.max_bytes })?
                .ok_or_else(|| de::Error::custom("no pixels"))?,
        })
    }
}

/// Shares a byte sequence, at most `max_bytes` of it: an image that needs more is refused by its size.
struct Pixels {
    max_bytes: usize,
}

impl<'de> de::DeserializeSeed<'de> for Pixels {
    type Value = Bytes;

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Bytes, D::Error> {
        deserializer.deserialize_bytes(self)
    }
}

impl de::Visitor<'_> for Pixels {
    type Value = Bytes;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a byte sequence")
    }

    fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Bytes, E> {
        Ok(rustdds::share(&bytes[..bytes.len().min(self.max_bytes)]))
    }
}

#[cfg(test)]
mod tests {
    use std::marker::PhantomData;

    use ros2_client::dds::rustdds::RepresentationIdentifier;
    use ros2_client::dds::rustdds::no_key::Decode;
    use ros2_client::dds::rustdds::serialization::CdrDeserializeSeedDecoder;

    use super::*;

    fn seeded(bytes: &[u8], max_bytes: usize) -> Option<Image> {
        let seed = ImageSeed { max_bytes };
        let decoder = CdrDeserializeSeedDecoder::new(seed, PhantomData::<()>);
        let body = &bytes[4..]; // after the encapsulation header
        decoder.decode_bytes(body, RepresentationIdentifier::CDR_LE).ok()
    }

    #[test]
    fn the_seed_reads_what_the_derived_code_writes() {
        let image = Image {
            header: crate::msg::Header { frame_id: "front".into(), ..Default::default() },
            height: 2,
            width: 3,
            encoding: "mono8".into(),
            step: 4,
            data: (1..=8).collect(),
            ..Default::default()
        };
        let bytes = cdr::serialize::<_, _, cdr::CdrLe>(&image, cdr::Infinite).unwrap();
        assert_eq!(seeded(&bytes, 64), Some(image));
        assert_eq!(seeded(&bytes, 5).unwrap().data, [1u8, 2, 3, 4, 5][..]);
        for cut in 4..bytes.len() {
            assert_eq!(seeded(&bytes[..cut], 64), None, "cut at {cut}");
        }
    }
}
