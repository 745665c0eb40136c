//! Histograms of whole numbers: counting is a search and two additions. Knows no units and no names.
//!
//! **Invariant:** the type of the counts says how many bounds they were counted with.

/// What the buckets of a histogram are.
#[derive(Debug)]
pub(super) struct Scale<const BOUNDS: usize> {
    /// Upper bounds, ascending, in what is counted.
    pub(super) bounds: [u64; BOUNDS],
    /// How much of what is counted makes one of what is printed.
    pub(super) per_unit: f64,
}

/// A histogram of whole numbers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Counts<const BOUNDS: usize> {
    pub(super) buckets: [u64; BOUNDS],
    /// Those above the last bound.
    pub(super) above: u64,
    pub(super) sum: u64,
}

impl<const BOUNDS: usize> Counts<BOUNDS> {
    pub(super) fn observe(&mut self, value: u64, scale: &Scale<BOUNDS>) {
        let bucket = scale.bounds.partition_point(|&bound| bound < value);
        *self.buckets.get_mut(bucket).unwrap_or(&mut self.above) += 1;
        self.sum = self.sum.wrapping_add(value);
    }

    pub(super) fn merge(&mut self, other: &Self) {
        for (count, more) in self.buckets.iter_mut().zip(other.buckets) {
            *count += more;
        }
        self.above += other.above;
        self.sum = self.sum.wrapping_add(other.sum);
    }
}

impl<const BOUNDS: usize> Default for Counts<BOUNDS> {
    fn default() -> Self {
        Self {
            buckets: [0; BOUNDS],
            above: 0,
            sum: 0,
        }
    }
}
