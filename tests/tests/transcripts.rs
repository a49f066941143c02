//! Every file in `tests/transcripts`, in every setting it runs in.
//!
//! `TRANSCRIPT=word` runs only the files whose name contains the word.

use leasehold_tests::transcript::{Place, Setting, Transcript, run};
use leasehold_tests::{Postgres, groups};
use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// Runs wait more than they work.
const RUNS_AT_ONCE: usize = 24;

#[test]
fn transcripts_hold_in_simulated_time() {
    check(&settings(Place::Simulated), None);
}

#[test]
fn transcripts_hold_over_real_sockets() {
    leasehold_tests::server::binary();
    let postgres = Postgres::shared("transcripts with loaders over real sockets");
    check(&settings(Place::Real), postgres.as_deref());
}

#[test]
fn transcripts_of_redis_commands_hold_for_redis_server() {
    if groups::program_for("transcripts against redis-server", "redis-server").is_some() {
        let setting = |version| Setting { place: Place::Redis, version, shards: 1 };
        check(&[setting(2), setting(3)], None);
    }
}

fn settings(place: Place) -> Vec<Setting> {
    let mut settings = Vec::new();
    for version in [2, 3] {
        for shards in [1, 16] {
            settings.push(Setting { place, version, shards });
        }
    }
    settings
}

fn check(settings: &[Setting], postgres: Option<&Postgres>) {
    let transcripts = read();
    let mut runs = VecDeque::new();
    for transcript in &transcripts {
        runs.extend(
            settings.iter().filter(|setting| transcript.runs_in(**setting)).map(|setting| (transcript, *setting)),
        );
    }
    assert!(!runs.is_empty(), "no transcript runs in {settings:?}");
    let count = runs.len();
    let runs = Mutex::new(runs);
    let failures = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..RUNS_AT_ONCE {
            scope.spawn(|| {
                loop {
                    let next = runs.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                    let Some((transcript, setting)) = next else { return };
                    let ended = std::panic::catch_unwind(|| run(transcript, setting, postgres));
                    let failure = match ended {
                        Ok(Ok(())) => continue,
                        Ok(Err(failure)) => failure.text,
                        Err(_) => format!("{}: {setting}: panicked, see above", transcript.name),
                    };
                    failures.lock().unwrap_or_else(PoisonError::into_inner).push(failure);
                }
            });
        }
    });
    let mut failures = failures.into_inner().unwrap_or_else(PoisonError::into_inner);
    failures.sort();
    assert!(failures.is_empty(), "{} of {count} runs failed:\n{}", failures.len(), failures.join("\n"));
}

fn read() -> Vec<Transcript> {
    let wanted = std::env::var("TRANSCRIPT").unwrap_or_default();
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("transcripts");
    let mut transcripts = Vec::new();
    for file in std::fs::read_dir(directory).expect("tests/transcripts exists").flatten() {
        let path = file.path();
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if path.extension().is_some_and(|extension| extension == "txt") && name.contains(&wanted) {
            let text = std::fs::read_to_string(&path).expect("a transcript can be read");
            transcripts.push(Transcript::parse(&name, &text).unwrap_or_else(|error| panic!("{error}")));
        }
    }
    transcripts.sort_by(|a, b| a.name.cmp(&b.name));
    transcripts
}
