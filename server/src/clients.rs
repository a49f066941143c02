//! Who is connected: a card per connection that any thread may read, for `CLIENT LIST`, `CLIENT KILL` and the idle sweep.

use crate::front::Protocol;
use leasehold_command::{Client, ClientFilter, ClientRow, Names, name_by_index};
use leasehold_protocol::RespVersion;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// The name every client has: there is one user.
const USER: &str = "default";

/// No command yet.
const NO_COMMAND: u16 = u16::MAX;

/// One connection as other threads see it. Written by its own thread only.
#[derive(Debug)]
pub(crate) struct Card {
    pub(crate) id: u64,
    pub(crate) fd: i32,
    peer: SocketAddr,
    local: SocketAddr,
    connected_at_ms: u64,
    /// Server time of the last turn with input or output.
    active_at_ms: AtomicU64,
    last_command: AtomicU16,
    db: AtomicU8,
    /// The version of RESP; 0: the connection speaks memcached's protocol.
    resp: AtomicU8,
    no_evict: AtomicBool,
    no_touch: AtomicBool,
    parked: AtomicBool,
    /// Bytes received and not executed.
    input_bytes: AtomicU64,
    /// Bytes of replies not sent.
    output_bytes: AtomicU64,
    names: Mutex<Option<Box<Names>>>,
}

// All loads and stores are relaxed: each field stands for itself, and its reader wants a recent value.
impl Card {
    pub(crate) fn new(id: u64, fd: i32, peer: SocketAddr, local: SocketAddr, protocol: Protocol, now_ms: u64) -> Self {
        Self {
            id,
            fd,
            peer,
            local,
            connected_at_ms: now_ms,
            active_at_ms: AtomicU64::new(now_ms),
            last_command: AtomicU16::new(NO_COMMAND),
            db: AtomicU8::new(0),
            resp: AtomicU8::new(if protocol == Protocol::Resp { 2 } else { 0 }),
            no_evict: AtomicBool::new(false),
            no_touch: AtomicBool::new(false),
            parked: AtomicBool::new(false),
            input_bytes: AtomicU64::new(0),
            output_bytes: AtomicU64::new(0),
            names: Mutex::default(),
        }
    }

    /// The connection did something.
    #[inline]
    pub(crate) fn touch(&self, now_ms: u64) {
        self.active_at_ms.store(now_ms, Ordering::Relaxed);
    }

    /// Server time of the last turn that did something.
    pub(crate) fn active_at_ms(&self) -> u64 {
        self.active_at_ms.load(Ordering::Relaxed)
    }

    /// The last command of a turn.
    #[inline]
    pub(crate) fn note_command(&self, last_command: Option<u16>) {
        self.last_command.store(last_command.unwrap_or(NO_COMMAND), Ordering::Relaxed);
    }

    /// What only a few commands change.
    pub(crate) fn note_state(&self, client: &Client, version: RespVersion) {
        self.resp.store(if version == RespVersion::V3 { 3 } else { 2 }, Ordering::Relaxed);
        self.db.store(client.db.0, Ordering::Relaxed);
        self.no_evict.store(client.no_evict, Ordering::Relaxed);
        self.no_touch.store(client.no_touch, Ordering::Relaxed);
        self.names.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&client.names);
    }

    pub(crate) fn note_parked(&self, parked: bool) {
        self.parked.store(parked, Ordering::Relaxed);
    }

    pub(crate) fn is_parked(&self) -> bool {
        self.parked.load(Ordering::Relaxed)
    }

    /// What the connection holds.
    pub(crate) fn note_buffers(&self, input_bytes: usize, output_bytes: usize) {
        self.input_bytes.store(input_bytes as u64, Ordering::Relaxed);
        self.output_bytes.store(output_bytes as u64, Ordering::Relaxed);
    }

    /// Bytes of replies not sent.
    pub(crate) fn output_bytes(&self) -> u64 {
        self.output_bytes.load(Ordering::Relaxed)
    }

    /// The line of `CLIENT LIST`, with the fields and the order of Redis 7.4. What we do not have is 0.
    fn row(&self, now_ms: u64, asker: u64) -> ClientRow {
        let mut flags = String::new();
        for (flag, set) in [('b', &self.parked), ('e', &self.no_evict), ('T', &self.no_touch)] {
            if set.load(Ordering::Relaxed) {
                flags.push(flag);
            }
        }
        if flags.is_empty() {
            flags.push('N');
        }
        let command = if self.id == asker {
            "client|list".to_owned()
        } else {
            name_by_index(self.last_command.load(Ordering::Relaxed)).unwrap_or_else(|| "NULL".to_owned())
        };
        let (input, output) = (self.input_bytes.load(Ordering::Relaxed), self.output_bytes());
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner).clone().unwrap_or_default();
        let mut line = String::with_capacity(384);
        write!(
            line,
            "id={} addr={} laddr={} fd={} name={} age={} idle={} flags={flags} db={} sub=0 psub=0 ssub=0 multi=-1 watch=0 \
             qbuf={input} qbuf-free=0 argv-mem=0 multi-mem=0 rbs=0 rbp=0 obl={output} oll=0 omem={output} tot-mem={} \
             events={} cmd={command} user={USER} redir=-1 resp={} lib-name={} lib-ver={}",
            self.id,
            self.peer,
            self.local,
            self.fd,
            String::from_utf8_lossy(&names.name),
            now_ms.saturating_sub(self.connected_at_ms) / 1_000,
            now_ms.saturating_sub(self.active_at_ms()) / 1_000,
            self.db.load(Ordering::Relaxed),
            input + output + CONNECTION_BYTES,
            if output > 0 { "rw" } else { "r" },
            self.resp.load(Ordering::Relaxed),
            String::from_utf8_lossy(&names.lib_name),
            String::from_utf8_lossy(&names.lib_version),
        )
        .expect("a String takes every write");
        ClientRow { id: self.id, line }
    }

    /// What memcached's `stats conns` says of it.
    pub(crate) fn memcached_stats(&self, now_ms: u64) -> [(&'static str, String); 4] {
        let state = if self.is_parked() { "conn_waiting" } else { "conn_read" };
        let idle_s = now_ms.saturating_sub(self.active_at_ms()) / 1_000;
        [
            ("addr", format!("tcp:{}", self.peer)),
            ("listen_addr", format!("tcp:{}", self.local)),
            ("state", state.to_owned()),
            ("secs_since_last_cmd", idle_s.to_string()),
        ]
    }

    fn matches(&self, filter: &ClientFilter, now_ms: u64) -> bool {
        let is =
            |wanted: &Option<String>, value: &SocketAddr| wanted.as_ref().is_none_or(|text| *text == value.to_string());
        (filter.ids.is_empty() || filter.ids.contains(&self.id))
            && is(&filter.address, &self.peer)
            && is(&filter.local_address, &self.local)
            && filter.user.as_ref().is_none_or(|user| user == USER)
            && filter.kind.as_ref().is_none_or(|kind| kind == "normal")
            && filter.age_s_min.is_none_or(|age_s| now_ms.saturating_sub(self.connected_at_ms) / 1_000 >= age_s)
    }
}

/// What an idle connection costs beside its buffers, measured over 10,000 of them.
const CONNECTION_BYTES: u64 = 1_280;

/// The cards of one thread's connections.
#[derive(Debug, Default)]
pub(crate) struct Cards(Mutex<HashMap<u64, Arc<Card>>>);

impl Cards {
    pub(crate) fn add(&self, card: Arc<Card>) {
        self.lock().insert(card.id, card);
    }

    pub(crate) fn remove(&self, id: u64) {
        self.lock().remove(&id);
    }

    /// All cards, in no order.
    pub(crate) fn all(&self) -> Vec<Arc<Card>> {
        self.lock().values().cloned().collect()
    }

    /// Lines for `CLIENT LIST`, in no order, for the connection `asker`.
    pub(crate) fn rows(&self, now_ms: u64, asker: u64, rows: &mut Vec<ClientRow>) {
        rows.extend(self.all().iter().map(|card| card.row(now_ms, asker)));
    }

    /// Ids of the connections that `filter` means.
    pub(crate) fn matching(&self, filter: &ClientFilter, now_ms: u64) -> Vec<u64> {
        self.lock().values().filter(|card| card.matches(filter, now_ms)).map(|card| card.id).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Arc<Card>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn card(id: u64) -> Card {
        let peer = SocketAddr::from(([127, 0, 0, 1], 40_000 + id as u16));
        Card::new(id, 9, peer, SocketAddr::from(([127, 0, 0, 1], 6379)), Protocol::Resp, 10_000)
    }

    #[test]
    fn all_named_conditions_of_a_filter_must_hold() {
        let card = card(7);
        let filter = ClientFilter { address: Some("127.0.0.1:40007".to_owned()), ..ClientFilter::default() };
        assert!(card.matches(&filter, 12_000));
        assert!(!card.matches(&ClientFilter { ids: vec![8], ..filter.clone() }, 12_000));
        assert!(card.matches(&ClientFilter { ids: vec![7], ..filter.clone() }, 12_000));
        assert!(!card.matches(&ClientFilter { age_s_min: Some(3), ..filter.clone() }, 12_000));
        assert!(card.matches(&ClientFilter { age_s_min: Some(2), ..filter.clone() }, 12_000));
        assert!(!card.matches(&ClientFilter { kind: Some("pubsub".to_owned()), ..filter }, 12_000));
    }

    #[test]
    fn a_line_of_client_list_names_who_where_and_since_when() {
        let card = card(7);
        let mut client = Client::new(7, 0, card.peer, card.local, 10_000);
        client.names_mut().name = b"worker".to_vec();
        card.note_state(&client, RespVersion::V3);
        card.touch(15_000);
        let line = card.row(21_000, 0).line;
        assert!(
            line.starts_with(
                "id=7 addr=127.0.0.1:40007 laddr=127.0.0.1:6379 fd=9 name=worker age=11 idle=6 flags=N db=0"
            )
        );
        assert!(line.ends_with("resp=3 lib-name= lib-ver="));
    }
}
