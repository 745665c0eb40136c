//! The Prometheus text format, version 0.0.4. Knows families, samples and labels, not what they mean.
//!
//! Written by hand: `prometheus-client` 0.25 speaks `OpenMetrics`, where the family of a counter has
//! another name than its samples, and its own counters cost a request several times what those of
//! `requests` do.
//!
//! **Invariant:** help and label values are escaped, and a number is spelled alike in every release.

use std::fmt::{self, Display, Write};

use super::histogram::{Counts, Scale};

/// The type of a family.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// A page being written.
#[derive(Debug, Default)]
pub(super) struct Exposition {
    text: String,
}

/// A family whose samples are being written.
#[derive(Debug)]
pub(super) struct Family<'a> {
    text: &'a mut String,
    name: &'a str,
}

impl Exposition {
    /// Begins a family. Without a sample it is a name that has no value yet.
    pub(super) fn family<'a>(&'a mut self, kind: Kind, name: &'a str, help: &str) -> Family<'a> {
        let text = &mut self.text;
        text.extend(["# HELP ", name, " "]);
        push_escaped(text, help, &['\\']);
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        text.extend(["\n# TYPE ", name, " ", kind, "\n"]);
        Family { text, name }
    }

    /// A counter without labels.
    pub(super) fn counter(&mut self, name: &str, help: &str, value: impl Display) {
        self.family(Kind::Counter, name, help).sample(&[], value);
    }

    /// A gauge without labels.
    pub(super) fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.family(Kind::Gauge, name, help).sample(&[], value);
    }

    pub(super) fn finish(self) -> String {
        self.text
    }
}

impl Family<'_> {
    pub(super) fn sample(&mut self, labels: &[(&str, &str)], value: impl Display) {
        self.line("", labels, value);
    }

    pub(super) fn histogram<const BOUNDS: usize>(
        &mut self,
        labels: &[(&str, &str)],
        counts: &Counts<BOUNDS>,
        scale: &Scale<BOUNDS>,
    ) {
        let total = counts.buckets.iter().sum::<u64>() + counts.above;
        self.line("_sum", labels, Decimal::of(counts.sum, scale.per_unit));
        self.line("_count", labels, total);
        let mut so_far = 0;
        for (&bound, count) in scale.bounds.iter().zip(counts.buckets) {
            so_far += count;
            let bound = Decimal::of(bound, scale.per_unit).to_string();
            self.bucket(&bound, labels, so_far);
        }
        self.bucket("+Inf", labels, total);
    }

    /// The count of a bucket and of all those below it.
    fn bucket(&mut self, bound: &str, labels: &[(&str, &str)], count: u64) {
        let labels = [&[("le", bound)], labels].concat();
        self.line("_bucket", &labels, count);
    }

    fn line(&mut self, suffix: &str, labels: &[(&str, &str)], value: impl Display) {
        self.text.extend([self.name, suffix]);
        for (number, (name, value)) in labels.iter().enumerate() {
            let before = if number == 0 { "{" } else { "," };
            self.text.extend([before, name, "=\""]);
            push_escaped(self.text, value, &['\\', '"']);
            self.text.push('"');
        }
        if !labels.is_empty() {
            self.text.push('}');
        }
        // Writing to a string does not fail.
        let _ = writeln!(self.text, " {value}");
    }
}

/// A number with a point and without an exponent. The bound of a bucket is part of the identity of
/// its series, so it must be spelled alike in every release: `1.0` and `0.00005`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Decimal(pub(super) f64);

impl Decimal {
    #[expect(
        clippy::cast_precision_loss,
        reason = "sums are read by people and graphs"
    )]
    fn of(value: u64, per_unit: f64) -> Self {
        Self(value as f64 / per_unit)
    }
}

impl Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.fract() == 0.0 {
            write!(f, "{:.1}", self.0)
        } else {
            write!(f, "{}", self.0)
        }
    }
}

/// Appends `value` with a backslash before each of `special`, and with its line breaks escaped.
fn push_escaped(text: &mut String, value: &str, special: &[char]) {
    for char in value.chars() {
        if char == '\n' {
            text.push_str("\\n");
            continue;
        }
        if special.contains(&char) {
            text.push('\\');
        }
        text.push(char);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_is_printed_with_cumulative_buckets() {
        const SCALE: Scale<3> = Scale {
            bounds: [50_000, 1_000_000_000, 2_000_000_000],
            per_unit: 1e9,
        };
        let mut counts = Counts::default();
        for nanoseconds in [50_000, 50_001, 1_000_000_000, 2_000_000_001] {
            counts.observe(nanoseconds, &SCALE);
        }
        let mut page = Exposition::default();
        page.family(Kind::Histogram, "wait_seconds", "How long")
            .histogram(&[("disk", "a")], &counts, &SCALE);
        assert_eq!(
            page.finish(),
            "# HELP wait_seconds How long\n\
             # TYPE wait_seconds histogram\n\
             wait_seconds_sum{disk=\"a\"} 3.000100002\n\
             wait_seconds_count{disk=\"a\"} 4\n\
             wait_seconds_bucket{le=\"0.00005\",disk=\"a\"} 1\n\
             wait_seconds_bucket{le=\"1.0\",disk=\"a\"} 3\n\
             wait_seconds_bucket{le=\"2.0\",disk=\"a\"} 3\n\
             wait_seconds_bucket{le=\"+Inf\",disk=\"a\"} 4\n"
        );
    }

    #[test]
    fn help_and_label_values_are_escaped() {
        let mut page = Exposition::default();
        page.family(Kind::Gauge, "files", "A \"\\\"\n")
            .sample(&[("name", "a\\\"b\n"), ("kind", "c")], 1);
        assert_eq!(
            page.finish(),
            "# HELP files A \"\\\\\"\\n\n\
             # TYPE files gauge\n\
             files{name=\"a\\\\\\\"b\\n\",kind=\"c\"} 1\n"
        );
    }
}
