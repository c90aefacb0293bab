//! Topic statistics of each camera's images, as rclcpp publishes those of its subscriptions: every second
//! the age of the messages and the time between two of them.
//!
//! Age is that of the header's stamp, when the sensor saw the picture; newer versions of rclcpp count from
//! when the publisher wrote the message.

use std::time::{Duration, Instant};

use ros2_client::Publisher;

use super::args::Names;
use super::context::Participant;
use super::ingest::node_of;
use super::monitor::warn;
use crate::Result;
use crate::config::NodeConfig;
use crate::msg::{METRICS_MESSAGE, MetricsMessage, Stamp, StatisticDataPoint};

/// What came of one camera in about a second; the last message of a window is the first of the next.
#[derive(Clone, Debug)]
pub(crate) struct Window {
    start: Stamp,
    stop: Stamp,
    due: Instant,
    age: Moments,
    period: Moments,
    last: Option<Instant>,
}

/// How long a window is.
const WINDOW: Duration = Duration::from_secs(1);

impl Window {
    /// One that begins now.
    pub(crate) fn open() -> Self {
        let (start, due) = (Stamp::now(), Instant::now() + WINDOW);
        let (age, period) = (Moments::default(), Moments::default());
        Self { start, stop: start, due, age, period, last: None }
    }

    /// Counts a message that came at this time, on both clocks; one without a stamp has no age.
    pub(crate) fn message(&mut self, stamp: Stamp, (now, clock): (Instant, Stamp)) {
        if stamp != Stamp::default() {
            self.age.sample(milliseconds(clock.nanos() - stamp.nanos()));
        }
        if let Some(last) = self.last.replace(now) {
            self.period.sample(now.duration_since(last).as_secs_f64() * 1e3);
        }
    }

    /// The window, if it is over; another one begins.
    pub(crate) fn next(&mut self, now: Instant) -> Option<Self> {
        if now < self.due {
            return None;
        }
        let stop = Stamp::now();
        let due = (self.due + WINDOW).max(now); // of many that were missed one is enough
        let (age, period) = (Moments::default(), Moments::default());
        let new = Self { start: stop, stop, due, age, period, last: self.last };
        Some(Self { stop, ..std::mem::replace(self, new) })
    }
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds need no more digits")]
fn milliseconds(nanos: i64) -> f64 {
    nanos as f64 / 1e6
}

/// Five figures of numbers, by Welford's recurrence.
#[derive(Clone, Copy, Debug, Default)]
struct Moments {
    count: u32,
    mean: f64,
    /// Sum of the squared distances from the mean.
    spread: f64,
    least: f64,
    most: f64,
}

impl Moments {
    fn sample(&mut self, x: f64) {
        if self.count == 0 {
            (self.least, self.most) = (x, x);
        }
        self.count += 1;
        let before = x - self.mean;
        self.mean += before / f64::from(self.count);
        self.spread += before * (x - self.mean);
        (self.least, self.most) = (self.least.min(x), self.most.max(x));
    }

    /// In rclcpp's order; of no number all but the count are NaN. The deviation is the population's.
    fn points(&self) -> Vec<StatisticDataPoint> {
        let count = f64::from(self.count);
        let or_nan = |x: f64| if self.count == 0 { f64::NAN } else { x };
        let point = |(data_type, data)| StatisticDataPoint { data_type, data };
        let points = [
            (StatisticDataPoint::AVERAGE, or_nan(self.mean)),
            (StatisticDataPoint::MAXIMUM, or_nan(self.most)),
            (StatisticDataPoint::MINIMUM, or_nan(self.least)),
            (StatisticDataPoint::SAMPLE_COUNT, count),
            (StatisticDataPoint::STDDEV, (self.spread / count).sqrt()),
        ];
        points.map(point).to_vec()
    }
}

/// The topic of every camera's windows.
pub(crate) struct Statistics {
    topic: String,
    publisher: Publisher<MetricsMessage>,
    /// By camera, the node that subscribes.
    nodes: Vec<String>,
}

impl Statistics {
    /// Offers the topic, if the parameters ask for it.
    ///
    /// # Errors
    /// [`crate::Error::Ros`], [`crate::Error::Setting`] for a remapped name that ROS does not allow.
    pub(crate) fn offer(
        participant: &mut Participant,
        names: &Names,
        config: &NodeConfig,
    ) -> Result<Option<Self>> {
        if !config.topic_statistics {
            return Ok(None);
        }
        let topic = names.topic("/statistics")?;
        // Several in a row: of a writer that keeps one a reader would get the last.
        let publisher = participant.publish_each(&topic, METRICS_MESSAGE)?;
        let nodes = config.cameras.iter().map(|camera| node_of(names, camera)).collect();
        Ok(Some(Self { topic, publisher, nodes }))
    }

    pub(crate) fn topic(&self) -> &str {
        &self.topic
    }

    /// Publishes a camera's window. In `sim_time` its ages, by the system's clock, say nothing.
    pub(crate) fn publish(&self, camera: usize, window: &Window, sim_time: bool) {
        let age = if sim_time { Moments::default() } else { window.age };
        for (metrics_source, moments) in [("message_age", age), ("message_period", window.period)] {
            let message = MetricsMessage {
                measurement_source_name: self.nodes[camera].clone(),
                metrics_source: metrics_source.to_owned(),
                unit: "ms".to_owned(),
                window_start: window.start,
                window_stop: window.stop,
                statistics: moments.points(),
            };
            warn(&self.topic, self.publisher.publish(message));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Average, maximum, minimum, count and deviation, each under its number.
    fn figures(moments: &Moments) -> [f64; 5] {
        let points = moments.points();
        let types: Vec<_> = points.iter().map(|point| point.data_type).collect();
        assert_eq!(types, [1, 3, 2, 5, 4]);
        [0, 1, 2, 3, 4].map(|i| points[i].data)
    }

    fn at(ms: i64) -> Stamp {
        let (sec, ms) = (ms.div_euclid(1000), ms.rem_euclid(1000));
        Stamp { sec: sec.try_into().unwrap(), nanosec: u32::try_from(ms).unwrap() * 1_000_000 }
    }

    #[test]
    fn five_figures_of_two_known_sequences() {
        let of = |samples: &[f64]| {
            let mut moments = Moments::default();
            samples.iter().for_each(|x| moments.sample(*x));
            figures(&moments)
        };
        // Mean 40/8; squared distances 9 + 1 + 1 + 1 + 0 + 0 + 4 + 16 = 32, and sqrt(32/8) is 2.
        assert_eq!(of(&[2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0]), [5.0, 9.0, 2.0, 8.0, 2.0]);
        // Of stamps ahead of the clock: mean -6/3; distances 1, 1 and 2, sqrt(6/3).
        let [mean, most, least, count, deviation] = of(&[-1.0, -1.0, -4.0]);
        assert_eq!([mean, most, least, count], [-2.0, -1.0, -4.0, 3.0]);
        assert!((deviation - std::f64::consts::SQRT_2).abs() < 1e-12, "{deviation}");
        assert_eq!(of(&[3.5]), [3.5, 3.5, 3.5, 1.0, 0.0]);
        let none = of(&[]);
        assert_eq!(none.map(f64::is_nan), [true, true, true, false, true]);
        assert_eq!(none[3], 0.0);
    }

    #[test]
    fn a_window_holds_its_second_and_a_period_may_reach_into_it_from_the_one_before() {
        let (start, mut window) = (Instant::now(), Window::open());
        window.due = start + WINDOW;
        let after = |ms| start + Duration::from_millis(ms);
        for (came, stamp) in [(100, 90_000), (300, 90_180), (600, 0), (900, 90_770)] {
            let came_at = i64::try_from(came).unwrap() + 90_000;
            window.message(at(stamp), (after(came), at(came_at)));
        }
        assert!(window.next(after(999)).is_none());
        let first = window.next(after(1050)).unwrap();
        // Ages 100, 120 and 130 (350/3), none of the message without a stamp; periods 200, 300, 300.
        let [mean, most, least, count, deviation] = figures(&first.age);
        assert!((mean - 350.0 / 3.0).abs() < 1e-9, "{mean}");
        assert!((deviation - (1400.0_f64 / 9.0).sqrt()).abs() < 1e-9, "{deviation}");
        assert_eq!([most, least, count], [130.0, 100.0, 3.0]);
        let [mean, most, least, count, deviation] = figures(&first.period);
        assert!((mean - 800.0 / 3.0).abs() < 1e-9, "{mean}");
        assert!((deviation - (20_000.0_f64 / 9.0).sqrt()).abs() < 1e-9, "{deviation}");
        assert_eq!([most, least, count], [300.0, 200.0, 3.0]);
        // The next begins where it ended, a second after the last was due, and is empty.
        assert_eq!(first.stop, window.start);
        window.message(at(91_000), (after(1400), at(91_400)));
        assert!(window.next(after(1999)).is_none());
        let second = window.next(after(2000)).unwrap();
        assert_eq!(figures(&second.age), [400.0, 400.0, 400.0, 1.0, 0.0]);
        assert_eq!(figures(&second.period), [500.0, 500.0, 500.0, 1.0, 0.0]);
        // After a long pause one window, not many.
        assert_eq!(figures(&window.next(after(9000)).unwrap().age)[3], 0.0);
        assert!(window.next(after(9000)).is_some_and(|_| window.next(after(9000)).is_none()));
    }
}
