//! A replication connection to PostgreSQL: the startup with `replication=database`, the password, commands by the simple protocol, and
//! the stream that `START_REPLICATION` begins.
//!
//! ```text
//! message:  kind u8 │ length u32, itself included │ …
//! stream:   d w start u64, end u64, time i64, a message of the plugin    what has changed
//!           d k end u64, time i64, reply u8                              up to where all was sent
//! us:       d r written u64, flushed u64, applied u64, time i64, reply u8
//! ```
//!
//! sqlx speaks neither, so this lies on sqlx's sockets: reaching the host and TLS are the same code as for loaders. What was read of a
//! message stays here when somebody stops waiting for the rest of it.

use super::pgoutput::Rest;
use super::scram::{Expected, Scram, md5_answer};
use crate::source::Source;
use bytes::{Buf, BufMut, BytesMut};
use sqlx::ConnectOptions;
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx_core::net::tls::{CertificateInput, TlsConfig, handshake};
use sqlx_core::net::{Socket, SocketIntoBox, WithSocket, connect_tcp, connect_uds};
use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Longest message that is read: a change of a row, with the row before. What is longer ends the connection, and all is stale.
const MESSAGE_BYTES_MAX: usize = 256 << 20;

/// What is asked of the socket at once.
const READ_BYTES: usize = 64 << 10;

/// Version 3.0 of the protocol.
const PROTOCOL: u32 = 3 << 16;
/// What asks for TLS, in the place of a version.
const TLS_REQUEST: u32 = 80_877_103;

/// Microseconds from 1970 to 2000, where PostgreSQL counts from.
pub(super) const EPOCH_US: i64 = 946_684_800_000_000;

/// Why the connection is of no use.
#[derive(Debug)]
pub(super) enum WireError {
    /// It broke, or was never there.
    Lost(String),
    /// The database said no: SQLSTATE and text.
    Refused { code: String, message: String },
    /// The password, or the way of proving it.
    Login(String),
    /// It does not speak as it must.
    Protocol(String),
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost(reason) | Self::Login(reason) | Self::Protocol(reason) => f.write_str(reason),
            Self::Refused { code, message } => write!(f, "{message} ({code})"),
        }
    }
}

impl From<std::io::Error> for WireError {
    fn from(error: std::io::Error) -> Self {
        Self::Lost(format!("the replication connection was lost: {error}"))
    }
}

/// One thing that the stream brings.
#[derive(Debug)]
pub(super) enum Streamed {
    /// A message of the plugin.
    Change(BytesMut),
    /// All up to here was sent.
    Alive { end: u64, wants_reply: bool },
}

/// TLS, as the URL says.
struct Upgrade<'c> {
    mode: PgSslMode,
    tls: TlsConfig<'c>,
}

impl WithSocket for Upgrade<'_> {
    type Output = Result<Box<dyn Socket>, sqlx::Error>;

    async fn with_socket<S: Socket>(self, mut socket: S) -> Self::Output {
        // As sqlx has it: "allow" is plain text.
        if matches!(self.mode, PgSslMode::Allow | PgSslMode::Disable) {
            return Ok(Box::new(socket));
        }
        let request = [8u32.to_be_bytes(), TLS_REQUEST.to_be_bytes()].concat();
        let mut rest = request.as_slice();
        while !rest.is_empty() {
            let written = socket.write(rest).await?;
            rest = rest.get(written.max(1)..).unwrap_or_default();
        }
        socket.flush().await?;
        // Exactly one byte: what follows belongs to the handshake.
        let mut answer = [0u8];
        socket.read(&mut &mut answer[..]).await?;
        match answer {
            [b'S'] => handshake(socket, self.tls, SocketIntoBox).await,
            [b'N'] if matches!(self.mode, PgSslMode::Prefer) => Ok(Box::new(socket)),
            [b'N'] => Err(sqlx::Error::Tls("the database does not speak TLS, which the url asks for".into())),
            _ => Err(sqlx::Error::Protocol("no answer to the wish for TLS".into())),
        }
    }
}

/// The connection.
pub(super) struct Wire {
    socket: Box<dyn Socket>,
    /// Received and not taken.
    input: BytesMut,
    /// Where the socket reads to.
    chunk: Vec<u8>,
    /// What has come of an answer.
    row: Vec<Option<String>>,
    error: Option<WireError>,
}

impl Wire {
    /// Connects as the source does, TLS and password included.
    pub(super) async fn connect(source: &Source, options: &PgConnectOptions) -> Result<Self, WireError> {
        let lost = |error: sqlx::Error| WireError::Lost(source.state.redacted(&error));
        // User and host do not matter here, and odd ones do not fit into a URL. The rest has no other way out of the options.
        let url = options.clone().username("user").host("host").to_url_lossy();
        let secret = percent_decoded(url.password().unwrap_or_default());
        let certificate = |name: &str| {
            let found = url.query_pairs().find(|(key, _)| key == name)?.1.into_owned();
            // A file is shown with a word before it.
            Some(match found.strip_prefix("file: ") {
                Some(path) => CertificateInput::File(path.into()),
                None => CertificateInput::Inline(found.into_bytes()),
            })
        };
        let (root, own, key) = (certificate("sslrootcert"), certificate("sslcert"), certificate("sslkey"));
        let mode = options.get_ssl_mode();
        let upgrade = Upgrade {
            mode,
            tls: TlsConfig {
                accept_invalid_certs: !matches!(mode, PgSslMode::VerifyCa | PgSslMode::VerifyFull),
                accept_invalid_hostnames: !matches!(mode, PgSslMode::VerifyFull),
                hostname: options.get_host(),
                root_cert_path: root.as_ref(),
                client_cert_path: own.as_ref(),
                client_key_path: key.as_ref(),
            },
        };
        let socket = match options.get_socket() {
            Some(directory) => {
                let path = directory.join(format!(".s.PGSQL.{}", options.get_port()));
                connect_uds(path, upgrade).await
            }
            None => connect_tcp(options.get_host(), options.get_port(), upgrade).await,
        };
        let socket = socket.and_then(|upgraded| upgraded).map_err(lost)?;
        let (input, chunk) = (BytesMut::new(), vec![0; READ_BYTES]);
        let mut wire = Self { socket, input, chunk, row: Vec::new(), error: None };
        wire.log_in(options, &secret).await?;
        Ok(wire)
    }

    async fn log_in(&mut self, options: &PgConnectOptions, password: &str) -> Result<(), WireError> {
        let user = options.get_username();
        let mut startup = BytesMut::new();
        startup.put_u32(PROTOCOL);
        for (name, value) in [
            ("user", user),
            ("database", options.get_database().unwrap_or(user)),
            ("replication", "database"),
            ("client_encoding", "UTF8"),
            ("application_name", options.get_application_name().unwrap_or("leasehold")),
        ] {
            put_text(&mut startup, name);
            put_text(&mut startup, value);
        }
        startup.put_u8(0);
        let mut message = BytesMut::new();
        message.put_u32(startup.len() as u32 + 4);
        message.put_slice(&startup);
        self.write(&message).await?;
        let mut scram: Option<Scram> = None;
        let mut expected: Option<Expected> = None;
        let mut is_welcome = false;
        loop {
            let (kind, payload) = self.message().await?;
            match kind {
                b'E' => return Err(refusal(&payload)),
                b'Z' if is_welcome => return Ok(()),
                b'R' => {}
                _ => continue,
            }
            let early = |_| WireError::Protocol("a question for the password ends too early".into());
            let mut rest = Rest(&payload);
            match rest.u32().map_err(early)? {
                // Who wanted a proof of us must have given one.
                0 if scram.is_none() => is_welcome = true,
                0 => return Err(WireError::Login("the database did not prove that it knows the password".into())),
                3 => self.answer_text(b'p', password).await?,
                5 => self.answer_text(b'p', &md5_answer(user, password, rest.0)).await?,
                10 => {
                    let names: Vec<&[u8]> = rest.0.split(|byte| *byte == 0).collect();
                    if !names.contains(&&b"SCRAM-SHA-256"[..]) {
                        return Err(WireError::Login(
                            "the database asks for a way to log in that is not known here".into(),
                        ));
                    }
                    let proof = scram.insert(Scram::new(password).map_err(WireError::Login)?);
                    let first = proof.first();
                    let mut answer = BytesMut::new();
                    put_text(&mut answer, "SCRAM-SHA-256");
                    answer.put_u32(first.len() as u32);
                    answer.put_slice(first.as_bytes());
                    self.send(b'p', &answer).await?;
                }
                11 => {
                    let out_of_place = || WireError::Protocol("a challenge out of place".into());
                    let challenge = String::from_utf8_lossy(rest.0);
                    let proof = scram.as_ref().ok_or_else(out_of_place)?;
                    let (answer, last) = proof.last(&challenge).map_err(WireError::Login)?;
                    expected = Some(last);
                    self.send(b'p', answer.as_bytes()).await?;
                }
                12 => {
                    let last = String::from_utf8_lossy(rest.0);
                    if expected.take().is_some_and(|expected| expected.is(&last)) {
                        scram = None;
                    }
                }
                _ => {
                    return Err(WireError::Login(
                        "the database asks for a way to log in that is not known here".into(),
                    ));
                }
            }
        }
    }

    async fn answer_text(&mut self, kind: u8, text: &str) -> Result<(), WireError> {
        let mut answer = BytesMut::new();
        put_text(&mut answer, text);
        self.send(kind, &answer).await
    }

    /// Sends a command; [`Wire::answer`] waits for what it comes to.
    pub(super) async fn ask(&mut self, command: &str) -> Result<(), WireError> {
        self.answer_text(b'Q', command).await
    }

    /// The first row that a command answers, as texts. Loses nothing if it is given up and called again.
    pub(super) async fn answer(&mut self) -> Result<Vec<Option<String>>, WireError> {
        loop {
            let (kind, payload) = self.message().await?;
            match kind {
                b'E' => self.error = Some(refusal(&payload)),
                b'D' if self.row.is_empty() => {
                    let row = fields(&payload);
                    self.row = row.ok_or_else(|| WireError::Protocol("a row that ends too early".into()))?;
                }
                b'Z' => {
                    let row = std::mem::take(&mut self.row);
                    return self.error.take().map_or(Ok(row), Err);
                }
                _ => {}
            }
        }
    }

    /// Sends a command that begins a stream, and waits until it has begun.
    pub(super) async fn begin_stream(&mut self, command: &str) -> Result<(), WireError> {
        self.ask(command).await?;
        loop {
            match self.message().await? {
                (b'W', _) => return Ok(()),
                (b'E', payload) => return Err(refusal(&payload)),
                (b'Z', _) => return Err(WireError::Protocol("no stream began".into())),
                _ => {}
            }
        }
    }

    /// The next thing of the stream. Loses nothing if it is given up.
    pub(super) async fn streamed(&mut self) -> Result<Streamed, WireError> {
        let early = |_| WireError::Protocol("a message of the stream ends too early".into());
        loop {
            let (kind, mut payload) = self.message().await?;
            match kind {
                b'd' => {}
                b'E' => return Err(refusal(&payload)),
                b'c' => return Err(WireError::Lost("the database has ended the stream".into())),
                _ => continue,
            }
            let mut rest = Rest(&payload);
            match rest.u8().map_err(early)? {
                b'w' => {
                    rest.bytes(24).map_err(early)?;
                    payload.advance(25);
                    return Ok(Streamed::Change(payload));
                }
                b'k' => {
                    let end = rest.u64().map_err(early)?;
                    rest.u64().map_err(early)?;
                    return Ok(Streamed::Alive { end, wants_reply: rest.u8().map_err(early)? != 0 });
                }
                _ => return Err(WireError::Protocol("a message of the stream of an unknown kind".into())),
            }
        }
    }

    /// Says up to where the log is not needed any more.
    pub(super) async fn confirm(&mut self, position: u64, wants_reply: bool) -> Result<(), WireError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let mut status = BytesMut::new();
        status.put_u8(b'r');
        for _ in 0..3 {
            status.put_u64(position);
        }
        status.put_i64(now.as_micros() as i64 - EPOCH_US);
        status.put_u8(u8::from(wants_reply));
        self.send(b'd', &status).await
    }

    async fn send(&mut self, kind: u8, payload: &[u8]) -> Result<(), WireError> {
        let mut message = BytesMut::with_capacity(payload.len() + 5);
        message.put_u8(kind);
        message.put_u32(payload.len() as u32 + 4);
        message.put_slice(payload);
        self.write(&message).await
    }

    async fn write(&mut self, mut bytes: &[u8]) -> Result<(), WireError> {
        while !bytes.is_empty() {
            match self.socket.write(bytes).await? {
                0 => return Err(WireError::Lost("the replication connection takes nothing any more".into())),
                written => bytes = bytes.get(written..).unwrap_or_default(),
            }
        }
        Ok(self.socket.flush().await?)
    }

    /// The next message: its kind and what follows. Loses nothing if it is given up.
    async fn message(&mut self) -> Result<(u8, BytesMut), WireError> {
        loop {
            if let Some(message) = taken(&mut self.input)? {
                return Ok(message);
            }
            let count = self.socket.read(&mut &mut self.chunk[..]).await?;
            if count == 0 {
                return Err(WireError::Lost("the replication connection was closed".into()));
            }
            self.input.extend_from_slice(self.chunk.get(..count).unwrap_or_default());
        }
    }
}

/// Takes a message out of the input, if it is there whole.
fn taken(input: &mut BytesMut) -> Result<Option<(u8, BytesMut)>, WireError> {
    let mut rest = Rest(input);
    let (Ok(kind), Ok(length)) = (rest.u8(), rest.u32()) else { return Ok(None) };
    let length = length as usize;
    if !(4..=MESSAGE_BYTES_MAX).contains(&length) {
        return Err(WireError::Protocol(format!("a message of {length} bytes")));
    }
    if input.len() <= length {
        return Ok(None);
    }
    let mut message = input.split_to(length + 1);
    message.advance(5);
    Ok(Some((kind, message)))
}

fn put_text(out: &mut BytesMut, text: &str) {
    out.put_slice(text.as_bytes());
    out.put_u8(0);
}

/// What the database says in an error.
fn refusal(payload: &[u8]) -> WireError {
    let mut rest = Rest(payload);
    let (mut code, mut message) = (String::new(), String::new());
    while let Ok(kind) = rest.u8()
        && kind != 0
        && let Ok(text) = rest.name()
    {
        match kind {
            b'C' => code = String::from_utf8_lossy(text).into_owned(),
            b'M' => message = String::from_utf8_lossy(text).into_owned(),
            _ => {}
        }
    }
    WireError::Refused { code, message }
}

/// The fields of a row, as texts.
fn fields(payload: &[u8]) -> Option<Vec<Option<String>>> {
    let mut rest = Rest(payload);
    let count = rest.u16().ok()?;
    let mut fields = Vec::new();
    for _ in 0..count {
        fields.push(match rest.u32().ok()? {
            // −1 stands for NULL.
            u32::MAX => None,
            length => Some(String::from_utf8_lossy(rest.bytes(length as usize).ok()?).into_owned()),
        });
    }
    Some(fields)
}

fn percent_decoded(text: &str) -> String {
    sqlx_core::percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_message_is_taken_when_it_is_whole() {
        let whole = [&b"d"[..], &7u32.to_be_bytes(), b"abc", b"Z"].concat();
        for end in 0..8 {
            let mut input = BytesMut::from(&whole[..end]);
            assert!(matches!(taken(&mut input), Ok(None)), "{end}");
            assert_eq!(input.len(), end);
        }
        let mut input = BytesMut::from(&whole[..]);
        let (kind, payload) = taken(&mut input).expect("a message").expect("whole");
        assert_eq!((kind, &payload[..], &input[..]), (b'd', &b"abc"[..], &b"Z"[..]));
        for length in [0, 3, u32::MAX] {
            let mut input = BytesMut::from(&[&b"d"[..], &length.to_be_bytes()].concat()[..]);
            assert!(taken(&mut input).is_err(), "{length}");
        }
    }

    #[test]
    fn an_error_is_told_with_its_code() {
        let error = refusal(b"SFATAL\0C42501\0Mmust be superuser or replication role\0\0");
        assert_eq!(error.to_string(), "must be superuser or replication role (42501)");
        assert_eq!(refusal(b"Mcut").to_string(), " ()");
        assert_eq!(fields(b"\0\x02\0\0\0\x01x\xff\xff\xff\xff"), Some(vec![Some("x".into()), None]));
        assert_eq!(fields(b"\0\x02\0\0\0\x01x"), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = refusal(&bytes);
            let _ = fields(&bytes);
            let mut input = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = taken(&mut input) {}
        }
    }
}
