//! `conf/leasehold.toml`: every option with its meaning, written from the option table.
//!
//! Each option stands commented out with its default, or an example where it has none, as `#name = value`; explanations
//! begin with `# `. So a file with each `#name` uncommented is a valid configuration, which a test holds true.

use super::options::{AUDITOR, FEED, GROUPS, JOURNAL, LOADER, NODE, SOURCE};
use super::spec::{Change, Default, Kind, Spec};
use std::fmt::Write;

/// Widest line of an explanation.
const WIDTH: usize = 110;

/// The whole file.
pub(crate) fn conf() -> String {
    let mut out = String::new();
    explain(
        &mut out,
        "Leasehold: every option, its meaning and its default. Written by `leasehold --print-config`; a test keeps it true.",
    );
    explain(
        &mut out,
        "To set an option, remove the # before its name. On the command line: --set name=value, --set sources.main.url=…, \
         --set loaders.user.ttl=10m. Options marked \"live\" can be changed by CONFIG SET while the server runs. LOADER RELOAD and SIGHUP \
         read this file again: sources, loaders, feeds and live options become what it says, all of it or nothing.",
    );
    explain(
        &mut out,
        "Sizes: a number of bytes, or 1k = 1000, 1kb = 1024, and so on with m, mb, g, gb. Durations: us, ms, s, m, h, d. \
         `leasehold --conf FILE --check-config` finds every mistake in a file.",
    );
    for group in GROUPS {
        heading(&mut out, group.title);
        for option in group.options {
            entry(&mut out, option);
        }
    }
    heading(&mut out, "Sources: the databases that loaders ask");
    out.push_str("#[sources.main]\n");
    for option in SOURCE {
        entry(&mut out, option);
    }
    heading(&mut out, "Loaders: which keys come from which query");
    out.push_str("#[loaders.user]\n");
    for option in LOADER {
        entry(&mut out, option);
    }
    heading(&mut out, "Feeds: how databases tell what has changed");
    out.push_str("#[feeds.users]\n");
    for option in FEED {
        entry(&mut out, option);
    }
    heading(&mut out, "The journal: where writes that are behind wait for their source");
    out.push_str("#[journal]\n");
    for option in JOURNAL {
        entry(&mut out, option);
    }
    heading(&mut out, "The auditor: whether the cache is what the sources are");
    out.push_str("#[auditor]\n");
    for option in AUDITOR {
        entry(&mut out, option);
    }
    heading(&mut out, "Nodes: who shares the keys");
    out.push_str("#[nodes.main]\n");
    for option in NODE {
        entry(&mut out, option);
    }
    out
}

fn heading(out: &mut String, title: &str) {
    let _ = write!(out, "\n\n# ---- {title} ----\n");
}

fn entry<T: 'static>(out: &mut String, option: &Spec<T>) {
    out.push('\n');
    explain(out, option.doc);
    let mut facts = String::new();
    match option.kind {
        // Their doc says all there is to say.
        Kind::Text
        | Kind::Sql
        | Kind::Secret
        | Kind::SecretLines
        | Kind::SecretFile
        | Kind::Script
        | Kind::Path
        | Kind::Lines => {}
        kind => {
            let _ = write!(facts, "Allowed: {}. ", kind.allowed());
        }
    }
    match option.default {
        Default::Required { .. } => facts.push_str("Must be set. "),
        Default::Absent { .. } => facts.push_str("Not set by default. "),
        Default::Text(_) => {}
    }
    if option.change == Change::Live {
        facts.push_str("Live. ");
    }
    if !facts.is_empty() {
        explain(out, facts.trim_end());
    }
    match option.default {
        Default::Text(text) => {
            let _ = writeln!(out, "#{} = {}", option.name, toml_value(&option.kind, text));
        }
        // These stand for another option, or need a file: an example is all the file can show.
        Default::Absent { example } if matches!(option.kind, Kind::SecretFile | Kind::Script) => {
            let _ = writeln!(out, "# Example: {} = {example:?}", option.name);
        }
        Default::Absent { example } if matches!(option.kind, Kind::Integer { .. }) => {
            let _ = writeln!(out, "#{} = {example}", option.name);
        }
        Default::Absent { example } | Default::Required { example } => {
            let _ = writeln!(out, "#{} = {example:?}", option.name);
        }
    }
}

/// The default as it stands in a file.
fn toml_value(kind: &Kind, text: &str) -> String {
    let quoted = |words: Vec<&str>| {
        let words: Vec<String> = words.into_iter().map(|word| format!("{word:?}")).collect();
        format!("[{}]", words.join(", "))
    };
    match kind {
        Kind::Lines => quoted(text.lines().collect()),
        Kind::Addresses => quoted(text.split_whitespace().collect()),
        Kind::Ratio { .. } => text.to_owned(),
        _ if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) => text.to_owned(),
        _ => format!("{text:?}"),
    }
}

/// A comment, wrapped at words.
fn explain(out: &mut String, text: &str) {
    let mut line = String::from("#");
    for word in text.split_whitespace() {
        if line.chars().count() + 1 + word.chars().count() > WIDTH {
            out.push_str(&line);
            out.push('\n');
            line = String::from("#");
        }
        line.push(' ');
        line.push_str(word);
    }
    out.push_str(&line);
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse::{Given, read};
    use std::path::{Path, PathBuf};

    fn shipped() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../conf/leasehold.toml")
    }

    #[test]
    fn the_shipped_file_is_what_the_table_says() {
        let file = std::fs::read_to_string(shipped()).expect("conf/leasehold.toml is there");
        assert!(
            file.trim_end() == conf().trim_end(),
            "conf/leasehold.toml is stale; refresh it with: cargo run -- --print-config > conf/leasehold.toml"
        );
    }

    #[test]
    fn the_shipped_file_is_valid_and_sets_nothing() {
        let reading = read(&Given { conf: Some(shipped()), arguments: Vec::new() });
        assert_eq!(reading.problems, []);
        assert_eq!(format!("{:?}", reading.config), format!("{:?}", crate::config::Config::default()));
    }

    #[test]
    fn the_shipped_file_is_valid_with_every_option_uncommented() {
        let option = |line: &str| line.starts_with('#') && !line.starts_with("# ") && line.len() > 1;
        let lines: Vec<String> =
            conf().lines().map(|line| if option(line) { line[1..].to_owned() } else { line.to_owned() }).collect();
        let path = std::env::temp_dir().join(format!("leasehold-uncommented-{}.toml", std::process::id()));
        std::fs::write(&path, lines.join("\n")).expect("written");
        let reading = read(&Given { conf: Some(path.clone()), arguments: Vec::new() });
        std::fs::remove_file(&path).expect("removed");
        // Which node it is stays open.
        let said: Vec<&str> = reading.problems.iter().map(|problem| problem.text.as_str()).collect();
        assert_eq!(said, ["does nothing: without node = \"NAME\" this process is alone"]);
        assert_eq!(reading.config.nodes.len(), 1);
        assert_eq!((reading.config.sources.len(), reading.config.loaders.len(), reading.config.feeds.len()), (1, 1, 1));
        let defaults = crate::config::Config::default();
        assert_eq!(format!("{:?}", reading.config.live), format!("{:?}", defaults.live));
    }
}
