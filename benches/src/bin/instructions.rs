//! Instructions per operation of the hot paths, counted by callgrind: the figure that no neighbour disturbs. What a cache miss costs
//! is not in it.
//!
//! With `--at-most 1.03` a case that takes over 1.03 times what the newest record says ends the bench with an error.

use anyhow::{Context as _, ensure};
use clap::Parser as _;
use leasehold_benches::record::{self, Circumstances};
use leasehold_benches::{OPERATIONS_PER_REPETITION, rival};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;

/// Counts instructions of cases of the bench `micro`; needs valgrind.
#[derive(Debug, clap::Parser)]
struct Arguments {
    /// Print the table and write no record.
    #[arg(long)]
    no_record: bool,
    /// Fail if a case takes more than so many times what the newest record says.
    #[arg(long)]
    at_most: Option<f64>,
}

/// Cases of `micro`.
const CASES: [&str; 7] = [
    "parse GET",
    "parse SET of 32 bytes",
    "read and reply, 1 K keys",
    "read with TTL and reply, 1 K keys",
    "overwrite 32 bytes, 1 K keys",
    "insert with eviction, lru",
    "insert with eviction, tinylfu",
];

/// Repetitions of the two runs; what they differ by is operations alone, without what prepares them.
const REPETITIONS: (u64, u64) = (1, 4);

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let benches = Path::new(env!("CARGO_MANIFEST_DIR"));
    let binary = std::env::current_exe()?.with_file_name("micro");
    ensure!(binary.exists(), "{} is not built: cargo build --release -p leasehold-benches", binary.display());
    let before = newest(&benches.join("records"))?;
    let here = Circumstances::here(benches, "instructions", rival::all_cores().len(), 1, 0.0);
    let mut text = "Instructions per operation, keys and values of 32 bytes, 64 shards.\n\n\
                    | case | instructions | × the record before |\n|---|--:|--:|\n"
        .to_owned();
    let mut figures = BTreeMap::new();
    let mut worse = Vec::new();
    for case in CASES {
        let (few, many) = (count(&binary, case, REPETITIONS.0)?, count(&binary, case, REPETITIONS.1)?);
        let each = many.saturating_sub(few) as f64
            / (OPERATIONS_PER_REPETITION as u64 * (REPETITIONS.1 - REPETITIONS.0)) as f64;
        let ratio = before.get(case).map(|before| each / before);
        let shown = ratio.map_or("–".to_owned(), |ratio| format!("{ratio:.3}"));
        let _ = writeln!(text, "| {case} | {each:.0} | {shown} |");
        if let (Some(ratio), Some(at_most)) = (ratio, arguments.at_most)
            && ratio > at_most
        {
            worse.push(format!("{case}: {ratio:.3}"));
        }
        figures.insert(case, each);
    }
    write!(std::io::stdout().lock(), "{text}")?;
    if !arguments.no_record {
        let path = record::write_text(&benches.join("records"), LABEL, &here, &text, &json!(figures))?;
        writeln!(std::io::stdout().lock(), "\nrecord: {}", path.display())?;
    }
    ensure!(worse.is_empty(), "more instructions than in the newest record: {}", worse.join(", "));
    Ok(())
}

const LABEL: &str = "instructions";

/// All instructions of a run of the case.
fn count(binary: &Path, case: &str, repetitions: u64) -> anyhow::Result<u64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(binary)
        .args(["--case", case, "--repetitions", &repetitions.to_string()])
        .output()
        .context("valgrind is not installed")?;
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{case}: {told}");
    let collected = told.lines().find_map(|line| line.split_once("Collected : "));
    let (_, number) = collected.with_context(|| format!("callgrind tells no number: {told}"))?;
    Ok(number.trim().parse()?)
}

/// What the newest record has for each case; nothing if there is none.
fn newest(records: &Path) -> anyhow::Result<BTreeMap<String, f64>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(records)? {
        let path = entry?.path();
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if let Some((_, number)) = name.rsplit_once(LABEL)
            && path.extension().is_some_and(|extension| extension == "json")
        {
            let date = name[..10].to_owned();
            let number = number.trim_start_matches('-').parse().unwrap_or(1);
            found.push((date, number, path));
        }
    }
    let Some((_, _, path)) =
        found.into_iter().max_by_key(|(date, number, _): &(String, u32, _)| (date.clone(), *number))
    else {
        return Ok(BTreeMap::new());
    };
    let json: Value = serde_json::from_str(&std::fs::read_to_string(path)?)?;
    let cases = json.as_object().context("a record is an object")?;
    Ok(cases.iter().filter_map(|(case, each)| Some((case.clone(), each.as_f64()?))).collect())
}
