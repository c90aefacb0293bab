//! Messages of a camera that were lost on the way.

use ros2_client::Gid;

/// Notices what is missing in the numbers that DDS gives to the messages of a publisher.
#[derive(Debug, Default)]
pub(super) struct Gaps(Option<(Gid, i64)>);

impl Gaps {
    /// Messages missing between the last one and this; none at the first of a publisher, and none when
    /// an old one comes again.
    pub(super) fn after(&mut self, publisher: Gid, number: i64) -> u64 {
        let last = self.0.replace((publisher, number));
        let missing = match last {
            Some((same, last)) if same == publisher => {
                number.saturating_sub(last).saturating_sub(1)
            }
            _ => 0,
        };
        u64::try_from(missing).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_is_counted_within_the_messages_of_one_publisher() {
        let (front, rear) = (Gid::from([1; 16]), Gid::from([2; 16]));
        let mut gaps = Gaps::default();
        let numbers = [(front, 7), (front, 8), (front, 11), (front, 11), (rear, 90), (front, 20)];
        let missing = numbers.map(|(publisher, number)| gaps.after(publisher, number));
        assert_eq!(missing, [0, 0, 2, 0, 0, 0]);
    }
}
