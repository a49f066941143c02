//! One transcript in one setting, statement by statement.

use super::parse::{Statement, Transcript, Word};
use super::pattern::{Pattern, Variables};
use super::source::PostgresSource;
use super::world::{Place, Setting, Source, Surroundings, World};
use crate::client::{NoReply, request};
use crate::postgres::Postgres;
use std::fmt;
use std::time::Duration;

/// Where a transcript and the world part.
#[derive(Clone, Debug)]
pub struct Failure {
    /// File, line, setting, what was expected and what came.
    pub text: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A real clock does not stop between two statements. If it runs ahead of the transcript's by more than this, what the
/// transcript says about time proves nothing, and it is run again.
const BEHIND_MAX: Duration = Duration::from_millis(120);

/// A machine that is never fast enough in so many runs is too slow for the file.
const ATTEMPTS_MAX: usize = 8;

/// Runs a transcript that runs in this setting. One with loaders needs a database to run over real sockets.
///
/// # Errors
/// The first statement that does not hold.
pub fn run(transcript: &Transcript, setting: Setting, postgres: Option<&Postgres>) -> Result<(), Failure> {
    let fail = |text: String| Failure { text: format!("{}: {setting}: {text}", transcript.name) };
    let mut late = Duration::ZERO;
    for _ in 0..ATTEMPTS_MAX {
        let source = (setting.place == Place::Real && !transcript.loaders().is_empty())
            .then(|| postgres.map(PostgresSource::new).ok_or_else(|| fail("its loaders need a PostgreSQL".to_owned())))
            .transpose()?;
        let surroundings = Surroundings {
            conf: source.as_ref().map(|source| source.conf(transcript)),
            source: source.as_ref().map(|source| source as &dyn Source),
        };
        let mut world = World::new(transcript, setting, surroundings).map_err(fail)?;
        match run_once(transcript, setting.version, &mut world) {
            Ok(()) => return Ok(()),
            Err(failure) => {
                late = world.behind_max();
                if late <= BEHIND_MAX || !transcript.speaks_of_time() {
                    return Err(fail(failure));
                }
            }
        }
    }
    Err(fail(format!("the machine is too slow for its times: {} ms behind, {ATTEMPTS_MAX} times", late.as_millis())))
}

fn run_once(transcript: &Transcript, version: u8, world: &mut World<'_>) -> Result<(), String> {
    let mut variables = Variables::new();
    for (line, statement) in &transcript.statements {
        step(statement, version, world, &mut variables).map_err(|error| format!("line {line}: {error}"))?;
        world.behind_max();
    }
    for client in world.client_names() {
        if let Ok(reply) = world.receive_at_once(&client) {
            return Err(format!("at the end: {client} has a reply that the transcript does not expect: {reply}"));
        }
    }
    Ok(())
}

fn step(statement: &Statement, version: u8, world: &mut World<'_>, variables: &mut Variables) -> Result<(), String> {
    match statement {
        Statement::Send { client, words } => {
            let argv = words.iter().map(|word| resolve(word, variables)).collect::<Result<Vec<_>, _>>()?;
            world.send(client, &request(&argv));
        }
        Statement::SendRaw { client, bytes } => world.send(client, bytes),
        Statement::Receive { version: Some(only), .. } if *only != version => {}
        Statement::Receive { client, pattern, .. } => {
            let reply = world.receive(client).map_err(|why| format!("{client}< {}: {}", Shown(pattern), told(why)))?;
            if !pattern.matches(&reply, version, variables) {
                return Err(format!("{client}< {reply}\n    expected: {}", Shown(pattern)));
            }
        }
        Statement::Silence { client } => match world.receive_at_once(client) {
            Ok(reply) => return Err(format!("{client}< {reply}\n    expected: silence")),
            Err(NoReply::Closed) => return Err(format!("{client}: the connection is closed")),
            Err(NoReply::Timeout) => {}
        },
        Statement::Closed { client } => match world.receive(client) {
            Ok(reply) => return Err(format!("{client}< {reply}\n    expected: closed")),
            Err(NoReply::Timeout) => return Err(format!("{client}: the connection is still open")),
            Err(NoReply::Closed) => {}
        },
        Statement::Close { client } => world.close(client),
        Statement::Advance { ms } => world.advance(*ms),
        Statement::Answer { key, answer } => world.answer(key, answer)?,
        Statement::Loader { .. } => {}
        Statement::Loads { key, count } => {
            let loads = world.loads(key)?;
            if loads != *count {
                return Err(format!("loads {key} = {loads}\n    expected: {count}"));
            }
        }
    }
    Ok(())
}

fn resolve(word: &Word, variables: &Variables) -> Result<Vec<u8>, String> {
    match word {
        Word::Literal(bytes) => Ok(bytes.clone()),
        Word::Variable(name) => variables.get(name).cloned().ok_or_else(|| format!("${name} is not known yet")),
    }
}

fn told(why: NoReply) -> &'static str {
    match why {
        NoReply::Timeout => "no reply",
        NoReply::Closed => "the connection is closed",
    }
}

struct Shown<'a>(&'a Pattern);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use crate::reply::Quoted;
        match self.0 {
            Pattern::Nil => f.write_str("nil"),
            Pattern::Integer(value) => write!(f, "{value}"),
            Pattern::Bulk(bytes) => write!(f, "{}", Quoted(bytes)),
            Pattern::Simple(text) => write!(f, "+{text}"),
            Pattern::Error(text) => write!(f, "-{text}"),
            Pattern::ErrorPrefix(text) => write!(f, "-{text}..."),
            other => write!(f, "{other:?}"),
        }
    }
}
