//! One connection to a running server: a question, its answer. The few shapes of replies that are asked for, and no other.

use anyhow::{Context, bail};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::path::Path;
use std::time::Duration;

/// More than any reply that is asked for.
const BULK_BYTES_MAX: usize = 16 << 20;

/// See the module.
pub(crate) struct Connection(BufReader<TcpStream>);

/// An answer.
#[derive(Debug)]
pub(crate) enum Answer {
    Simple,
    Integer(i64),
    Bulk(String),
    Array(Vec<Self>),
}

impl Connection {
    /// To a server that is not well if an answer takes it longer than `patience`.
    ///
    /// # Errors
    /// Nobody answers at any of the addresses of `host`.
    pub(crate) fn open(host: &str, port: u16, patience: Duration) -> anyhow::Result<Self> {
        let connect = || -> std::io::Result<TcpStream> {
            let mut result = Err(std::io::Error::other("the name has no address"));
            for address in (host, port).to_socket_addrs()? {
                result = TcpStream::connect_timeout(&address, patience);
                if result.is_ok() {
                    break;
                }
            }
            result
        };
        let stream = connect().with_context(|| format!("no answer from {host}:{port}"))?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        Ok(Self(BufReader::new(stream)))
    }

    /// Logs in with the password that a file holds.
    ///
    /// # Errors
    /// The file cannot be read, or the server refuses.
    pub(crate) fn authenticate(&mut self, file: &Path) -> anyhow::Result<()> {
        let password = std::fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()))?;
        self.ask(&["AUTH", password.trim_end_matches(['\r', '\n'])]).map(drop)
    }

    /// # Errors
    /// The server refuses, or is gone.
    pub(crate) fn ask(&mut self, words: &[&str]) -> anyhow::Result<Answer> {
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
    pub(crate) fn integer(&self) -> anyhow::Result<i64> {
        if let Self::Integer(number) = self { Ok(*number) } else { bail!("the server answers {self:?}") }
    }

    pub(crate) fn text(&self) -> anyhow::Result<&str> {
        if let Self::Bulk(text) = self { Ok(text) } else { bail!("the server answers {self:?}") }
    }

    pub(crate) fn three(self) -> anyhow::Result<[Self; 3]> {
        match self {
            Self::Array(answers) => {
                answers.try_into().map_err(|answers| anyhow::anyhow!("the server answers {answers:?}"))
            }
            other => bail!("the server answers {other:?}"),
        }
    }
}
