//! The README's command table, from the one table; a test of the README compares.

use crate::memcached::VERBS;
use crate::spec::{Group, Spec};
use crate::table::TABLE;
use crate::usage::usage;

/// Markdown: a heading and a table of usage, summary and origin for each group, containers by their subcommands.
#[must_use]
pub fn readme_table() -> String {
    const GROUPS: [(Group, &str); 8] = [
        (Group::Lease, "Leases"),
        (Group::Loader, "Loaders"),
        (Group::String, "Strings"),
        (Group::Bitmap, "Bitmaps"),
        (Group::Generic, "Keys"),
        (Group::Connection, "Connection"),
        (Group::Server, "Server"),
        (Group::Cluster, "Cluster"),
    ];
    let mut text = String::new();
    for (group, title) in GROUPS {
        let rows: Vec<String> = TABLE.iter().filter(|spec| spec.group == group).flat_map(|spec| rows(spec)).collect();
        if rows.is_empty() {
            continue;
        }
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(&format!("### {title}\n\n| command | what it does | since |\n|---|---|---|\n"));
        rows.iter().for_each(|row| text.push_str(row));
    }
    text.push_str("\n### memcached\n\n| command | what it does | since |\n|---|---|---|\n");
    for verb in VERBS {
        let usage = format!("{} {}", verb.name, verb.usage).trim_end().replace('|', "\\|");
        text.push_str(&format!("| `{usage}` | {} | memcached |\n", verb.summary));
    }
    text
}

fn rows(spec: &Spec) -> Vec<String> {
    let own = (spec.subcommands.is_empty() || crate::table::arity_accepts(spec.arity, 1)).then(|| row("", spec));
    let container = format!("{} ", spec.name.to_ascii_uppercase());
    let inner = spec.subcommands.iter().filter(|subcommand| subcommand.name != "help");
    own.into_iter().chain(inner.map(|subcommand| row(&container, subcommand))).collect()
}

fn row(container: &str, spec: &Spec) -> String {
    // A bar would end the cell.
    let usage = format!("{container}{}", usage(spec)).replace('|', "\\|");
    format!("| `{usage}` | {} | {} |\n", spec.summary.replace('|', "\\|"), spec.since)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The README's part between two comments, or with `UPDATE_README=1` what becomes of it.
    #[test]
    fn the_readme_has_this_table() {
        const BEGIN: &str = "<!-- commands: generated, UPDATE_README=1 cargo test -p leasehold-command readme -->\n";
        const END: &str = "<!-- commands: end -->\n";
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../README.md");
        let readme = std::fs::read_to_string(path).expect("the README lies at the root of the repository");
        let (before, rest) = readme.split_once(BEGIN).expect("the README marks where the table begins");
        let (table, after) = rest.split_once(END).expect("the README marks where the table ends");
        if std::env::var_os("UPDATE_README").is_some() {
            std::fs::write(path, format!("{before}{BEGIN}{}{END}{after}", readme_table())).expect("may be written");
        } else {
            assert!(
                table == readme_table(),
                "the README's command table is old; its first comment says how to renew it"
            );
        }
    }

    #[test]
    fn every_command_has_a_row_of_three_cells() {
        let text = readme_table();
        for spec in TABLE.iter().filter(|spec| spec.subcommands.is_empty()) {
            assert!(text.contains(&format!("| `{}", spec.name.to_ascii_uppercase())), "{}", spec.name);
        }
        for line in text.lines().filter(|line| line.starts_with('|')) {
            assert_eq!(line.replace("\\|", "").matches('|').count(), 4, "{line}");
        }
    }
}
