//! The keys of `[auditor]`.

use super::super::AuditorConfig;
use super::super::spec::{Change, Default, Kind, Spec, Value};
use super::integer;

const YES_NO: &[&str] = &["no", "yes"];

/// The keys of `[auditor]`.
pub(crate) const AUDITOR: &[Spec<AuditorConfig>] = &[
    Spec {
        name: "rate",
        kind: integer(1, 10_000),
        default: Default::Text("10"),
        change: Change::Start,
        doc: "With an [auditor], so many entries a second are compared with their sources: those that have just changed, and others by chance. \
              Each source is asked by at most so many queries a second, one at a time, behind loads that somebody waits for.",
        write: |auditor, value| auditor.rate = value.u32(),
        read: |auditor| Value::Integer(auditor.rate.into()),
    },
    Spec {
        name: "after",
        kind: Kind::Lines,
        default: Default::Text("1s\n1m"),
        change: Change::Start,
        doc: "How long an entry must have differed from its source to be reported: up to 4 durations from 100ms to 1d, each longer than the \
              one before. AUDIT STATS counts by each of them.",
        write: |auditor, value| auditor.after = value.lines(),
        read: |auditor| Value::Lines(auditor.after.clone()),
    },
    Spec {
        name: "exclude",
        kind: Kind::Lines,
        default: Default::Absent { example: "user" },
        change: Change::Start,
        doc: "Loaders that are not audited, as the same row does not always give the same value: now(), a random order.",
        write: |auditor, value| auditor.exclude = value.lines(),
        read: |auditor| if auditor.exclude.is_empty() { Value::Absent } else { Value::Lines(auditor.exclude.clone()) },
    },
    Spec {
        name: "max_keys",
        kind: integer(100, 1_000_000),
        default: Default::Text("10000"),
        change: Change::Start,
        doc: "Keys whose last 16 changes and comparisons are remembered, to be shown with a violation; about 1 kb each.",
        write: |auditor, value| auditor.keys_max = value.usize(),
        read: |auditor| Value::from_usize(auditor.keys_max),
    },
    Spec {
        name: "max_violations",
        kind: integer(1, 10_000),
        default: Default::Text("100"),
        change: Change::Start,
        doc: "Violations that AUDIT LIST shows: the last ones.",
        write: |auditor, value| auditor.violations_max = value.usize(),
        read: |auditor| Value::from_usize(auditor.violations_max),
    },
    Spec {
        name: "show_values",
        kind: Kind::Choice(YES_NO),
        default: Default::Text("no"),
        change: Change::Start,
        doc: "Whether AUDIT LIST shows values of up to 64 bytes, of the cache and of the source. Their lengths and digests are shown anyway; the \
              log has neither.",
        write: |auditor, value| auditor.shows_values = value.choice(&[false, true]),
        read: |auditor| Value::from_choice(&[false, true], auditor.shows_values),
    },
];
