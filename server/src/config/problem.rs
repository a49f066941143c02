//! A mistake in the configuration: where it is, which option, what is wrong, what is allowed.
//!
//! Printed as compilers print, `file:line:column: option: …` with the line and a caret below, so that editors find the
//! place. A line that may hold a secret is never printed.

use super::options;
use super::spec::Kind;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// One mistake, or something that is allowed and probably not meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    pub level: Level,
    pub place: Place,
    /// As one would write it with `--set`: `timeout`, `loaders.user.ttl`. Empty for mistakes in the file's syntax.
    pub option: String,
    /// What is wrong, and what is allowed.
    pub text: String,
}

/// Whether the server can start with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    Error,
    Warning,
}

/// Where a value was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Bytes of a file.
    File { file: Arc<File>, span: Range<usize> },
    /// An argument, without its value if that is secret.
    Argument(String),
    /// Nobody gave it.
    Default,
}

/// A configuration file.
#[derive(PartialEq, Eq)]
pub(crate) struct File {
    /// As it was named on the command line.
    pub path: String,
    pub text: String,
}

impl fmt::Debug for File {
    /// Its text may hold secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::File { file, span } => {
                let (line, column) = position(&file.text, span.start);
                write!(f, "{}:{line}:{column}: ", file.path)?;
            }
            Place::Argument(argument) => write!(f, "{argument}: ")?,
            Place::Default => {}
        }
        if self.level == Level::Warning {
            f.write_str("warning: ")?;
        }
        if !self.option.is_empty() {
            write!(f, "{}: ", self.option)?;
        }
        f.write_str(&self.text)?;
        if let Place::File { file, span } = &self.place {
            excerpt(f, &file.text, span)?;
        }
        Ok(())
    }
}

/// Line and column of a byte, both from 1; the column counts characters.
fn position(text: &str, at: usize) -> (usize, usize) {
    let before = &text[..floor(text, at)];
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

/// The line of the span with a caret below each of its characters.
fn excerpt(f: &mut fmt::Formatter<'_>, text: &str, span: &Range<usize>) -> fmt::Result {
    /// A longer line would drown the message.
    const LINE_CHARS_MAX: usize = 160;
    let start = floor(text, span.start);
    let line_start = text[..start].rfind('\n').map_or(0, |newline| newline + 1);
    let line_end = text[start..].find('\n').map_or(text.len(), |newline| start + newline);
    let line = text[line_start..line_end].trim_end_matches('\r');
    if line.trim().is_empty() || line.chars().count() > LINE_CHARS_MAX || may_hold_secret(line) {
        return Ok(());
    }
    let (number, _) = position(text, start);
    let margin = " ".repeat(number.to_string().len());
    // Tabs stay tabs, so that the caret stands below its character however wide a tab is.
    let indent: String = text[line_start..start].chars().map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
    let end = floor(text, span.end).clamp(start, line_start + line.len().max(start - line_start));
    let carets = "^".repeat(text[start..end].chars().count().max(1));
    write!(f, "\n {number} | {line}\n {margin} | {indent}{carets}")
}

/// Whether the line sets a secret option, or holds what looks like a URL with a password.
fn may_hold_secret(line: &str) -> bool {
    let secret_option = |name: &str| {
        line.match_indices(name).any(|(at, _)| {
            let rest = line[at + name.len()..].trim_start_matches(['"', '\'', ' ', '\t']);
            rest.starts_with('=') && !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '-')
        })
    };
    secret_names().any(secret_option) || (line.contains("://") && line.contains('@'))
}

/// The options whose values are secret.
fn secret_names() -> impl Iterator<Item = &'static str> {
    let server = options::server_options().map(|option| (option.name, option.kind));
    let source = options::SOURCE.iter().map(|option| (option.name, option.kind));
    let loader = options::LOADER.iter().map(|option| (option.name, option.kind));
    server.chain(source).chain(loader).filter(|(_, kind)| matches!(kind, Kind::Secret)).map(|(name, _)| name)
}

/// The byte, or the start of the character it is in.
fn floor(text: &str, at: usize) -> usize {
    text.floor_char_boundary(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str, marked: &str) -> String {
        let start = text.find(marked).expect("the mark is in the text");
        let file = Arc::new(File { path: "x.toml".to_owned(), text: text.to_owned() });
        let place = Place::File { file, span: start..start + marked.len() };
        Problem { level: Level::Error, place, option: "port".to_owned(), text: "is wrong".to_owned() }.to_string()
    }

    #[test]
    fn a_problem_points_at_its_characters() {
        assert_eq!(
            shown("# ü\n\tport = \"äö\" # x\r\nb = 1", "\"äö\""),
            "x.toml:2:9: port: is wrong\n 2 | \tport = \"äö\" # x\n   | \t       ^^^^"
        );
        assert_eq!(shown("a = [\n1,\n2]", "[\n1"), "x.toml:1:5: port: is wrong\n 1 | a = [\n   |     ^");
    }

    #[test]
    fn a_place_past_the_end_is_the_end() {
        let file = Arc::new(File { path: "x.toml".to_owned(), text: "port = ".to_owned() });
        let place = Place::File { file, span: 90..99 };
        let problem = Problem { level: Level::Warning, place, option: String::new(), text: "is wrong".to_owned() };
        assert_eq!(problem.to_string(), "x.toml:1:8: warning: is wrong\n 1 | port = \n   |        ^");
    }

    #[test]
    fn a_line_with_a_secret_is_not_printed() {
        for line in [
            "requirepass = \"hunter2\"",
            "\"requirepass\"= 'hunter2'",
            "sources.main.url=\"hunter2\"",
            "main = { max = 1, url = \"hunter2\" }",
            "x = \"postgres://me:hunter2@host/db\"",
        ] {
            assert!(!shown(line, "=").contains("hunter2"), "{line}");
        }
        assert!(shown("curl = \"shown\"", "=").contains("shown"));
    }
}
