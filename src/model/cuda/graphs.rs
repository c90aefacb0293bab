//! The network recorded as CUDA graphs, one per number of windows: hundreds of kernels, one launch.

use tch::{Kind, Tensor};

use super::objects::{Graph, Stream};
use super::plugin::Plugin;
use crate::{Error, Result};

/// Largest deviation of a replay from the plain pass, as a share of `1 + |value|`: the same kernels on the
/// same numbers should give the same bits; this is what the self-test allows of one pass and the next.
const TOLERANCE: f64 = 1e-3;

/// What the network says on its own grids, before anything is raised to the picture's size.
#[derive(Debug)]
pub struct Maps {
    /// Inlier logits `(b, k, 4h, 4w)`, float32.
    pub logits: Tensor,
    /// `(b, 2, h, w)`, float32.
    pub uem: Option<Tensor>,
    /// `(b, c)`, float32.
    pub descriptor: Tensor,
}

/// A recorded pass. Its maps lie in the graph's memory and go before it does.
#[derive(Debug)]
struct Recorded {
    maps: Maps,
    graph: Graph,
}

/// Recorded passes of 1 to `batch` windows, compared with the plain ones.
///
/// A graph reads the network's weights where they lie: a weight that changes in place changes its answer
/// as it changes that of the plain pass. It knows nothing of weights that are replaced.
#[derive(Debug)]
pub struct Graphs {
    /// By number of windows, from 1 on.
    recorded: Vec<Recorded>,
    /// What every graph reads, `(batch, 3, h, w)` float32.
    input: Tensor,
    deviation: f64,
}

impl Graphs {
    /// Records `network` on windows `[batch, 3, h, w]` and on fewer, and compares each graph with it.
    ///
    /// The largest comes first, so that the others find memory for their intermediate results in its pool.
    /// `network` must give the same answer to the same input and wait for nothing.
    ///
    /// # Errors
    /// [`Error::Torch`] where recording fails or a replay deviates. A panic of `network` goes through.
    pub fn new(
        plugin: &Plugin,
        shape: [i64; 4],
        network: impl Fn(&Tensor) -> Maps,
    ) -> Result<Self> {
        let input = Tensor::zeros(shape, (Kind::Float, plugin.device));
        let stream = Stream::new(plugin)?;
        let mut recorded: Vec<Recorded> = Vec::new();
        stream.within(|| {
            (1..=shape[0]).rev().try_for_each(|windows| -> Result<()> {
                let x = input.narrow(0, 0, windows);
                // What libtorch does the first time (workspaces, choice of kernels) cannot be recorded.
                drop([network(&x), network(&x)]);
                let sibling = recorded.last().map(|one| &one.graph);
                let (graph, maps) = Graph::record(plugin, sibling, || network(&x))?;
                #[cfg(test)]
                super::stub::recorded(&x, &maps);
                recorded.push(Recorded { maps, graph });
                Ok(())
            })
        })??;
        recorded.reverse();
        plugin.empty_cache()?; // the passes before recording had memory of the stream's own
        let mut graphs = Self { recorded, input, deviation: 0.0 };
        graphs.deviation = graphs.compare(network)?;
        Ok(graphs)
    }

    /// The largest number of windows.
    pub fn batch(&self) -> usize {
        self.recorded.len()
    }

    /// The largest deviation from the plain passes, as a share of `1 + |value|`.
    pub fn deviation(&self) -> f64 {
        self.deviation
    }

    /// Whether there is a graph for an input of this shape.
    pub fn fits(&self, x: &Tensor) -> bool {
        let size = x.size();
        size.len() == 4 && size[1..] == self.input.size()[1..] && self.graph(size[0]).is_some()
    }

    /// What `read` makes of the maps of `x`, which [`Graphs::fits`]. The next replay overwrites them, so
    /// nothing of theirs may be kept: `read` gives back tensors with memory of their own.
    ///
    /// # Errors
    /// [`Error::Torch`].
    pub fn replay<T>(&self, x: &Tensor, read: impl FnOnce(&Maps) -> T) -> Result<T> {
        let windows = x.size().first().copied().unwrap_or(0);
        let problem = || format!("no CUDA graph of {windows} windows");
        let missing = || Error::Torch { what: "replaying a CUDA graph", problem: problem() };
        let Recorded { maps, graph } = self.graph(windows).ok_or_else(missing)?;
        self.input.narrow(0, 0, windows).copy_(x);
        graph.replay()?;
        Ok(read(maps))
    }

    fn graph(&self, windows: i64) -> Option<&Recorded> {
        self.recorded.get(usize::try_from(windows).ok()?.checked_sub(1)?)
    }

    /// The largest deviation from `network` on two pictures in turn: a graph that does not read its input,
    /// or that depends on the one before, gives itself away.
    fn compare(&self, network: impl Fn(&Tensor) -> Maps) -> Result<f64> {
        let differs = |problem| Error::Torch { what: "comparing a CUDA graph", problem };
        let pictures = [texture(&self.input), slope(&self.input)];
        let mut worst = 0.0;
        for windows in 1..=self.input.size()[0] {
            let inputs = pictures.each_ref().map(|picture| picture.narrow(0, 0, windows));
            let plain = inputs.each_ref().map(&network);
            let apart = deviation(&plain[0], &plain[1]);
            if apart.is_nan() || apart <= TOLERANCE {
                let problem = format!("two unlike pictures give answers only {apart:e} apart");
                return Err(differs(problem));
            }
            for i in [0, 1, 0] {
                let error = self.replay(&inputs[i], |maps| deviation(maps, &plain[i]))?;
                if error.is_nan() || error > TOLERANCE {
                    return Err(differs(format!(
                        "{windows} windows: {error:e} from the plain pass, allowed {TOLERANCE:e}"
                    )));
                }
                worst = f64::max(worst, error);
            }
        }
        Ok(worst)
    }
}

/// Largest difference as a share of `1 + |value|`; NaN where a number is.
fn deviation(found: &Maps, wanted: &Maps) -> f64 {
    let of = |a: &Tensor, b: &Tensor| ((a - b).abs() / (b.abs() + 1.0)).max().to_kind(Kind::Double);
    let mut parts =
        vec![of(&found.logits, &wanted.logits), of(&found.descriptor, &wanted.descriptor)];
    match (&found.uem, &wanted.uem) {
        (Some(found), Some(wanted)) => parts.push(of(found, wanted)),
        (None, None) => {}
        _ => return f64::NAN,
    }
    Tensor::stack(&parts, 0).max().double_value(&[])
}

/// A picture like `x` whose neighbouring pixels have little in common.
fn texture(x: &Tensor) -> Tensor {
    let count = i64::try_from(x.numel()).unwrap_or(0);
    let ramp = Tensor::arange(count, (Kind::Int64, x.device())) * 7919;
    (ramp.remainder(1000).to_kind(Kind::Float) / 250.0 - 2.0).view_as(x)
}

/// A picture like `x` that gets brighter from left to right.
fn slope(x: &Tensor) -> Tensor {
    let columns = x.size().last().copied().unwrap_or(1);
    let ramp = Tensor::arange(columns, (Kind::Float, x.device())) * (4.0 / columns as f64) - 2.0;
    ramp.expand_as(x).contiguous()
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::super::stub;
    use super::*;

    const SHAPE: [i64; 4] = [3, 3, 4, 6];

    /// Enough of a network: every part depends on the input, no two windows are the same.
    fn network(x: &Tensor) -> Maps {
        let descriptor = x.flatten(1, -1).mean_dim(1, true, Kind::Float);
        Maps { logits: x * 2.0 + 1.0, uem: Some(x.narrow(1, 0, 2).square()), descriptor }
    }

    /// Of it, on the stub, whose replays do `work` with the input and the maps that were recorded.
    fn graphs(work: impl Fn(&Tensor, &Maps) + 'static) -> Result<Graphs> {
        Graphs::new(&stub::replaying(work), SHAPE, network)
    }

    /// As a graph does: the same computation, into the same memory.
    fn again(x: &Tensor, maps: &Maps) {
        stub::overwrite(maps, &network(x));
    }

    #[test]
    fn graphs_that_do_what_was_recorded_are_used_for_every_number_of_windows() {
        let graphs = graphs(again).unwrap();
        assert_eq!((graphs.batch(), graphs.deviation()), (3, 0.0));
        for windows in 1..=3 {
            let x = Tensor::randn([windows, 3, 4, 6], (Kind::Float, Device::Cpu));
            assert!(graphs.fits(&x));
            let error = graphs.replay(&x, |maps| deviation(maps, &network(&x))).unwrap();
            assert_eq!(error, 0.0, "{windows} windows");
        }
        for shape in [[0, 3, 4, 6], [4, 3, 4, 6], [1, 3, 6, 4]] {
            assert!(!graphs.fits(&Tensor::zeros(shape, (Kind::Float, Device::Cpu))));
        }
    }

    #[test]
    fn graphs_that_do_anything_else_are_refused_with_both_numbers() {
        let nothing = |_: &Tensor, _: &Maps| {};
        let late = |x: &Tensor, maps: &Maps| again(&(x * 1.01), maps);
        let short = |x: &Tensor, maps: &Maps| {
            again(x, maps);
            let mut last = maps.descriptor.narrow(0, -1, 1);
            last += 0.1;
        };
        let broken = |x: &Tensor, maps: &Maps| {
            again(x, maps);
            drop(maps.uem.as_ref().unwrap().get(0).get(1).get(2).get(3).fill_(f64::NAN));
        };
        let wrong: [(&str, stub::Replay); 4] = [
            ("nothing", Box::new(nothing)),
            ("late", Box::new(late)),
            ("short", Box::new(short)),
            ("broken", Box::new(broken)),
        ];
        for (name, work) in wrong {
            let error = graphs(work).unwrap_err().to_string();
            let numbers = error.contains("from the plain pass, allowed 1e-3");
            assert!(numbers && error.contains("windows: "), "{name}: {error}");
        }
    }

    #[test]
    fn a_comparison_that_could_not_fail_is_none() {
        let plugin = stub::open(&[]);
        let constant = |x: &Tensor| Maps { uem: None, ..network(&x.zeros_like()) };
        let error = Graphs::new(&plugin, SHAPE, constant).unwrap_err().to_string();
        assert!(error.contains("only 0e0 apart"), "{error}");
    }
}
