//! A transcript as a list of statements.

use super::pattern::Pattern;
use super::text::{Text, duration_ms, statements};
use super::world::{Place, Setting};

/// A file.
#[derive(Clone, Debug)]
pub struct Transcript {
    /// File name without its ending.
    pub name: String,
    /// Number of the line and what it says, in order.
    pub statements: Vec<(usize, Statement)>,
    /// `set name = value`: options of the server.
    pub settings: Vec<(String, String)>,
    /// `only …: reason`: where it cannot run, from the words `simulated`, `real`, `RESP2`, `RESP3`.
    only: Vec<String>,
    /// `reference: redis-server`: it must hold for Redis too.
    pub holds_for_redis: bool,
}

/// What happens, or must have happened.
#[derive(Clone, Debug)]
pub enum Statement {
    /// `a> GET k`: words, of which those that begin with `$` are variables.
    Send {
        /// The client's name.
        client: String,
        /// The request.
        words: Vec<Word>,
    },
    /// `a>raw "…"`
    SendRaw {
        /// The client's name.
        client: String,
        /// As they are.
        bytes: Vec<u8>,
    },
    /// `a< pattern`; `a<2` and `a<3` only over that version.
    Receive {
        /// The client's name.
        client: String,
        /// 2 or 3, if the line is for one version only.
        version: Option<u8>,
        /// What must come.
        pattern: Pattern,
    },
    /// `a< silence`: no reply is there.
    Silence {
        /// The client's name.
        client: String,
    },
    /// `a< closed`: the server closes the connection.
    Closed {
        /// The client's name.
        client: String,
    },
    /// `close a`
    Close {
        /// The client's name.
        client: String,
    },
    /// `+20ms`
    Advance {
        /// Milliseconds.
        ms: u64,
    },
    /// `loader users:1 -> "ann" after 20ms`: what the source has for a key, from now on.
    Answer {
        /// The key.
        key: String,
        /// What a load brings.
        answer: Answer,
    },
    /// `loader users:* ttl=1s`: options of the loader of a prefix. Before everything else in the file.
    Loader {
        /// `users`
        name: String,
        /// Names and values as in conf.
        options: Vec<(String, String)>,
    },
    /// `loads users:1 = 1`: how often the source was asked for the key.
    Loads {
        /// The key.
        key: String,
        /// Since the start.
        count: u64,
    },
}

/// A word of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Word {
    /// Bytes as they are.
    Literal(Vec<u8>),
    /// The value of a variable.
    Variable(String),
}

/// What a load brings, and how long it takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The row.
    pub row: Row,
    /// Milliseconds.
    pub after_ms: u64,
}

/// What the source has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Row {
    /// A value.
    Value(String),
    /// No such row.
    Absent,
    /// The query fails.
    Failure(String),
}

impl Transcript {
    /// Reads the text of a file.
    ///
    /// # Errors
    /// The line and what is wrong with it.
    pub fn parse(name: &str, text: &str) -> Result<Self, String> {
        let mut transcript = Self {
            name: name.to_owned(),
            statements: Vec::new(),
            settings: Vec::new(),
            only: Vec::new(),
            holds_for_redis: false,
        };
        if !text.starts_with("# ") {
            return Err(format!("{name}:1: the first line tells the story, in a comment"));
        }
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            transcript.line(index + 1, line).map_err(|error| format!("{name}:{}: {error}", index + 1))?;
        }
        Ok(transcript)
    }

    /// Whether it can run in `setting`.
    #[must_use]
    pub fn runs_in(&self, setting: Setting) -> bool {
        let version = if setting.version == 2 { "RESP2" } else { "RESP3" };
        self.only.iter().all(|word| match (word.as_str(), setting.place) {
            ("simulated", place) => place == Place::Simulated,
            ("real", place) => place != Place::Simulated,
            (word, _) => word == version,
        }) && (setting.place != Place::Redis || self.holds_for_redis)
    }

    /// Whether it lets time pass.
    #[must_use]
    pub fn speaks_of_time(&self) -> bool {
        self.statements.iter().any(|(_, statement)| matches!(statement, Statement::Advance { .. }))
    }

    /// Names and options of its loaders, in order.
    #[must_use]
    pub fn loaders(&self) -> Vec<(String, Vec<(String, String)>)> {
        let mut loaders: Vec<(String, Vec<(String, String)>)> = Vec::new();
        for (_, statement) in &self.statements {
            let (name, options) = match statement {
                Statement::Loader { name, options } => (name.clone(), options.clone()),
                Statement::Answer { key, .. } => (loader_of(key).to_owned(), Vec::new()),
                _ => continue,
            };
            match loaders.iter_mut().find(|(known, _)| *known == name) {
                Some((_, known)) => known.extend(options),
                None => loaders.push((name, options)),
            }
        }
        loaders
    }

    fn line(&mut self, number: usize, line: &str) -> Result<(), String> {
        if let Some(rest) = line.strip_prefix("only ") {
            let (word, reason) = rest.split_once(':').ok_or("a reason belongs behind `only …:`")?;
            if reason.trim().is_empty() || !["simulated", "real", "RESP2", "RESP3"].contains(&word.trim()) {
                return Err(format!("only simulated, real, RESP2 or RESP3, and a reason: {rest}"));
            }
            self.only.push(word.trim().to_owned());
            return Ok(());
        }
        if line == "reference: redis-server" {
            self.holds_for_redis = true;
            return Ok(());
        }
        if let Some(rest) = line.strip_prefix("set ") {
            let (name, value) = rest.split_once('=').ok_or("set name = value")?;
            self.settings.push((name.trim().to_owned(), value.trim().to_owned()));
            return Ok(());
        }
        for text in statements(line) {
            self.statements.push((number, statement(text)?));
        }
        Ok(())
    }
}

/// The loader of a key: its prefix.
pub(crate) fn loader_of(key: &str) -> &str {
    key.split(':').next().unwrap_or_default()
}

fn statement(text: &str) -> Result<Statement, String> {
    if let Some(time) = text.strip_prefix('+') {
        return Ok(Statement::Advance { ms: duration_ms(time)? });
    }
    if let Some(rest) = text.strip_prefix("loads ") {
        let (key, count) = rest.split_once('=').ok_or("loads key = count")?;
        let count = count.trim().parse().map_err(|_| format!("no count: {count}"))?;
        return Ok(Statement::Loads { key: key.trim().to_owned(), count });
    }
    if let Some(rest) = text.strip_prefix("loader ") {
        return loader(rest);
    }
    if let Some(client) = text.strip_prefix("close ") {
        return Ok(Statement::Close { client: client.trim().to_owned() });
    }
    let mut rest = Text::new(text);
    let client = rest.take_while(|character| character.is_ascii_lowercase()).to_owned();
    if client.is_empty() {
        return Err(format!("no statement: {text}"));
    }
    if rest.take(">raw ") {
        rest.skip_spaces();
        return if rest.take("\"") {
            Ok(Statement::SendRaw { client, bytes: rest.quoted()? })
        } else {
            Err("bytes in quotes belong behind >raw".to_owned())
        };
    }
    if rest.take(">") {
        return Ok(Statement::Send { client, words: words(rest)? });
    }
    if !rest.take("<") {
        return Err(format!("no statement: {text}"));
    }
    let version = if rest.take("2 ") {
        Some(2)
    } else if rest.take("3 ") {
        Some(3)
    } else {
        None
    };
    Ok(match rest.rest().trim() {
        "silence" => Statement::Silence { client },
        "closed" => Statement::Closed { client },
        pattern => Statement::Receive { client, version, pattern: Pattern::parse(pattern)? },
    })
}

fn words(mut text: Text<'_>) -> Result<Vec<Word>, String> {
    let mut words = Vec::new();
    loop {
        text.skip_spaces();
        if text.is_at_end() {
            return Ok(words);
        }
        if text.take("\"") {
            words.push(Word::Literal(text.quoted()?));
            continue;
        }
        let word = text.take_while(|character| character != ' ');
        words.push(match word.strip_prefix('$') {
            Some(name) if !name.is_empty() => Word::Variable(name.to_owned()),
            _ => Word::Literal(word.as_bytes().to_vec()),
        });
    }
}

fn loader(text: &str) -> Result<Statement, String> {
    let Some((key, answer)) = text.split_once("->") else {
        let mut words = text.split_whitespace();
        let pattern = words.next().ok_or("loader prefix:* name=value …")?;
        let name = pattern.strip_suffix(":*").ok_or("a loader's keys are prefix:*")?;
        let options = words
            .map(|word| word.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned())))
            .collect::<Option<_>>()
            .ok_or("loader prefix:* name=value …")?;
        return Ok(Statement::Loader { name: name.to_owned(), options });
    };
    let mut rest = Text::new(answer.trim());
    let row = if rest.take("nil") {
        Row::Absent
    } else if rest.take("fail \"") {
        Row::Failure(String::from_utf8(rest.quoted()?).map_err(|_| "UTF-8 is expected")?)
    } else if rest.take("\"") {
        Row::Value(String::from_utf8(rest.quoted()?).map_err(|_| "UTF-8 is expected")?)
    } else {
        return Err(format!("\"value\", nil or fail \"reason\": {answer}"));
    };
    rest.skip_spaces();
    let after_ms = if rest.take("after ") { duration_ms(rest.rest().trim())? } else { 0 };
    Ok(Statement::Answer { key: key.trim().to_owned(), answer: Answer { row, after_ms } })
}
