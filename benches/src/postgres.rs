//! Just enough of PostgreSQL's protocol to be one of its clients: one prepared statement at a time, and numbers by plain queries.
//!
//! Text parameters, no password, no TLS. <https://www.postgresql.org/docs/current/protocol-message-formats.html>

use anyhow::{Context as _, bail, ensure};
use std::io::{BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

const PROTOCOL: u32 = 196_608;
const PATIENCE: Duration = Duration::from_secs(60);

/// Where a database is.
#[derive(Clone, Debug)]
pub struct Address {
    user: String,
    host_and_port: String,
    database: String,
}

/// A connection.
#[derive(Debug)]
pub struct Connection {
    socket: BufReader<TcpStream>,
    out: Vec<u8>,
}

impl Address {
    /// Of `postgres://user@host:port/database?options`.
    ///
    /// # Errors
    /// It is none.
    pub fn of_url(url: &str) -> anyhow::Result<Self> {
        let parts = || {
            let (user, rest) = url.strip_prefix("postgres://")?.split_once('@')?;
            let (host_and_port, rest) = rest.split_once('/')?;
            let database = rest.split('?').next()?;
            Some(Self { user: user.to_owned(), host_and_port: host_and_port.to_owned(), database: database.to_owned() })
        };
        parts().with_context(|| format!("{url} is not postgres://user@host:port/database"))
    }
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// The database does not take the connection.
    pub fn open(address: &Address) -> anyhow::Result<Self> {
        let socket = TcpStream::connect(&address.host_and_port)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let mut connection = Self { socket: BufReader::new(socket), out: Vec::new() };
        let parameters = format!("user\0{}\0database\0{}\0\0", address.user, address.database);
        let len = u32::try_from(8 + parameters.len())?;
        connection.out.extend_from_slice(&len.to_be_bytes());
        connection.out.extend_from_slice(&PROTOCOL.to_be_bytes());
        connection.out.extend_from_slice(parameters.as_bytes());
        connection.answer(|kind, body| {
            ensure!(kind != b'R' || body.starts_with(&[0, 0, 0, 0]), "the database wants a password");
            Ok(())
        })?;
        Ok(connection)
    }

    /// Prepares the statement that [`Connection::execute`] runs.
    ///
    /// # Errors
    /// The database refuses it.
    pub fn prepare(&mut self, sql: &str) -> anyhow::Result<()> {
        self.message(b'P', |out| {
            out.extend_from_slice(b"\0");
            out.extend_from_slice(sql.as_bytes());
            out.extend_from_slice(&[0, 0, 0]);
        })?;
        self.message(b'S', |_| {})?;
        self.answer(|_, _| Ok(()))
    }

    /// Runs the prepared statement, which commits by itself and changes one row.
    ///
    /// # Errors
    /// It fails, or changes another number of rows.
    pub fn execute(&mut self, parameters: &[&str]) -> anyhow::Result<()> {
        let count = u16::try_from(parameters.len())?;
        self.message(b'B', |out| {
            out.extend_from_slice(&[0, 0, 0, 0]);
            out.extend_from_slice(&count.to_be_bytes());
            for parameter in parameters {
                let len = u32::try_from(parameter.len()).expect("a parameter is short");
                out.extend_from_slice(&len.to_be_bytes());
                out.extend_from_slice(parameter.as_bytes());
            }
            out.extend_from_slice(&[0, 0]);
        })?;
        self.message(b'E', |out| out.extend_from_slice(&[0, 0, 0, 0, 0]))?;
        self.message(b'S', |_| {})?;
        let mut has_changed = false;
        self.answer(|kind, body| {
            has_changed |= kind == b'C' && body.ends_with(b" 1\0");
            Ok(())
        })?;
        ensure!(has_changed, "not one row was changed");
        Ok(())
    }

    /// Runs statements; the first column of the last row, if there is one.
    ///
    /// # Errors
    /// One fails.
    pub fn query(&mut self, sql: &str) -> anyhow::Result<Option<String>> {
        self.message(b'Q', |out| {
            out.extend_from_slice(sql.as_bytes());
            out.push(0);
        })?;
        let mut found = None;
        self.answer(|kind, body| {
            if kind == b'D' {
                let len = body.get(2..6).and_then(|len| len.try_into().ok()).map(i32::from_be_bytes);
                let len = usize::try_from(len.context("a row has columns")?).unwrap_or(0);
                let column = body.get(6..6 + len).context("a column is as long as it says")?;
                found = Some(String::from_utf8(column.to_vec())?);
            }
            Ok(())
        })?;
        Ok(found)
    }

    /// The number that a query answers.
    ///
    /// # Errors
    /// It fails, or answers none.
    pub fn number(&mut self, sql: &str) -> anyhow::Result<u64> {
        let text = self.query(sql)?.with_context(|| format!("no row: {sql}"))?;
        text.parse().with_context(|| format!("{sql}: {text}"))
    }

    fn message(&mut self, kind: u8, write: impl FnOnce(&mut Vec<u8>)) -> anyhow::Result<()> {
        self.out.push(kind);
        let start = self.out.len();
        self.out.extend_from_slice(&[0; 4]);
        write(&mut self.out);
        let len = u32::try_from(self.out.len() - start)?;
        self.out[start..start + 4].copy_from_slice(&len.to_be_bytes());
        Ok(())
    }

    /// Sends what was written, and reads messages until the database is ready for more.
    fn answer(&mut self, mut each: impl FnMut(u8, &[u8]) -> anyhow::Result<()>) -> anyhow::Result<()> {
        self.socket.get_mut().write_all(&self.out)?;
        self.out.clear();
        let mut body = Vec::new();
        let mut error = None;
        loop {
            let mut head = [0; 5];
            self.socket.read_exact(&mut head)?;
            let [kind, len @ ..] = head;
            let len = usize::try_from(u32::from_be_bytes(len))?.checked_sub(4).context("a message has a length")?;
            body.resize(len, 0);
            self.socket.read_exact(&mut body)?;
            match kind {
                b'E' => {
                    error = error.or_else(|| Some(String::from_utf8_lossy(&body).replace('\0', " ")));
                    // Before it is ready for the first time it says nothing more.
                    if body.windows(6).any(|field| field == b"SFATAL") {
                        break;
                    }
                }
                b'Z' => break,
                kind => each(kind, &body)?,
            }
        }
        match error {
            Some(error) => bail!("the database says: {error}"),
            None => Ok(()),
        }
    }
}
