//! One connection to a server: a question, its answer. The few shapes of replies that `TRACE` has, and no other.

use anyhow::{Context, bail};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// A server that needs longer is not well.
const PATIENCE: Duration = Duration::from_secs(10);

/// More than any reply that is asked for.
const BULK_BYTES_MAX: usize = 16 << 20;

/// See the module.
pub(super) struct Connection(BufReader<TcpStream>);

/// An answer.
#[derive(Debug)]
pub(super) enum Answer {
    Simple,
    Integer(i64),
    Bulk(String),
    Array(Vec<Self>),
}

impl Connection {
    pub(super) fn open(host: &str, port: u16) -> anyhow::Result<Self> {
        let stream = TcpStream::connect((host, port)).with_context(|| format!("no answer from {host}:{port}"))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self(BufReader::new(stream)))
    }

    /// # Errors
    /// The server refuses, or is gone.
    pub(super) fn ask(&mut self, words: &[&str]) -> anyhow::Result<Answer> {
        let mut request = format!("*{}\r\n", words.len());
        for word in words {
            request.push_str(&format!("${}\r\n{word}\r\n", word.len()));
        }
        self.0.get_mut().write_all(request.as_bytes())?;
        self.answer().with_context(|| format!("{} failed", words[..words.len().min(2)].join(" ")))
    }

    fn answer(&mut self) -> anyhow::Result<Answer> {
        let mut line = String::new();
        if (&mut self.0).take(4096).read_line(&mut line)? == 0 {
            bail!("the server has closed the connection");
        }
        let line = line.trim_end();
        let number = || line.get(1..).and_then(|digits| digits.parse::<i64>().ok()).context("this is no such server");
        match line.as_bytes().first() {
            Some(b'+') => Ok(Answer::Simple),
            Some(b'-') => bail!("the server says: {}", &line[1..]),
            Some(b':') => Ok(Answer::Integer(number()?)),
            Some(b'$') => {
                let len = usize::try_from(number()?).ok().filter(|&len| len <= BULK_BYTES_MAX);
                let mut bytes = vec![0; len.context("this is no such server")? + 2];
                self.0.read_exact(&mut bytes)?;
                bytes.truncate(bytes.len() - 2);
                Ok(Answer::Bulk(String::from_utf8(bytes)?))
            }
            Some(b'*') => {
                let len = number()?;
                if !(0..=3).contains(&len) {
                    bail!("this is no such server");
                }
                (0..len).map(|_| self.answer()).collect::<anyhow::Result<_>>().map(Answer::Array)
            }
            _ => bail!("this is no such server"),
        }
    }
}

impl Answer {
    pub(super) fn integer(&self) -> anyhow::Result<i64> {
        if let Self::Integer(number) = self { Ok(*number) } else { bail!("the server answers {self:?}") }
    }

    pub(super) fn text(&self) -> anyhow::Result<&str> {
        if let Self::Bulk(text) = self { Ok(text) } else { bail!("the server answers {self:?}") }
    }

    pub(super) fn three(self) -> anyhow::Result<[Self; 3]> {
        match self {
            Self::Array(answers) => {
                answers.try_into().map_err(|answers| anyhow::anyhow!("the server answers {answers:?}"))
            }
            other => bail!("the server answers {other:?}"),
        }
    }
}
