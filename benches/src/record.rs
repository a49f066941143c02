//! What a run leaves: a Markdown table for people, JSON with every round for programs.

use crate::workload::Workload;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

/// One lane measured once.
#[derive(Clone, Copy, Debug)]
pub struct Measure {
    /// Operations answered and verified.
    pub operations: u64,
    /// Length of the measured interval in ns.
    pub elapsed_ns: u64,
    /// CPU time of the server in it, in ns.
    pub cpu_ns: u64,
    /// Median latency in ns.
    pub p50_ns: u64,
    /// 99th percentile in ns.
    pub p99_ns: u64,
}

impl Measure {
    /// Server CPU time per operation in µs.
    #[must_use]
    pub fn cpu_us(&self) -> f64 {
        self.cpu_ns as f64 / self.operations.max(1) as f64 / 1000.0
    }

    /// Operations per second.
    #[must_use]
    pub fn per_second(&self) -> f64 {
        self.operations as f64 * 1e9 / self.elapsed_ns.max(1) as f64
    }
}

/// A lane over all rounds.
#[derive(Clone, Debug)]
pub struct Series {
    /// Name of the lane.
    pub lane: String,
    /// What the server says of itself.
    pub version: String,
    /// Resident memory with all keys stored, in bytes.
    pub resident_bytes: u64,
    /// One for each round.
    pub rounds: Vec<Measure>,
}

/// A workload with what was measured.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// As run.
    pub workload: Workload,
    /// Measured lanes in order.
    pub series: Vec<Series>,
    /// Lanes left out, each with its reason.
    pub skipped: Vec<String>,
}

/// Least, median and most of some numbers.
#[derive(Clone, Copy, Debug)]
pub struct Spread {
    /// The least.
    pub min: f64,
    /// The middle; the mean of the two in the middle of an even number.
    pub median: f64,
    /// The most.
    pub max: f64,
}

impl Spread {
    /// Of `values`; all zero if there are none.
    #[must_use]
    pub fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let (Some(&min), Some(&max)) = (values.first(), values.last()) else {
            return Self { min: 0.0, median: 0.0, max: 0.0 };
        };
        let median = (values[(values.len() - 1) / 2] + values[values.len() / 2]) / 2.0;
        Self { min, median, max }
    }

    fn json(self) -> Value {
        json!({ "min": self.min, "median": self.median, "max": self.max })
    }
}

impl Outcome {
    fn series(&self, lane: &str) -> Option<&Series> {
        self.series.iter().find(|series| series.lane == lane)
    }

    /// CPU time per operation of one lane over that of another, taken within each round.
    #[must_use]
    pub fn ratio(&self, lane: &str, against: &str) -> Option<Spread> {
        let (lane, against) = (self.series(lane)?, self.series(against)?);
        Some(Spread::of(lane.rounds.iter().zip(&against.rounds).map(|(one, other)| one.cpu_us() / other.cpu_us())))
    }

    /// Lanes that others are shown against: the floor and redis where they run, and whatever a need names.
    fn baselines(&self) -> Vec<&str> {
        let named = self.workload.needs.iter().map(|need| need.against.as_str());
        let mut baselines: Vec<&str> = Vec::new();
        for name in ["limit", "redis"].into_iter().chain(named) {
            if self.series(name).is_some() && !baselines.contains(&name) {
                baselines.push(name);
            }
        }
        baselines
    }

    /// The table of this workload and the verdict on its needs.
    #[must_use]
    pub fn markdown(&self) -> String {
        let baselines = self.baselines();
        let mut text = format!("### {}\n\n{}\n\n", self.workload.name, self.workload.summary);
        let heads: String = baselines.iter().map(|name| format!(" × {name} |")).collect();
        let rules: String = baselines.iter().map(|_| "--:|").collect();
        let _ = writeln!(text, "| server | CPU µs/op (min – max) | ops/s | p50 µs | p99 µs | RSS MB |{heads}");
        let _ = writeln!(text, "|---|--:|--:|--:|--:|--:|{rules}");
        for series in &self.series {
            let cpu = Spread::of(series.rounds.iter().map(Measure::cpu_us));
            let rate = Spread::of(series.rounds.iter().map(Measure::per_second)).median;
            let p50 = Spread::of(series.rounds.iter().map(|round| round.p50_ns as f64 / 1000.0)).median;
            let p99 = Spread::of(series.rounds.iter().map(|round| round.p99_ns as f64 / 1000.0)).median;
            let _ = write!(
                text,
                "| {} | {:.3} ({:.3} – {:.3}) | {rate:.0} | {p50:.0} | {p99:.0} | {} |",
                series.lane,
                cpu.median,
                cpu.min,
                cpu.max,
                series.resident_bytes >> 20
            );
            for baseline in &baselines {
                let ratio = self.ratio(&series.lane, baseline).map_or(f64::NAN, |ratio| ratio.median);
                let _ = write!(text, " {ratio:.2} |");
            }
            text.push('\n');
        }
        text.push('\n');
        for need in &self.workload.needs {
            let verdict = match self.ratio(&need.lane, &need.against) {
                None => "not measured".to_owned(),
                Some(ratio) => format!(
                    "{:.3} ({:.3} – {:.3}): **{}**",
                    ratio.median,
                    ratio.min,
                    ratio.max,
                    if ratio.median <= need.at_most { "met" } else { "missed" }
                ),
            };
            let _ = writeln!(text, "- need: {} at most {} × {}: {verdict}", need.lane, need.at_most, need.against);
        }
        for skipped in &self.skipped {
            let _ = writeln!(text, "- left out: {skipped}");
        }
        text
    }

    fn json(&self) -> Value {
        let series = self.series.iter().map(|series| {
            let rounds = series.rounds.iter().map(|round| {
                json!({
                    "operations": round.operations, "elapsed_ns": round.elapsed_ns, "cpu_ns": round.cpu_ns,
                    "p50_ns": round.p50_ns, "p99_ns": round.p99_ns,
                })
            });
            let ratios = self
                .baselines()
                .into_iter()
                .filter_map(|baseline| Some((baseline.to_owned(), self.ratio(&series.lane, baseline)?.json())));
            json!({
                "lane": series.lane, "version": series.version, "resident_bytes": series.resident_bytes,
                "cpu_us_per_operation": Spread::of(series.rounds.iter().map(Measure::cpu_us)).json(),
                "operations_per_second": Spread::of(series.rounds.iter().map(Measure::per_second)).json(),
                "ratio_against": ratios.collect::<serde_json::Map<_, _>>(),
                "rounds": rounds.collect::<Vec<_>>(),
            })
        });
        let needs = self.workload.needs.iter().map(|need| {
            let ratio = self.ratio(&need.lane, &need.against);
            json!({
                "lane": need.lane, "against": need.against, "at_most": need.at_most,
                "ratio": ratio.map(Spread::json), "met": ratio.map(|ratio| ratio.median <= need.at_most),
            })
        });
        let workload = &self.workload;
        json!({
            "workload": workload.name, "summary": workload.summary, "get_percent": workload.get_percent,
            "pipeline": workload.pipeline, "connections": workload.connections, "keys": workload.keys,
            "key_bytes": workload.shape.key_bytes, "value_bytes": workload.shape.value_bytes,
            "lanes": series.collect::<Vec<_>>(), "needs": needs.collect::<Vec<_>>(), "left_out": self.skipped,
        })
    }
}

/// Where and how a run was done.
#[derive(Clone, Debug)]
pub struct Circumstances {
    /// `YYYY-MM-DD`, UTC.
    pub date: String,
    /// Model of the processor.
    pub cpu: String,
    /// Cores of the machine.
    pub cores: usize,
    /// Release of Linux.
    pub kernel: String,
    /// Processes that wanted a core in the minute before the run: above 1 the machine was not ours alone.
    pub load_before: f64,
    /// `git describe` of the tree that was measured.
    pub commit: String,
    /// The command that repeats the run.
    pub command: String,
    /// Rounds, and seconds of each lane in a round.
    pub rounds: usize,
    /// Measured seconds of each lane in each round.
    pub seconds: f64,
}

impl Circumstances {
    /// Of this machine, this tree and this process, which runs the bench of this name.
    #[must_use]
    pub fn here(tree: &Path, binary: &str, cores: usize, rounds: usize, seconds: f64) -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        let loads = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        Self {
            date: date(),
            cpu: model.map_or("unknown processor", |(_, model)| model.trim()).to_owned(),
            cores,
            kernel: kernel.trim().to_owned(),
            load_before: loads.split(' ').next().and_then(|load| load.parse().ok()).unwrap_or(f64::NAN),
            commit: describe(tree),
            command: format!("cargo run --release -p leasehold-benches --bin {binary} -- {}", arguments.join(" ")),
            rounds,
            seconds,
        }
    }

    fn markdown(&self) -> String {
        format!(
            "# {} on {}, {} cores\n\n- commit: `{}`\n- kernel: Linux {}\n- load average before: {}\n- command: `{}`\n- {} rounds of {} s per lane, \
             lanes interleaved; ratios are taken within each round, then the median\n\n",
            self.date,
            self.cpu,
            self.cores,
            self.commit,
            self.kernel,
            self.load_before,
            self.command.trim(),
            self.rounds,
            self.seconds
        )
    }
}

/// Writes `DATE-MACHINE-LABEL.md` and `.json`; an older record of the same name stays, the new one gets a number.
///
/// # Errors
/// What the file system reports.
pub fn write(folder: &Path, label: &str, here: &Circumstances, outcomes: &[Outcome]) -> std::io::Result<PathBuf> {
    let tables: Vec<String> = outcomes.iter().map(Outcome::markdown).collect();
    let json = json!({
        "date": here.date, "cpu": here.cpu, "cores": here.cores, "kernel": here.kernel, "load_before": here.load_before, "commit": here.commit,
        "command": here.command.trim(), "rounds": here.rounds, "seconds": here.seconds,
        "outcomes": outcomes.iter().map(Outcome::json).collect::<Vec<_>>(),
    });
    write_files(folder, label, here, &(here.markdown() + &tables.join("\n")), &json)
}

/// As [`write`], for a bench whose tables are its own and whose rounds say nothing.
///
/// # Errors
/// What the file system reports.
pub fn write_text(
    folder: &Path,
    label: &str,
    here: &Circumstances,
    tables: &str,
    json: &Value,
) -> std::io::Result<PathBuf> {
    let title = format!("# {} on {}, {} cores\n\n", here.date, here.cpu, here.cores);
    let how = format!("- commit: `{}`\n- command: `{}`\n\n", here.commit, here.command.trim());
    write_files(folder, label, here, &(title + &how + tables), json)
}

fn write_files(
    folder: &Path,
    label: &str,
    here: &Circumstances,
    markdown: &str,
    json: &Value,
) -> std::io::Result<PathBuf> {
    let machine = format!("{} {}c", here.cpu, here.cores).to_lowercase().replace(|c: char| !c.is_alphanumeric(), "-");
    let stem = format!("{}-{machine}-{label}", here.date);
    let path = (1..)
        .map(|number| if number == 1 { stem.clone() } else { format!("{stem}-{number}") })
        .map(|stem| folder.join(format!("{stem}.md")))
        .find(|path| !path.exists())
        .expect("some number is free");
    fs::create_dir_all(folder)?;
    fs::write(&path, markdown)?;
    fs::write(path.with_extension("json"), format!("{json:#}\n"))?;
    Ok(path)
}

fn describe(tree: &Path) -> String {
    let output = Command::new("git").arg("-C").arg(tree).args(["describe", "--always", "--dirty", "--tags"]).output();
    match output {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        _ => "unknown".to_owned(),
    }
}

/// Today in UTC. Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`.
fn date() -> String {
    let days = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() / 86_400) as i64;
    let (year, month, day) = civil(days);
    format!("{year:04}-{month:02}-{day:02}")
}

fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(19_782), (2024, 2, 29));
        assert_eq!(civil(20_454), (2026, 1, 1));
    }

    #[test]
    fn spread_takes_the_middle() {
        let spread = Spread::of([3.0, 1.0, 10.0, 2.0].into_iter());
        assert_eq!((spread.min, spread.median, spread.max), (1.0, 2.5, 10.0));
    }
}
