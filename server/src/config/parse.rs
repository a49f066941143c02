//! From text to settings: the file, then `--set`, then the named arguments; later ones win.
//!
//! Reading never stops at a mistake: each is kept with its place, and the rest is read on. So a run of `--check-config`
//! tells everything that is wrong. Nothing is guessed: an unknown name is an error, with the nearest known one.

use super::options::{self, AUDITOR, FEED, JOURNAL, LOADER, NODE, SOURCE};
use super::problem::{File, Level, Place, Problem};
use super::spec::{Default, Kind, Spec, Value, Wrong};
use super::{Config, check};
use std::collections::HashMap;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// What was given, before it is read.
#[derive(Clone, Debug, Default)]
pub(crate) struct Given {
    /// The configuration file, if any.
    pub conf: Option<PathBuf>,
    /// Options from the command line, in the order in which they take effect.
    pub arguments: Vec<Argument>,
}

/// One option from the command line.
#[derive(Clone, Debug)]
pub(crate) struct Argument {
    /// `--set` or `--port`, for messages.
    pub flag: String,
    /// `timeout`, `sources.main.url`.
    pub name: String,
    pub value: String,
}

/// What reading made of it.
pub(crate) struct Reading {
    /// Whole even with mistakes; only to be used if there is none.
    pub config: Config,
    /// In the order of the file, then of the command line.
    pub problems: Vec<Problem>,
    pub places: Places,
}

impl Reading {
    /// Whether the server cannot start with it.
    pub(crate) fn has_errors(&self) -> bool {
        self.problems.iter().any(|problem| problem.level == Level::Error)
    }
}

/// Where each option was set, for mistakes that show later.
#[derive(Clone, Debug, std::default::Default)]
pub(crate) struct Places {
    by_option: HashMap<(Section, String), Place>,
    by_section: HashMap<Section, Place>,
}

impl Places {
    /// The place of an option, or of its section, if it was left to its default.
    pub(crate) fn of(&self, section: &Section, option: &str) -> Place {
        let set = self.by_option.get(&(section.clone(), option.to_owned()));
        set.or_else(|| self.by_section.get(section)).cloned().unwrap_or(Place::Default)
    }

    /// Whether somebody set the option.
    pub(crate) fn is_set(&self, section: &Section, option: &str) -> bool {
        self.by_option.contains_key(&(section.clone(), option.to_owned()))
    }
}

/// Whose option it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Section {
    Server,
    Source(String),
    Loader(String),
    Feed(String),
    Node(String),
    Journal,
    Auditor,
}

impl Section {
    /// The option as `--set` names it.
    pub(crate) fn qualified(&self, option: &str) -> String {
        let dot = if option.is_empty() { "" } else { "." };
        match self {
            Self::Server => option.to_owned(),
            Self::Source(name) => format!("sources.{name}{dot}{option}"),
            Self::Loader(name) => format!("loaders.{name}{dot}{option}"),
            Self::Feed(name) => format!("feeds.{name}{dot}{option}"),
            Self::Node(name) => format!("nodes.{name}{dot}{option}"),
            Self::Journal => format!("journal{dot}{option}"),
            Self::Auditor => format!("auditor{dot}{option}"),
        }
    }
}

/// Reads everything that was given.
pub(crate) fn read(given: &Given) -> Reading {
    let mut reader = Reader { config: Config::default(), problems: Vec::new(), places: Places::default() };
    if let Some(path) = &given.conf {
        reader.file(path);
    }
    for argument in &given.arguments {
        reader.argument(argument);
    }
    reader.required();
    let Reader { config, mut problems, places } = reader;
    check::between(&config, &places, &mut problems);
    // As the file has them; those of the command line follow.
    problems.sort_by_key(|problem| match &problem.place {
        Place::File { span, .. } => (0, span.start),
        Place::Argument(_) | Place::Default => (1, 0),
    });
    Reading { config, problems, places }
}

struct Reader {
    config: Config,
    problems: Vec<Problem>,
    places: Places,
}

/// A value as it was written.
enum Written<'a> {
    /// Of the file.
    Toml(&'a DeValue<'a>),
    /// Of the command line.
    Text(&'a str),
}

impl Reader {
    fn problem(&mut self, place: Place, option: String, text: String) {
        self.problems.push(Problem { level: Level::Error, place, option, text });
    }

    fn file(&mut self, path: &Path) {
        let shown = path.display().to_string();
        let text = match read_text(path) {
            Ok(text) => text,
            Err(reason) => return self.problem(Place::Argument(shown), String::new(), reason),
        };
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        let file = Arc::new(File { path: shown, text });
        let (table, syntax) = DeTable::parse_recoverable(&file.text);
        let mut broken_lines = Vec::new();
        for error in syntax {
            let span = error.span().unwrap_or(file.text.len()..file.text.len());
            broken_lines.push(line_of(&file.text, span.start));
            let place = Place::File { file: Arc::clone(&file), span };
            self.problem(place, String::new(), format!("is not TOML: {}", error.message()));
        }
        let document = Document { file: Arc::clone(&file), folder, broken_lines };
        self.top(&document, table.get_ref());
    }

    fn top(&mut self, document: &Document, table: &DeTable<'_>) {
        for (key, value) in in_order(table) {
            let name: &str = key.get_ref();
            match name {
                "sources" | "loaders" | "feeds" | "nodes" => self.sections(document, name, key, value),
                "journal" => self.single(document, &Section::Journal, key, value),
                "auditor" => self.single(document, &Section::Auditor, key, value),
                _ => self.option(document, &Section::Server, key, value),
            }
        }
    }

    /// All of `[journal]` or `[auditor]`.
    fn single(&mut self, document: &Document, section: &Section, key: &Spanned<Key<'_>>, value: &Spanned<DeValue<'_>>) {
        let place = document.place(key.span());
        let DeValue::Table(options) = value.get_ref() else {
            let name = section.qualified("");
            let text = format!("must be a table; write [{name}] and its options below");
            return self.problem(place, name, text);
        };
        self.config.auditor.is_on |= *section == Section::Auditor;
        self.places.by_section.entry(section.clone()).or_insert(place);
        for (key, value) in in_order(options) {
            self.option(document, section, key, value);
        }
    }

    /// All of `[sources]`, `[loaders]`, `[feeds]` or `[nodes]`.
    fn sections(&mut self, document: &Document, group: &str, key: &Spanned<Key<'_>>, value: &Spanned<DeValue<'_>>) {
        let DeValue::Table(table) = value.get_ref() else {
            let text = format!("must be tables; write [{group}.NAME] and its options below");
            return self.problem(document.place(key.span()), group.to_owned(), text);
        };
        for (key, value) in in_order(table) {
            let name: &str = key.get_ref();
            let place = document.place(key.span());
            let DeValue::Table(options) = value.get_ref() else {
                let text = format!("must be a table; write [{group}.{name}] and its options below");
                self.problem(place, format!("{group}.{name}"), text);
                continue;
            };
            let Some(section) = self.enter(group, name, place) else { continue };
            for (key, value) in in_order(options) {
                self.option(document, &section, key, value);
            }
        }
    }

    /// Makes the source, loader, feed or node, if it is not there yet.
    fn enter(&mut self, group: &str, name: &str, place: Place) -> Option<Section> {
        const NAME_BYTES_MAX: usize = 64;
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.bytes().all(fits) {
            let text = format!("{name:?} is no name; allowed: 1 to {NAME_BYTES_MAX} letters, digits, \"_\" and \"-\"");
            self.problem(place, group.to_owned(), text);
            return None;
        }
        let section = if group == "sources" {
            if !self.config.sources.iter().any(|source| source.name == name) {
                self.config.sources.push(options::source_named(name));
            }
            Section::Source(name.to_owned())
        } else if group == "feeds" {
            if !self.config.feeds.iter().any(|feed| feed.settings.name == name) {
                self.config.feeds.push(options::feed_named(name));
            }
            Section::Feed(name.to_owned())
        } else if group == "nodes" {
            if !self.config.nodes.iter().any(|node| node.name == name) {
                self.config.nodes.push(options::node_named(name));
            }
            Section::Node(name.to_owned())
        } else {
            if !self.config.loaders.iter().any(|loader| loader.settings.name == name) {
                self.config.loaders.push(options::loader_named(name));
            }
            Section::Loader(name.to_owned())
        };
        self.places.by_section.entry(section.clone()).or_insert(place);
        Some(section)
    }

    /// One option of the file.
    fn option(&mut self, document: &Document, section: &Section, key: &Spanned<Key<'_>>, value: &Spanned<DeValue<'_>>) {
        let (name, span): (&str, _) = (key.get_ref(), value.span());
        // What a broken line seems to say is no mistake of its own.
        if document.is_broken(key.span().start) || document.is_broken(span.start) {
            return;
        }
        if let Err(text) = known(section, name) {
            return self.problem(document.place(key.span()), section.qualified(name), text);
        }
        let source_text = document.file.text.get(span.clone()).unwrap_or_default();
        let place = document.place(span);
        let origin = Origin { folder: &document.folder, place, source_text };
        self.apply(section, name, Written::Toml(value.get_ref()), &origin);
    }

    /// One option of the command line.
    fn argument(&mut self, argument: &Argument) {
        let Argument { flag, name, value } = argument;
        let named = if flag == "--set" { format!("--set {name}") } else { flag.clone() };
        let (section, option) = match name.split_once('.') {
            None => (Section::Server, name.as_str()),
            Some((group @ ("sources" | "loaders" | "feeds" | "nodes"), rest)) => {
                let place = Place::Argument(named.clone());
                let Some((section_name, option)) = rest.split_once('.') else {
                    let text = format!("is not complete; write {group}.NAME.OPTION=VALUE");
                    return self.problem(place, String::new(), text);
                };
                match self.enter(group, section_name, place) {
                    Some(section) => (section, option),
                    None => return,
                }
            }
            Some(("journal", option)) => (Section::Journal, option),
            Some(("auditor", option)) => {
                self.config.auditor.is_on = true;
                (Section::Auditor, option)
            }
            Some((group, _)) => {
                let text = format!(
                    "{group:?} is no group of options; allowed: \"sources\", \"loaders\", \"feeds\", \"nodes\", \"journal\", \"auditor\""
                );
                return self.problem(Place::Argument(named), String::new(), text);
            }
        };
        if let Err(text) = known(&section, option) {
            return self.problem(Place::Argument(named), section.qualified(option), text);
        }
        let quoted = format!("{value:?}");
        let origin = Origin { folder: Path::new(""), place: Place::Argument(named), source_text: &quoted };
        self.apply(&section, option, Written::Text(value), &origin);
    }

    /// Reads the value of a known option and puts it in its place.
    fn apply(&mut self, section: &Section, name: &str, written: Written<'_>, origin: &Origin<'_>) {
        let result = match section {
            Section::Server => set_from(options::server_options(), name, &mut self.config, &written, origin.folder),
            Section::Source(source) => {
                let source = self.config.sources.iter_mut().find(|known| known.name == *source);
                source.and_then(|source| set_from(SOURCE.iter(), name, source, &written, origin.folder))
            }
            Section::Loader(loader) => {
                let loader = self.config.loaders.iter_mut().find(|known| known.settings.name == *loader);
                loader.and_then(|loader| set_from(LOADER.iter(), name, loader, &written, origin.folder))
            }
            Section::Feed(feed) => {
                let feed = self.config.feeds.iter_mut().find(|known| known.settings.name == *feed);
                feed.and_then(|feed| set_from(FEED.iter(), name, feed, &written, origin.folder))
            }
            Section::Node(node) => {
                let node = self.config.nodes.iter_mut().find(|known| known.name == *node);
                node.and_then(|node| set_from(NODE.iter(), name, node, &written, origin.folder))
            }
            Section::Journal => set_from(JOURNAL.iter(), name, &mut self.config.journal, &written, origin.folder),
            Section::Auditor => set_from(AUDITOR.iter(), name, &mut self.config.auditor, &written, origin.folder),
        };
        self.places.by_option.insert((section.clone(), name.to_owned()), origin.place.clone());
        if let Some(Err((kind, wrong))) = result {
            let text = wrong_text(&kind, &wrong, origin.source_text);
            self.problem(origin.place.clone(), section.qualified(name), text);
        }
    }

    /// Options that must be set and are not.
    fn required(&mut self) {
        let mut missing = Vec::new();
        let loaders = self.config.loaders.iter().map(|loader| Section::Loader(loader.settings.name.clone()));
        let feeds = self.config.feeds.iter().map(|feed| Section::Feed(feed.settings.name.clone()));
        let nodes = self.config.nodes.iter().map(|node| Section::Node(node.name.clone()));
        for section in loaders.chain(feeds).chain(nodes) {
            for (name, example) in required_of(&section) {
                if !self.places.is_set(&section, name) {
                    missing.push((section.clone(), name, format!("is missing; for example: {name} = {example:?}")));
                }
            }
        }
        for source in &self.config.sources {
            let section = Section::Source(source.name.clone());
            if !self.places.is_set(&section, "url") && !self.places.is_set(&section, "url_file") {
                let text =
                    "is missing; write url = \"postgres://…\", \"mysql://…\" or \"sqlite:…\", or url_file = \"FILE\""
                        .to_owned();
                missing.push((section, "url", text));
            }
        }
        for (section, option, text) in missing {
            let place = self.places.of(&section, option);
            self.problem(place, section.qualified(option), text);
        }
    }
}

/// A file under reading.
struct Document {
    file: Arc<File>,
    /// What paths in it are relative to.
    folder: PathBuf,
    /// Lines with a mistake in their syntax.
    broken_lines: Vec<usize>,
}

impl Document {
    fn place(&self, span: Range<usize>) -> Place {
        Place::File { file: Arc::clone(&self.file), span }
    }

    fn is_broken(&self, at: usize) -> bool {
        !self.broken_lines.is_empty() && self.broken_lines.contains(&line_of(&self.file.text, at))
    }
}

/// Where a value came from.
struct Origin<'a> {
    folder: &'a Path,
    place: Place,
    /// The value as it was written, quotes included.
    source_text: &'a str,
}

type Key<'a> = std::borrow::Cow<'a, str>;

/// The entries of a table as they stand in the file; `toml` sorts them by name.
fn in_order<'a, 'i>(table: &'a DeTable<'i>) -> Vec<(&'a Spanned<Key<'i>>, &'a Spanned<DeValue<'i>>)> {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    entries
}

fn line_of(text: &str, at: usize) -> usize {
    text.as_bytes()[..at.min(text.len())].iter().filter(|byte| **byte == b'\n').count()
}

/// Finds the option, reads the value, writes it. `None`: there is no such option, which `known` has already said.
fn set_from<T: 'static>(
    mut table: impl Iterator<Item = &'static Spec<T>>,
    name: &str,
    target: &mut T,
    written: &Written<'_>,
    folder: &Path,
) -> Option<Result<(), (Kind, Wrong)>> {
    let option = table.find(|option| option.name == name)?;
    Some(match value_of(&option.kind, written, folder) {
        Ok(value) => {
            (option.write)(target, value);
            Ok(())
        }
        Err(wrong) => Err((option.kind, wrong)),
    })
}

fn value_of(kind: &Kind, written: &Written<'_>, folder: &Path) -> Result<Value, Wrong> {
    let value = match (written, kind) {
        (Written::Text(text), _) => kind.parse(text)?,
        (Written::Toml(DeValue::String(text)), _) => kind.parse(text)?,
        (
            Written::Toml(DeValue::Integer(number)),
            Kind::Integer { .. }
            | Kind::PowerOfTwo { .. }
            | Kind::Bytes { .. }
            | Kind::Duration { .. }
            | Kind::Ratio { .. },
        ) => {
            let digits = i128::from_str_radix(number.as_str(), number.radix()).map_err(|_| Wrong::Shape)?;
            kind.parse(&digits.to_string())?
        }
        (Written::Toml(DeValue::Float(number)), Kind::Ratio { .. }) => kind.parse(number.as_str())?,
        (Written::Toml(DeValue::Array(items)), Kind::Lines | Kind::SecretLines | Kind::Addresses) => {
            let texts: Option<Vec<&str>> = items.iter().map(|item| item.get_ref().as_str()).collect();
            let texts = texts.ok_or(Wrong::Shape)?;
            match kind {
                Kind::Lines => Value::Lines(texts.into_iter().map(str::to_owned).collect()),
                Kind::SecretLines => kind.parse(&texts.join("\n"))?,
                _ => kind.parse(&texts.join(" "))?,
            }
        }
        (Written::Toml(_), _) => return Err(Wrong::Shape),
    };
    resolve_file(kind, value, folder)
}

/// Paths become relative to the file that names them, and files that hold a value are read.
fn resolve_file(kind: &Kind, value: Value, folder: &Path) -> Result<Value, Wrong> {
    let Value::Text(text) = value else { return Ok(value) };
    if text.is_empty() || !matches!(kind, Kind::Path | Kind::Script | Kind::SecretFile) {
        return Ok(Value::Text(text));
    }
    let path = folder.join(&text);
    if matches!(kind, Kind::Path) {
        return Ok(Value::Text(path.display().to_string()));
    }
    let mut content =
        read_text(&path).map_err(|reason| Wrong::File { reason: format!("{} {reason}", path.display()) })?;
    if matches!(kind, Kind::SecretFile) {
        let end = content.trim_end_matches(['\n', '\r']).len();
        content.truncate(end);
        if content.is_empty() {
            return Err(Wrong::File { reason: format!("{} is empty", path.display()) });
        }
    }
    Ok(Value::Text(content))
}

/// The text of a file: a configuration, a secret, a script.
///
/// # Errors
/// What is wrong with the file, after its name.
fn read_text(path: &Path) -> Result<String, String> {
    /// A larger file is another file than was meant, or a device that never ends.
    const BYTES_MAX: u64 = 64 << 20;
    let cannot = |error: std::io::Error| format!("cannot be read: {error}");
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(cannot)?;
    file.take(BYTES_MAX + 1).read_to_end(&mut bytes).map_err(cannot)?;
    if bytes.len() as u64 > BYTES_MAX {
        return Err(format!("is larger than {} MiB", BYTES_MAX >> 20));
    }
    String::from_utf8(bytes)
        .map_err(|error| format!("is not UTF-8 text: byte {} is no part of it", error.utf8_error().valid_up_to()))
}

/// What is wrong, in words, and what is allowed.
fn wrong_text(kind: &Kind, wrong: &Wrong, source_text: &str) -> String {
    let shown = one_line(source_text);
    let allowed = kind.allowed();
    match wrong {
        Wrong::Environment { reason } | Wrong::File { reason } => reason.clone(),
        _ if matches!(kind, Kind::Secret | Kind::SecretLines) => format!("must be a text; allowed: {allowed}"),
        Wrong::Range => format!("{shown} is out of range; allowed: {allowed}"),
        Wrong::NoUnit => format!("{shown} has no unit; allowed: {allowed}"),
        Wrong::Address { word } => format!("{word:?} is not an address; allowed: {allowed}"),
        Wrong::Shape => format!("{shown} is not {}; allowed: {allowed}", kind.noun()),
    }
}

/// A value as it was written, cut to what fits an error.
fn one_line(text: &str) -> String {
    const SHOWN_CHARS_MAX: usize = 60;
    let line = text.lines().next().unwrap_or_default();
    match line.char_indices().nth(SHOWN_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None if line.len() < text.trim_end().len() => format!("{line}…"),
        None => line.to_owned(),
    }
}

/// The options of a loader, feed or node that must be set, with an example.
fn required_of(section: &Section) -> Vec<(&'static str, &'static str)> {
    fn required<T>(option: &Spec<T>) -> Option<(&'static str, &'static str)> {
        match option.default {
            Default::Required { example } => Some((option.name, example)),
            Default::Text(_) | Default::Absent { .. } => None,
        }
    }
    match section {
        Section::Loader(_) => LOADER.iter().filter_map(required).collect(),
        Section::Feed(_) => FEED.iter().filter_map(required).collect(),
        Section::Node(_) => NODE.iter().filter_map(required).collect(),
        Section::Server | Section::Source(_) | Section::Journal | Section::Auditor => Vec::new(),
    }
}

/// The names of a section's options.
fn names_of(section: &Section) -> Vec<&'static str> {
    match section {
        Section::Server => options::server_options().map(|option| option.name).collect(),
        Section::Source(_) => SOURCE.iter().map(|option| option.name).collect(),
        Section::Loader(_) => LOADER.iter().map(|option| option.name).collect(),
        Section::Feed(_) => FEED.iter().map(|option| option.name).collect(),
        Section::Node(_) => NODE.iter().map(|option| option.name).collect(),
        Section::Journal => JOURNAL.iter().map(|option| option.name).collect(),
        Section::Auditor => AUDITOR.iter().map(|option| option.name).collect(),
    }
}

/// Whether the section has this option.
///
/// # Errors
/// It has not; the text says where the option belongs, or which one may be meant.
fn known(section: &Section, name: &str) -> Result<(), String> {
    let names = names_of(section);
    if names.contains(&name) {
        return Ok(());
    }
    let elsewhere = [
        (Section::Server, "the server: it stands before the first [table]"),
        (Section::Source(String::new()), "[sources.NAME]"),
        (Section::Loader(String::new()), "[loaders.NAME]"),
        (Section::Feed(String::new()), "[feeds.NAME]"),
        (Section::Node(String::new()), "[nodes.NAME]"),
        (Section::Journal, "[journal]"),
        (Section::Auditor, "[auditor]"),
    ];
    if let Some((_, owner)) = elsewhere.iter().find(|(other, _)| names_of(other).contains(&name)) {
        return Err(format!("is an option of {owner}"));
    }
    match nearest(name, names.iter().copied()) {
        Some(near) => Err(format!("unknown option; did you mean \"{near}\"?")),
        None if *section == Section::Server => {
            Err("unknown option; `leasehold --print-config` lists all of them".to_owned())
        }
        None => Err(format!("unknown option; allowed: {}", names.join(", "))),
    }
}

/// The candidate that is at most a third of the word's letters away, if there is one.
pub(crate) fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |text: &str| text.to_ascii_lowercase().replace('_', "-");
    let wanted = plain(word);
    let (distance, near) =
        candidates.map(|name| (distance(&wanted, &plain(name)), name)).min_by_key(|(far, _)| *far)?;
    (distance <= (word.chars().count() / 3).min(3)).then_some(near)
}

/// Edits from one word to the other: a letter put in, left out, exchanged, or swapped with its neighbour (optimal string
/// alignment).
fn distance(from: &str, to: &str) -> usize {
    let (from, to): (Vec<char>, Vec<char>) = (from.chars().collect(), to.chars().collect());
    let mut edits = vec![vec![0; to.len() + 1]; from.len() + 1];
    for i in 0..=from.len() {
        for j in 0..=to.len() {
            edits[i][j] = if i == 0 || j == 0 {
                i.max(j)
            } else {
                let exchanged = edits[i - 1][j - 1] + usize::from(from[i - 1] != to[j - 1]);
                let best = exchanged.min(edits[i - 1][j] + 1).min(edits[i][j - 1] + 1);
                let swapped = i > 1 && j > 1 && from[i - 1] == to[j - 2] && from[i - 2] == to[j - 1];
                if swapped { best.min(edits[i - 2][j - 2] + 1) } else { best }
            };
        }
    }
    edits[from.len()][to.len()]
}
