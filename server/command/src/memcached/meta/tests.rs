//! Meta commands against what memcached's `doc/protocol.txt` says and 1.6.45 answers, and leases through all fronts at once.

use crate::testing::Node;
use std::collections::BTreeMap;

mod flags;
mod loaders;
mod machine;

/// Plays transcripts: lines that are sent, the replies that must come, and names for numbers in them.
///
/// ```text
/// m> mg k N30 v c          memcached's protocol; `|` is CR LF, the last one is understood
/// m< VA 0 c{t} W||         the reply; `{t}` is a number that gets this name
/// r> SETL k {t} v          RESP; `{t}` is that number
/// r< +STORED|
/// +1000ms                  time passes
/// # words for the reader
/// ```
#[derive(Default)]
pub(super) struct Player {
    names: BTreeMap<String, String>,
}

impl Player {
    pub(super) fn play(&mut self, node: &mut Node, transcript: &str) {
        let mut reply = String::new();
        for line in transcript.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            if let Some(ms) = line.strip_prefix('+').and_then(|line| line.strip_suffix("ms")) {
                pass_ms(node, ms.parse().expect("a number"));
                continue;
            }
            let (mark, text) = line.split_once(' ').unwrap_or((line, ""));
            match mark {
                "m>" | "r>" => {
                    assert_eq!(reply, "", "the reply before {line}");
                    let text = self.fill_in(text);
                    reply = if mark == "m>" { memcached(node, &text) } else { node.run(&text).replace("\r\n", "|") };
                }
                "m<" | "r<" => self.expect(&std::mem::take(&mut reply), text, transcript),
                other => panic!("no such mark: {other}"),
            }
        }
        assert_eq!(reply, "", "the last reply of {transcript}");
    }

    /// The number of this name.
    pub(super) fn number(&self, name: &str) -> &str {
        self.names.get(name).unwrap_or_else(|| panic!("no number is named {name}"))
    }

    /// Replaces names by their numbers.
    pub(super) fn fill_in(&self, text: &str) -> String {
        self.names.iter().fold(text.to_owned(), |text, (name, number)| text.replace(&format!("{{{name}}}"), number))
    }

    #[track_caller]
    pub(super) fn expect(&mut self, reply: &str, expected: &str, transcript: &str) {
        let (mut left, mut rest) = (reply, self.fill_in(expected));
        while let Some((before, behind)) = rest.clone().split_once('{') {
            let (name, after) = behind.split_once('}').expect("a name ends");
            let found =
                left.strip_prefix(before).unwrap_or_else(|| panic!("{reply} is not {expected} in {transcript}"));
            let digits = found.find(|character: char| !character.is_ascii_digit()).unwrap_or(found.len());
            assert!(digits > 0, "{reply} is not {expected} in {transcript}");
            self.names.insert(name.to_owned(), found[..digits].to_owned());
            left = &found[digits..];
            rest = self.fill_in(after);
        }
        assert_eq!(left, rest, "{reply} is not {expected} in {transcript}");
    }
}

/// Sends lines with `|` for CR LF, and gives the replies in the same form.
pub(super) fn memcached(node: &mut Node, text: &str) -> String {
    node.talk(format!("{text}|").replace('|', "\r\n")).replace("\r\n", "|")
}

pub(super) fn pass_ms(node: &mut Node, ms: u64) {
    node.advance_ms(ms);
    node.keyspace.sweep_leases(&mut node.turn, 0..node.keyspace.shards());
}
