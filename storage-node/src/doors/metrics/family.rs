//! A metric's definition, and how its lines come onto a page: every line is counted as it is written.
//!
//! A definition is one line of a table: name, kind, help text and where its value comes from. The page and the
//! reference (docs/metrics.md) are made from the same tables. Nothing here knows what is measured.

use hf_reactor::latency::Histogram;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use std::fmt;

/// Upper bounds of the buckets in microseconds. Each is a bound of the reactors' histograms, so their counts are exact.
pub const BUCKETS_US: [u32; 14] =
    [50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 500_000, 1_000_000, 5_000_000];
/// Lines of a histogram: its buckets, the one without a bound, the sum and the count.
pub const HISTOGRAM_SERIES: usize = BUCKETS_US.len() + 3;

/// What a metric's type is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A value that goes up and down.
    Gauge,
    /// A count that only goes up, until what counts it begins anew.
    Counter,
    /// Counts by bucket.
    Histogram,
}

/// What there is to know of a metric without its value.
#[derive(Clone, Copy, Debug)]
pub struct About {
    /// Its name without the prefix `holdfast_`; a counter's ends with `_total`.
    pub name: &'static str,
    /// The type of the metric.
    pub kind: Kind,
    /// What it tells, in a sentence.
    pub help: &'static str,
}

/// Where a value comes from.
enum Get<T> {
    Whole(fn(&T) -> u64),
    /// Microseconds, shown as seconds.
    Seconds(fn(&T) -> u64),
}

/// A metric with one number for each `T`.
pub struct Metric<T> {
    /// What it is.
    pub about: About,
    get: Get<T>,
}

/// A gauge of whole numbers.
pub const fn gauge<T>(name: &'static str, help: &'static str, get: fn(&T) -> u64) -> Metric<T> {
    Metric { about: About { name, kind: Kind::Gauge, help }, get: Get::Whole(get) }
}

/// A gauge of a time: `get` tells microseconds.
pub const fn seconds<T>(name: &'static str, help: &'static str, get: fn(&T) -> u64) -> Metric<T> {
    Metric { about: About { name, kind: Kind::Gauge, help }, get: Get::Seconds(get) }
}

/// A counter of whole numbers.
pub const fn counter<T>(name: &'static str, help: &'static str, get: fn(&T) -> u64) -> Metric<T> {
    Metric { about: About { name, kind: Kind::Counter, help }, get: Get::Whole(get) }
}

/// A histogram's definition; its counts are given when it is written.
pub const fn histogram(name: &'static str, help: &'static str) -> About {
    About { name, kind: Kind::Histogram, help }
}

/// A number as it is written.
#[derive(Clone, Copy)]
enum Number {
    Whole(u64),
    Float(f64),
}

impl<T> Metric<T> {
    fn of(&self, it: &T) -> Number {
        match self.get {
            Get::Whole(get) => Number::Whole(get(it)),
            Get::Seconds(get) => Number::Float(get(it) as f64 / 1e6),
        }
    }

    /// The value of many together: their sum; of times the longest.
    fn together<'a>(&self, all: impl Iterator<Item = &'a T>) -> Number
    where
        T: 'a,
    {
        match self.get {
            Get::Whole(get) => Number::Whole(all.map(get).fold(0, u64::saturating_add)),
            Get::Seconds(get) => Number::Float(all.map(get).max().unwrap_or(0) as f64 / 1e6),
        }
    }
}

/// A label's name and value.
pub type Label = (&'static str, String);
/// Labels of a line, in their order.
pub type Labels = Vec<Label>;

/// A page that is being written.
pub struct Page<'a> {
    out: DescriptorEncoder<'a>,
    series: usize,
}

impl<'a> Page<'a> {
    /// An empty page.
    pub fn new(out: DescriptorEncoder<'a>) -> Page<'a> {
        Page { out, series: 0 }
    }

    /// Lines written so far.
    pub fn series(&self) -> usize {
        self.series
    }

    /// Writes a metric: a line for each of `own`, and one for all of `rest`, if there are any, under `other`.
    pub fn lines<T>(&mut self, m: &Metric<T>, own: &[(Labels, &T)], rest: &[&T], other: &[Label]) -> fmt::Result {
        if own.is_empty() && rest.is_empty() {
            return Ok(());
        }
        let counter = m.about.kind == Kind::Counter;
        let mut out = head(&mut self.out, &m.about)?;
        for (labels, it) in own {
            number(&mut out, counter, labels, m.of(it))?;
        }
        if !rest.is_empty() {
            number(&mut out, counter, other, m.together(rest.iter().copied()))?;
        }
        self.series += own.len() + usize::from(!rest.is_empty());
        Ok(())
    }

    /// Writes a metric of which there is one.
    pub fn one<T>(&mut self, m: &Metric<T>, it: &T) -> fmt::Result {
        self.lines(m, &[(Vec::new(), it)], &[], &[])
    }

    /// Writes a metric that says something only by its labels.
    pub fn info(&mut self, about: &About, all: &[Labels]) -> fmt::Result {
        let m = Metric { about: *about, get: Get::Whole(|_| 1) };
        let own: Vec<_> = all.iter().map(|labels| (labels.clone(), &())).collect();
        self.lines(&m, &own, &[], &[])
    }

    /// Writes histograms, one for each of `all`.
    pub fn histograms(&mut self, about: &About, all: &[(Labels, Histogram)]) -> fmt::Result {
        if all.is_empty() {
            return Ok(());
        }
        let mut out = head(&mut self.out, about)?;
        for (labels, h) in all {
            let mut buckets = [(0.0, 0); BUCKETS_US.len()];
            let mut below = 0;
            for (b, us) in buckets.iter_mut().zip(BUCKETS_US) {
                let at_most = h.at_most(us);
                *b = (f64::from(us) / 1e6, at_most - below);
                below = at_most;
            }
            let sum = h.sum_us() as f64 / 1e6;
            let labels = labels.as_slice();
            out.encode_family(&labels)?.encode_histogram::<NoLabelSet>(sum, h.total(), &buckets, None)?;
        }
        self.series += all.len() * HISTOGRAM_SERIES;
        Ok(())
    }
}

fn head<'e>(out: &'e mut DescriptorEncoder<'_>, about: &About) -> Result<MetricEncoder<'e>, fmt::Error> {
    let kind = match about.kind {
        Kind::Gauge => MetricType::Gauge,
        Kind::Counter => MetricType::Counter,
        Kind::Histogram => MetricType::Histogram,
    };
    // The encoder adds it again.
    let name = about.name.strip_suffix("_total").unwrap_or(about.name);
    out.encode_descriptor(name, about.help, None, kind)
}

fn number(out: &mut MetricEncoder, counter: bool, labels: &[Label], value: Number) -> fmt::Result {
    let mut out = out.encode_family(&labels)?;
    match value {
        Number::Whole(v) if counter => out.encode_counter::<NoLabelSet, u64, f64>(&v, None),
        Number::Float(v) if counter => out.encode_counter::<NoLabelSet, f64, f64>(&v, None),
        Number::Whole(v) => out.encode_gauge(&v),
        Number::Float(v) => out.encode_gauge(&v),
    }
}
