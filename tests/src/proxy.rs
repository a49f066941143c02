//! A network between the server and its database that a test can spoil: slow, silent, cut, half closed, refusing.
//!
//! It knows just enough of PostgreSQL's protocol to count queries: a connection is busy from the message that runs a statement
//! until the database says that it is ready for the next. So it must see plain text (`sslmode=disable`).

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};

/// What is wrong with the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Nothing.
    None,
    /// Whatever is sent, either way, arrives so much later.
    Delay(Duration),
    /// Nothing arrives, not even that the other side has closed; what was sent meanwhile arrives later, unless its sender has gone.
    BlackHole,
    /// The database's side of every connection ends, as if it had closed it for sending; it still reads.
    HalfClose,
    /// Every connection is reset, the new ones too.
    Reset,
    /// Every connection is closed, and new ones are refused.
    Refuse,
}

/// A proxy in front of a port of this machine. Ends with the value.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    weather: watch::Sender<Weather>,
    counts: Arc<Counts>,
    end: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

#[derive(Clone, Copy, Debug)]
struct Weather {
    trouble: Trouble,
    /// Moves when all connections are to be cut.
    cuts: u64,
}

#[derive(Debug, Default)]
struct Counts {
    connections: AtomicUsize,
    queries: AtomicUsize,
    busy: AtomicUsize,
    busy_max: AtomicUsize,
}

impl Proxy {
    /// A proxy in front of `upstream`, which need not listen yet.
    ///
    /// # Panics
    /// If no thread can be started.
    #[must_use]
    pub fn before(upstream: u16) -> Self {
        Self::on(std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("some port is free"), upstream)
    }

    /// A proxy in front of `upstream` that listens here: on another host, if the listener was made there.
    ///
    /// # Panics
    /// If no thread can be started.
    #[must_use]
    pub fn on(listener: std::net::TcpListener, upstream: u16) -> Self {
        let (weather, forecast) = watch::channel(Weather { trouble: Trouble::None, cuts: 0 });
        let (end, ended) = oneshot::channel();
        let counts = Arc::new(Counts::default());
        listener.set_nonblocking(true).expect("a socket");
        let port = listener.local_addr().expect("it is bound").port();
        let counted = Arc::clone(&counts);
        let run = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a small runtime");
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).expect("it listens");
                tokio::select! {
                    () = accept_all(listener, upstream, forecast, counted) => {}
                    // The sender is dropped.
                    _ = ended => {}
                }
            });
        };
        let thread = std::thread::Builder::new().name("proxy".to_owned()).spawn(run).expect("a thread");
        Self { port, weather, counts, end: Some(end), thread: Some(thread) }
    }

    /// Where it listens.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The network is like that from now on.
    pub fn set(&self, trouble: Trouble) {
        self.weather.send_modify(|weather| weather.trouble = trouble);
    }

    /// Closes all connections there are; new ones are carried.
    pub fn cut(&self) {
        self.weather.send_modify(|weather| weather.cuts += 1);
    }

    /// Connections carried since the start.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.counts.connections.load(Ordering::SeqCst)
    }

    /// Queries that have passed since the start.
    #[must_use]
    pub fn queries(&self) -> usize {
        self.counts.queries.load(Ordering::SeqCst)
    }

    /// The most queries that were under way at one time since this was last called.
    pub fn take_peak(&self) -> usize {
        let peak = self.counts.busy_max.swap(0, Ordering::SeqCst);
        self.counts.busy_max.fetch_max(self.counts.busy.load(Ordering::SeqCst), Ordering::SeqCst);
        peak
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            // A panic there has been printed, and the test fails by what it sees.
            let _ = thread.join();
        }
    }
}

async fn accept_all(first: TcpListener, upstream: u16, mut forecast: watch::Receiver<Weather>, counts: Arc<Counts>) {
    let port = first.local_addr().expect("it is bound").port();
    let mut listener = Some(first);
    loop {
        let accepting = match listener.take() {
            Some(listener) => listener,
            None => match TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await {
                Ok(listener) => listener,
                // Somebody has the port for an outgoing connection.
                Err(_) => {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    continue;
                }
            },
        };
        let weather = forecast.clone();
        loop {
            tokio::select! {
                accepted = accepting.accept() => {
                    if let Ok((client, _)) = accepted {
                        tokio::spawn(carry(client, upstream, weather.clone(), Arc::clone(&counts)));
                    }
                }
                changed = forecast.wait_for(|weather| weather.trouble == Trouble::Refuse) => {
                    if changed.is_err() {
                        return;
                    }
                    break;
                }
            }
        }
        drop(accepting);
        if forecast.wait_for(|weather| weather.trouble != Trouble::Refuse).await.is_err() {
            return;
        }
    }
}

/// One connection, from its first byte to its last.
async fn carry(mut client: TcpStream, upstream: u16, weather: watch::Receiver<Weather>, counts: Arc<Counts>) {
    counts.connections.fetch_add(1, Ordering::SeqCst);
    let mut ends = weather.clone();
    let cuts = ends.borrow_and_update().cuts;
    let ended =
        ends.wait_for(|weather| weather.cuts != cuts || matches!(weather.trouble, Trouble::Reset | Trouble::Refuse));
    let is_reset = {
        let meter = Meter { counts: &counts, is_busy: AtomicBool::new(false) };
        let carried = async {
            // A socket that nobody listens on any more is as good as a closed connection.
            let Ok(mut database) = TcpStream::connect((Ipv4Addr::LOCALHOST, upstream)).await else { return };
            let _ = (client.set_nodelay(true), database.set_nodelay(true));
            let (from_client, to_client) = client.split();
            let (from_database, to_database) = database.split();
            let up = pump(from_client, to_database, weather.clone(), Way::Up(&meter, Messages::of_client()));
            let down = pump(from_database, to_client, weather, Way::Down(&meter, Messages::of_database()));
            // Either both ends have closed, or one is lost and the other must hear of it.
            let _ = tokio::try_join!(up, down);
        };
        tokio::select! {
            () = carried => false,
            weather = ended => weather.is_ok_and(|weather| weather.trouble == Trouble::Reset),
        }
    };
    if is_reset {
        let _ = client.set_zero_linger();
    }
}

/// Which way bytes go, and who counts in them.
enum Way<'m> {
    Up(&'m Meter<'m>, Messages),
    Down(&'m Meter<'m>, Messages),
}

/// Carries one direction to its end.
async fn pump(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    mut forecast: watch::Receiver<Weather>,
    mut way: Way<'_>,
) -> io::Result<()> {
    let mut chunk = vec![0; 16 * 1024];
    let mut held = Vec::new();
    let mut is_half_closed = false;
    loop {
        let trouble = forecast.borrow_and_update().trouble;
        if trouble == Trouble::HalfClose && matches!(way, Way::Down(..)) && !is_half_closed {
            is_half_closed = true;
            to.shutdown().await?;
        }
        if trouble != Trouble::BlackHole && !held.is_empty() {
            match &mut way {
                Way::Up(meter, messages) => messages.read(&held, |kind| meter.sent(kind)),
                Way::Down(meter, messages) => messages.read(&held, |kind| meter.answered(kind)),
            }
            if !is_half_closed {
                to.write_all(&held).await?;
            }
            held.clear();
        }
        let read = tokio::select! {
            read = from.read(&mut chunk) => read?,
            changed = forecast.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return Ok(()),
            },
        };
        match (read, trouble) {
            // Its peer has given up while nothing arrived: what it had sent never does.
            (0, Trouble::BlackHole) => return Err(io::ErrorKind::ConnectionAborted.into()),
            (0, _) if is_half_closed => return Ok(()),
            (0, _) => return to.shutdown().await,
            (_, Trouble::Delay(by)) => tokio::time::sleep(by).await,
            _ => {}
        }
        held.extend_from_slice(&chunk[..read]);
    }
}

/// Counts the queries of one connection.
struct Meter<'c> {
    counts: &'c Counts,
    is_busy: AtomicBool,
}

impl Meter<'_> {
    /// A message of the client: Execute or Query.
    fn sent(&self, kind: u8) {
        if matches!(kind, b'E' | b'Q') && !self.is_busy.swap(true, Ordering::SeqCst) {
            self.counts.queries.fetch_add(1, Ordering::SeqCst);
            let busy = self.counts.busy.fetch_add(1, Ordering::SeqCst) + 1;
            self.counts.busy_max.fetch_max(busy, Ordering::SeqCst);
        }
    }

    /// A message of the database: ReadyForQuery.
    fn answered(&self, kind: u8) {
        if kind == b'Z' && self.is_busy.swap(false, Ordering::SeqCst) {
            self.counts.busy.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

impl Drop for Meter<'_> {
    fn drop(&mut self) {
        self.answered(b'Z');
    }
}

/// Finds the messages in a stream of PostgreSQL's: a byte that says the kind, then a length of four bytes that counts itself.
#[derive(Debug)]
struct Messages {
    /// The client's first message has no kind.
    has_kind: bool,
    header: Vec<u8>,
    /// Bytes of the body still to come.
    body_left: usize,
}

impl Messages {
    fn of_client() -> Self {
        Self { has_kind: false, header: Vec::new(), body_left: 0 }
    }

    fn of_database() -> Self {
        Self { has_kind: true, header: Vec::new(), body_left: 0 }
    }

    fn read(&mut self, mut bytes: &[u8], mut begins: impl FnMut(u8)) {
        while !bytes.is_empty() {
            if self.body_left > 0 {
                let skipped = self.body_left.min(bytes.len());
                self.body_left -= skipped;
                bytes = &bytes[skipped..];
                continue;
            }
            self.header.push(bytes[0]);
            bytes = &bytes[1..];
            let kind_len = usize::from(self.has_kind);
            if let Some(Ok(len)) = self.header.get(kind_len..kind_len + 4).map(<[u8; 4]>::try_from) {
                if self.has_kind {
                    begins(self.header[0]);
                }
                self.body_left = (u32::from_be_bytes(len) as usize).saturating_sub(4);
                self.header.clear();
                self.has_kind = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_found_however_they_are_cut() {
        let mut stream = vec![0, 0, 0, 9, 0, 3, 0, 0, b'Z'];
        for kind in [b'P', b'E', b'S'] {
            stream.extend([kind, 0, 0, 0, 6, b'E', b'E']);
        }
        for len in 1..stream.len() {
            let mut messages = Messages::of_client();
            let mut kinds = Vec::new();
            stream.chunks(len).for_each(|chunk| messages.read(chunk, |kind| kinds.push(kind)));
            assert_eq!(kinds, b"PES", "in pieces of {len}");
        }
    }
}
