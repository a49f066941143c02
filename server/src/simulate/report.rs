//! What a simulation prints: rows as they come, for people with a chart at the end.

use crate::config::text::show_bytes;
use leasehold_keyspace::replay::{Misses, Trace};
use std::io::{self, Write};

/// One policy under one limit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    pub policy: &'static str,
    pub memory_bytes: u64,
    pub requests: usize,
    pub misses: Misses,
}

/// See the module.
pub(crate) struct Report {
    is_csv: bool,
    /// By limit, then policy.
    rows: Vec<Row>,
}

/// Width of a bar that stands for all requests.
const BAR_WIDTH: usize = 48;

/// A bar's last character, in eighths.
const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];

impl Report {
    pub(crate) fn new(is_csv: bool) -> Self {
        Self { is_csv, rows: Vec::new() }
    }

    pub(crate) fn begin(&self, trace: &Trace, out: &mut impl Write) -> io::Result<()> {
        if self.is_csv {
            return writeln!(out, "policy,memory,requests,object_miss_ratio,byte_miss_ratio");
        }
        let (requests, keys, footprint) = (trace.len(), trace.key_count(), trace.footprint_bytes());
        writeln!(out, "{requests} requests, {keys} keys of {footprint} bytes in all\n")?;
        writeln!(out, "{:<18} {:>14} {:>12} {:>12} {:>12}", "policy", "memory", "requests", "object miss", "byte miss")
    }

    pub(crate) fn add(&mut self, row: Row, out: &mut impl Write) -> io::Result<()> {
        let Row { policy, memory_bytes, requests, misses } = row;
        let Misses { object_ratio, byte_ratio } = misses;
        self.rows.push(row);
        if self.is_csv {
            return writeln!(out, "{policy},{memory_bytes},{requests},{object_ratio:.6},{byte_ratio:.6}");
        }
        let memory = show_bytes(memory_bytes);
        writeln!(out, "{policy:<18} {memory:>14} {requests:>12} {object_ratio:>12.4} {byte_ratio:>12.4}")
    }

    /// The chart: a group of bars per limit, the longer the more requests missed.
    pub(crate) fn end(&self, out: &mut impl Write) -> io::Result<()> {
        if self.is_csv {
            return Ok(());
        }
        writeln!(out, "\nObject miss ratio; the full width is 1.")?;
        for rows in self.rows.chunk_by(|one, other| one.memory_bytes == other.memory_bytes) {
            writeln!(out, "\n{}", show_bytes(rows[0].memory_bytes))?;
            for row in rows {
                let ratio = row.misses.object_ratio;
                writeln!(out, "  {:<18} │{:<BAR_WIDTH$}│ {ratio:.4}", row.policy, bar(ratio))?;
            }
        }
        Ok(())
    }
}

fn bar(ratio: f64) -> String {
    let eighths = (ratio * (BAR_WIDTH * 8) as f64).round() as usize;
    "█".repeat(eighths / 8) + EIGHTHS[eighths % 8]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(is_csv: bool) -> String {
        let trace = Trace::default();
        let mut report = Report::new(is_csv);
        let mut out = Vec::new();
        report.begin(&trace, &mut out).expect("memory takes all");
        for (policy, memory_bytes, object_ratio) in
            [("allkeys-lru", 1 << 20, 0.5), ("allkeys-random", 1 << 20, 1.0), ("allkeys-lru", 1000, 0.0)]
        {
            let misses = Misses { object_ratio, byte_ratio: 0.25 };
            report.add(Row { policy, memory_bytes, requests: 8, misses }, &mut out).expect("memory takes all");
        }
        report.end(&mut out).expect("memory takes all");
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn csv_has_the_columns_of_the_manual() {
        let csv = "policy,memory,requests,object_miss_ratio,byte_miss_ratio\n\
                   allkeys-lru,1048576,8,0.500000,0.250000\n\
                   allkeys-random,1048576,8,1.000000,0.250000\n\
                   allkeys-lru,1000,8,0.000000,0.250000\n";
        assert_eq!(printed(true), csv);
    }

    #[test]
    fn the_chart_groups_bars_by_limit() {
        let text = printed(false);
        let chart: Vec<&str> = text.lines().skip_while(|line| !line.starts_with("Object")).collect();
        let bars = |line: &str| line.chars().filter(|&c| c == '█').count();
        assert_eq!((chart[2], chart[6]), ("1mb", "1000"));
        assert_eq!((bars(chart[3]), bars(chart[4]), bars(chart[7])), (BAR_WIDTH / 2, BAR_WIDTH, 0));
    }
}
