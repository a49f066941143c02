//! Traces, the reference policies' miss ratios on them, and the tables that compare ours with these.

use crate::record::Circumstances;
use anyhow::{Context as _, bail, ensure};
use leasehold_keyspace::replay::{Misses, Trace};
use ruzstd::decoding::StreamingDecoder;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::Path;

/// A trace and how much of it fits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Row {
    /// Group of traces whose mean is taken.
    pub section: String,
    /// Name of the trace.
    pub trace: String,
    /// Share of the footprint.
    pub percent: u32,
}

/// What a miss ratio is taken of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Metric {
    /// Requests.
    Object,
    /// Bytes of requests.
    Byte,
}

/// The reference policies' miss ratios, as `reference.csv` has them.
#[derive(Clone, Debug, Default)]
pub struct Reference {
    /// Capacities in units of the trace's sizes.
    pub capacities: BTreeMap<Row, u64>,
    ratios: BTreeMap<(Row, Metric, String), f64>,
}

impl Reference {
    /// Reads the file: section, trace, percent, capacity, metric, policy, miss ratio.
    ///
    /// # Errors
    /// The file cannot be read, or a line has something else.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?;
        let mut reference = Self::default();
        for line in text.lines().skip(1) {
            reference.add(line).with_context(|| format!("{} has the line {line:?}", path.display()))?;
        }
        Ok(reference)
    }

    fn add(&mut self, line: &str) -> anyhow::Result<()> {
        let fields: Vec<&str> = line.split(',').collect();
        let &[section, trace, percent, capacity, metric, policy, ratio] = &fields[..] else {
            bail!("seven fields are expected");
        };
        let metric = match metric {
            "object" => Metric::Object,
            "byte" => Metric::Byte,
            _ => bail!("the metric is object or byte"),
        };
        let row = Row { section: section.to_owned(), trace: trace.to_owned(), percent: percent.parse()? };
        self.capacities.insert(row.clone(), capacity.parse()?);
        self.ratios.insert((row, metric, policy.to_owned()), ratio.parse()?);
        Ok(())
    }

    /// The miss ratio of a policy, by the name it has in the file.
    #[must_use]
    pub fn ratio(&self, row: &Row, metric: Metric, policy: &str) -> Option<f64> {
        self.ratios.get(&(row.clone(), metric, policy.to_owned())).copied()
    }
}

/// Reads a trace compressed by zstd: lines "key size".
///
/// # Errors
/// The file cannot be read, or has something else.
pub fn read_trace(path: &Path) -> anyhow::Result<Trace> {
    let file = File::open(path).with_context(|| format!("{} cannot be read", path.display()))?;
    let decoder = StreamingDecoder::new(BufReader::new(file)).map_err(|error| anyhow::anyhow!("{error}"))?;
    let mut lines = BufReader::with_capacity(1 << 20, decoder);
    let mut trace = Trace::default();
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line)? > 0 {
        ensure!(trace.push_line(&line).is_ok(), "{} has a line that is no request", path.display());
        line.clear();
    }
    Ok(trace)
}

/// What the lanes of a run missed, row by row. A lane is a policy with its objective.
#[derive(Clone, Debug, Default)]
pub struct Measured(BTreeMap<(Row, String), Misses>);

/// A figure that a lane must reach, in the mean over a section.
#[derive(Clone, Copy, Debug)]
struct Bar {
    section: &'static str,
    lane: &'static str,
    metric: Metric,
    at_most: f64,
}

/// With the accounting of the reference.
const BARS: &[Bar] = &[
    Bar { section: "unit", lane: "tinylfu", metric: Metric::Object, at_most: 0.575 },
    Bar { section: "lirs", lane: "tinylfu", metric: Metric::Object, at_most: 0.695 },
    Bar { section: "sized", lane: "tinylfu", metric: Metric::Object, at_most: 0.560 },
];

/// Policies of the reference that are shown, by their names there.
const SHOWN: [&str; 6] = ["LRU", "R-LRU", "S3FIFO", "CAFF", "NEW", "NEWb"];

impl Measured {
    /// Adds what a lane missed in a row.
    pub fn add(&mut self, row: Row, lane: &str, misses: Misses) {
        self.0.insert((row, lane.to_owned()), misses);
    }

    fn rows(&self) -> BTreeSet<&Row> {
        self.0.keys().map(|(row, _)| row).collect()
    }

    fn lanes(&self) -> BTreeSet<&str> {
        self.0.keys().map(|(_, lane)| lane.as_str()).collect()
    }

    fn ratio(&self, row: &Row, metric: Metric, lane: &str) -> Option<f64> {
        let misses = self.0.get(&(row.clone(), lane.to_owned()))?;
        Some(match metric {
            Metric::Object => misses.object_ratio,
            Metric::Byte => misses.byte_ratio,
        })
    }

    /// The mean of a lane over a section; `None` if it was not run there.
    fn mean(&self, section: &str, metric: Metric, lane: &str) -> Option<f64> {
        mean(self.rows().into_iter().filter(|row| row.section == section), |row| self.ratio(row, metric, lane))
    }

    /// Means per section beside those of the reference, what the bars come to, and every row.
    #[must_use]
    pub fn against_reference(&self, reference: &Reference) -> String {
        let mut out = String::from("## Means, sizes of the trace alone counted\n\n");
        self.table_of_means(Some(reference), &mut out);
        out.push('\n');
        for bar in BARS {
            if let Some(found) = self.mean(bar.section, bar.metric, bar.lane) {
                let verdict = if found <= bar.at_most { "met" } else { "missed" };
                let _ = writeln!(out, "- {}, {}: {found:.4}, bar {:.3}: {verdict}", bar.section, bar.lane, bar.at_most);
            }
        }
        let sized: Vec<&Row> = self.rows().into_iter().filter(|row| row.section == "sized").collect();
        let s3fifo = mean(sized.iter().copied(), |row| reference.ratio(row, Metric::Byte, "S3FIFO"));
        if let (Some(ours), Some(s3fifo)) = (self.mean("sized", Metric::Byte, "tinylfu-bytes"), s3fifo) {
            let verdict = if ours <= s3fifo { "met" } else { "missed" };
            let _ = writeln!(out, "- sized, tinylfu-bytes, bytes: {ours:.4}, S3-FIFO {s3fifo:.4}: {verdict}");
        }
        let behind = |row: &Row, lane: &str, policy: &str| {
            Some(self.ratio(row, Metric::Object, lane)? - reference.ratio(row, Metric::Object, policy)?)
        };
        if let Some((row, lead)) = worst(self.rows(), |row| behind(row, "tinylfu", "R-LRU")) {
            let verdict = if lead <= 0.02 { "met" } else { "missed" };
            let _ = writeln!(
                out,
                "- no row of tinylfu worse than Redis's LRU by more than 0.02: {} {} % by {lead:+.4}: {verdict}",
                row.trace, row.percent
            );
        }
        if let Some(found) = mean(self.rows().into_iter(), |row| behind(row, "lru", "LRU")) {
            let verdict = if found.abs() <= 0.003 { "met" } else { "missed" };
            let _ = writeln!(out, "- lru against an exact list, mean of all rows: {found:+.4}, bar 0.003: {verdict}");
        }
        out.push_str("\n## Rows\n\n");
        self.table_of_rows(Some(reference), &mut out);
        out
    }

    /// Means per section, and how far one lane is behind another row by row.
    #[must_use]
    pub fn against_lane(&self, lane: &str, other: &str) -> String {
        let mut out = String::from("## Means, all that an entry costs counted\n\n");
        self.table_of_means(None, &mut out);
        let behind = |row: &Row| Some(self.ratio(row, Metric::Object, lane)? - self.ratio(row, Metric::Object, other)?);
        if let Some((row, lead)) = worst(self.rows(), behind) {
            let verdict = if lead <= 0.01 { "met" } else { "missed" };
            let _ = writeln!(
                out,
                "\n- no row of {lane} worse than {other} by more than 0.01: {} {} % by {lead:+.4}: {verdict}",
                row.trace, row.percent
            );
        }
        out.push_str("\n## Rows, all that an entry costs counted\n\n");
        self.table_of_rows(None, &mut out);
        out
    }

    fn table_of_means(&self, reference: Option<&Reference>, out: &mut String) {
        let lanes = self.lanes();
        let shown: &[&str] = if reference.is_some() { &SHOWN } else { &[] };
        heading(&["section", "miss ratio of", "rows"], &lanes, shown, out);
        let sections: BTreeSet<&str> = self.rows().into_iter().map(|row| row.section.as_str()).collect();
        for section in sections {
            let rows: Vec<&Row> = self.rows().into_iter().filter(|row| row.section == section).collect();
            for (metric, name) in [(Metric::Object, "objects"), (Metric::Byte, "bytes")] {
                // Where all sizes are alike the two are the same.
                if metric == Metric::Byte && section != "sized" {
                    continue;
                }
                let _ = write!(out, "| {section} | {name} | {} |", rows.len());
                for lane in &lanes {
                    cell(mean(rows.iter().copied(), |row| self.ratio(row, metric, lane)), out);
                }
                for policy in shown {
                    cell(mean(rows.iter().copied(), |row| reference?.ratio(row, metric, policy)), out);
                }
                out.push('\n');
            }
        }
    }

    fn table_of_rows(&self, reference: Option<&Reference>, out: &mut String) {
        let lanes = self.lanes();
        let shown: &[&str] = if reference.is_some() { &SHOWN } else { &[] };
        heading(&["trace", "footprint"], &lanes, shown, out);
        for row in self.rows() {
            let _ = write!(out, "| {} | {} % |", row.trace, row.percent);
            for lane in &lanes {
                cell(self.ratio(row, Metric::Object, lane), out);
            }
            for policy in shown {
                cell(reference.and_then(|reference| reference.ratio(row, Metric::Object, policy)), out);
            }
            out.push('\n');
        }
    }

    /// Every row for programs.
    #[must_use]
    pub fn json(&self) -> Value {
        let row = |((row, lane), misses): (&(Row, String), &Misses)| {
            json!({
                "section": row.section, "trace": row.trace, "percent": row.percent, "lane": lane,
                "object_miss_ratio": misses.object_ratio, "byte_miss_ratio": misses.byte_ratio,
            })
        };
        self.0.iter().map(row).collect()
    }
}

/// The record of a run: what was done where, the tables, and both for programs.
#[must_use]
pub fn json(here: &Circumstances, by_sizes: &Measured, by_memory: &Measured) -> Value {
    json!({
        "date": here.date, "cpu": here.cpu, "cores": here.cores, "kernel": here.kernel, "commit": here.commit,
        "command": here.command.trim(), "sizes_counted": by_sizes.json(), "memory_counted": by_memory.json(),
    })
}

fn heading(first: &[&str], lanes: &BTreeSet<&str>, shown: &[&str], out: &mut String) {
    let names: Vec<&str> = first.iter().copied().chain(lanes.iter().copied()).chain(shown.iter().copied()).collect();
    let _ = writeln!(out, "| {} |", names.join(" | "));
    let _ = writeln!(out, "|{}", "---|".repeat(names.len()));
}

fn cell(ratio: Option<f64>, out: &mut String) {
    let _ = match ratio {
        Some(ratio) => write!(out, " {ratio:.4} |"),
        None => write!(out, " |"),
    };
}

/// Over the rows that have the figure.
fn mean<'r>(rows: impl Iterator<Item = &'r Row>, figure: impl Fn(&Row) -> Option<f64>) -> Option<f64> {
    let figures: Vec<f64> = rows.filter_map(figure).collect();
    (!figures.is_empty()).then(|| figures.iter().sum::<f64>() / figures.len() as f64)
}

fn worst<'r>(rows: impl IntoIterator<Item = &'r Row>, figure: impl Fn(&Row) -> Option<f64>) -> Option<(&'r Row, f64)> {
    let figures = rows.into_iter().filter_map(|row| Some((row, figure(row)?)));
    figures.max_by(|(_, one), (_, other)| one.total_cmp(other))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(trace: &str, percent: u32) -> Row {
        Row { section: "unit".to_owned(), trace: trace.to_owned(), percent }
    }

    #[test]
    fn lines_of_the_reference_are_told_from_others() {
        let mut reference = Reference::default();
        reference.add("unit,oltp,1,1868,object,LRU,0.584").expect("a line of it");
        assert_eq!(reference.capacities[&row("oltp", 1)], 1868);
        assert_eq!(reference.ratio(&row("oltp", 1), Metric::Object, "LRU"), Some(0.584));
        assert_eq!(reference.ratio(&row("oltp", 1), Metric::Byte, "LRU"), None);
        for line in ["", "unit,oltp,1,1868,object,LRU", "unit,oltp,1,1868,hits,LRU,0.5", "unit,oltp,x,1,object,LRU,0.5"]
        {
            assert!(reference.add(line).is_err(), "{line}");
        }
    }

    #[test]
    fn means_and_verdicts_are_those_of_the_rows() {
        let mut reference = Reference::default();
        let mut measured = Measured::default();
        for (trace, ours, redis) in [("a", 0.5, 0.6), ("b", 0.7, 0.65)] {
            reference.add(&format!("unit,{trace},1,10,object,R-LRU,{redis}")).expect("a line of it");
            measured.add(row(trace, 1), "tinylfu", Misses { object_ratio: ours, byte_ratio: ours });
        }
        let report = measured.against_reference(&reference);
        assert!(report.contains("| unit | objects | 2 | 0.6000 |"), "{report}");
        assert!(report.contains("unit, tinylfu: 0.6000, bar 0.575: missed"), "{report}");
        assert!(report.contains("b 1 % by +0.0500: missed"), "{report}");
    }
}
