//! What commands need of the world outside: loaders, configuration, other clients, the machine.
//!
//! Two implementations: the binary, and the simulator in `tests/`. Nothing here is on the path of a hit.

use crate::client::Client;
use crate::error::ReplyError;
use bytes::Bytes;
use leasehold_cluster::{Member, Peers};
use leasehold_keyspace::{Db, Load, Turn, Waiter};

/// See the module.
pub trait Host {
    // Loaders.

    /// The loader of a key, if one matches.
    fn loader_for(&self, db: Db, key: &[u8]) -> Option<LoaderPolicy>;

    /// When a value of `key` that is fresh for `left_ms` more is due for a refresh; `None` if no loader matches, or its values are
    /// not refreshed so early. Asked for hits near their end only ([`leasehold_keyspace::Turn::near_end_ms`]).
    fn refresh_rule(&self, db: Db, key: &[u8], left_ms: u64) -> Option<RefreshRule> {
        let _ = (db, key, left_ms);
        None
    }

    /// Starts loads whose leases the server holds; those of one loader reach it together, and share queries as far as they
    /// take them. Each ends in [`leasehold_keyspace::Keyspace::fill`], `fail` or `drop_load`, whatever becomes of the clients; one
    /// that passes the loader's hard timeout is told to `overdue`, and runs on.
    ///
    /// Answers the loads that were refused, with the text of the error reply (`LOADBUSY …`): the loader's queue is full or
    /// the server is shutting down. The caller passes it to `Keyspace::fail`.
    fn start_loads(&self, loads: Vec<Load>) -> Vec<(Load, String)>;

    /// Loaders in the order of the configuration, with all that is counted of them: takes milliseconds.
    fn loaders(&self) -> Vec<View>;

    /// `LOADER PAUSE`, `LOADER RESUME`, `LOADER WARM`.
    ///
    /// # Errors
    /// The text of the error reply: there is no such loader, or it cannot do that now.
    fn order_loader(&self, name: &[u8], order: LoaderOrder) -> Result<(), String> {
        let _ = (name, order);
        Err(NO_LOADER_NAMED.to_owned())
    }

    /// `LOADER RELOAD`: reads the configuration again; `waiter` is woken when loaders, sources and feeds are as it says (`Written`), or when
    /// it was refused and all is as it was (`Failed`).
    ///
    /// # Errors
    /// The text of the error reply: nothing was begun.
    fn reload(&self, waiter: Waiter) -> Result<(), String> {
        let _ = waiter;
        Err(NO_CONFIGURATION.to_owned())
    }

    /// Feeds in the order of the configuration.
    fn feeds(&self) -> Vec<View> {
        Vec::new()
    }

    /// The name of a loader, by its place in the configuration.
    fn loader_name(&self, loader: u32) -> String;

    /// Counts a load that is not even asked for, as its command has asked for [`LoaderPolicy::loads_max`] already; the text of
    /// the error.
    fn refuse_load(&self, loader: u32) -> String;

    /// `LOADER EXPLAIN`: how this key would be loaded, as field and value; `None` if no loader matches.
    fn explain(&self, db: Db, key: &[u8]) -> Option<Vec<(&'static str, String)>>;

    /// `LOADER TEST`: runs the key's load without storing anything; the answer comes as a wake of `waiter`.
    ///
    /// # Errors
    /// The text of the error reply.
    fn test_load(&self, db: Db, key: &[u8], waiter: Waiter) -> Result<(), String>;

    /// Whether any loader writes to its source.
    fn writes_to_sources(&self) -> bool {
        false
    }

    /// The loader of a key, if one matches and writes to its source.
    fn writer_for(&self, _db: Db, _key: &[u8]) -> Option<u32> {
        None
    }

    /// Whether changes of a key may be answered before its source has them.
    fn writes_behind(&self, db: Db, key: &[u8]) -> bool {
        let _ = (db, key);
        false
    }

    /// Writes changes of a loader's keys to its source, all or none; once they are committed, or may be, the keys are invalidated
    /// and `waiter` is woken. How long to wait for that, in ms.
    ///
    /// # Errors
    /// The text of the error reply: nothing was begun.
    fn start_write(&self, loader: u32, _db: Db, _changes: Vec<Change>, _waiter: Waiter) -> Result<u64, String> {
        Err(format!("WRITEFAIL {} nothing is written to sources here", self.loader_name(loader)))
    }

    /// Brings the pending change of a key back into the keyspace, if its loader writes behind and has one: its value, or `None` inside for
    /// a deletion. For who does not find a fresh value.
    fn restore_pending(&self, turn: &mut Turn, db: Db, key: &[u8]) -> Option<Option<Bytes>> {
        let _ = (turn, db, key);
        None
    }

    /// Whether a key has a change that its source does not have yet.
    fn is_pending(&self, db: Db, key: &[u8]) -> bool {
        let _ = (db, key);
        false
    }

    /// The number of the last change that was answered before the source has it.
    fn last_change(&self) -> u64 {
        0
    }

    /// The loader of this name, if it writes behind.
    fn writer_named(&self, name: &[u8]) -> Option<u32> {
        let _ = name;
        None
    }

    /// How many changes up to this number are not flushed, of one loader or of all.
    fn unflushed(&self, loader: Option<u32>, up_to: u64) -> u64 {
        let _ = (loader, up_to);
        0
    }

    /// Wakes `waiter` once all up to this number are flushed. `false`: they are.
    fn wait_flushed(&self, loader: Option<u32>, up_to: u64, waiter: Waiter) -> bool {
        let _ = (loader, up_to, waiter);
        false
    }

    /// The waiter waits for a flush no more.
    fn leave_flush(&self, waiter: Waiter) {
        let _ = waiter;
    }

    /// Changes that their source refused for good, of one loader or of all.
    fn letters(&self, loader: Option<&[u8]>) -> Vec<LetterView> {
        let _ = loader;
        Vec::new()
    }

    /// Tries the dead letters of a loader again; how many.
    ///
    /// # Errors
    /// The text of the error reply.
    fn replay_letters(&self, loader: &[u8]) -> Result<u64, String> {
        let _ = loader;
        Err(NO_JOURNAL.to_owned())
    }

    /// Forgets the dead letters of a loader; how many.
    ///
    /// # Errors
    /// The text of the error reply.
    fn drop_letters(&self, loader: &[u8]) -> Result<u64, String> {
        let _ = loader;
        Err(NO_JOURNAL.to_owned())
    }

    /// What the auditor has counted, by loader; `None`: there is no auditor.
    fn audits(&self) -> Option<Vec<AuditView>> {
        None
    }

    /// The violations that the auditor keeps, newest first; `None`: there is no auditor.
    fn violations(&self) -> Option<Vec<ViolationView>> {
        None
    }

    /// Has the auditor forget what it has counted and kept. `false`: there is none.
    fn reset_audit(&self) -> bool {
        false
    }

    // Configuration.

    /// `CONFIG GET`: name and value of each option whose name (Redis's or ours) matches one of the glob patterns.
    fn config_get(&self, patterns: &[&[u8]]) -> Vec<(String, String)>;

    /// `CONFIG SET`: all or none.
    ///
    /// # Errors
    /// Which option is unknown, fixed at start or out of range.
    fn config_set(&self, pairs: &[(&[u8], &[u8])]) -> Result<(), ReplyError>;

    /// `CONFIG RESETSTAT`.
    fn reset_stats(&self);

    /// Number of databases.
    fn databases(&self) -> u8;

    /// Whether `password` is right for `user` (`default` if none was named). `None`: no password is configured.
    fn check_password(&self, user: &[u8], password: &[u8]) -> Option<bool>;

    /// The longest time a client may be parked by its own wish, in ms; a longer one is cut to it.
    fn wait_ms_max(&self) -> u64 {
        u64::MAX
    }

    /// The longest value that a command may build, in bytes (`proto-max-bulk-len`), at most
    /// [`crate::argument::VALUE_BYTES_MAX`].
    fn value_bytes_max(&self) -> u64 {
        crate::argument::VALUE_BYTES_MAX
    }

    /// Whether clients must authenticate.
    fn password_required(&self) -> bool;

    // The node.

    /// The nodes, and which of them this one is; `None`: it is alone.
    fn member(&self) -> Option<&Member> {
        None
    }

    /// What this node knows of the others; `None`: there are none.
    fn peers(&self) -> Option<&Peers> {
        None
    }

    /// Whether copies of other nodes' entries are kept here at all.
    fn keeps_copies(&self) -> bool {
        false
    }

    /// Whether there may be some now: cheap.
    fn may_have_copies(&self) -> bool {
        false
    }

    /// Reads the copy of another node's entry that this one may answer with, now: its value, and the client flags of memcached. `false`: there is none.
    fn read_copy(&self, key: &[u8], read: &mut dyn FnMut(&[u8], u32)) -> bool {
        let _ = (key, read);
        false
    }

    /// The text of `INFO` for these sections (lower case; empty: the default set).
    fn info(&self, sections: &[&[u8]]) -> String;

    // What only memcached's clients ask for.

    /// Whether the password is this user's, in the file of `memcached-auth-file`.
    fn check_memcached_user(&self, user: &[u8], password: &[u8]) -> bool {
        let _ = (user, password);
        false
    }

    /// The largest entry that memcached's clients may store, as memcached counts it.
    fn memcached_entry_bytes_max(&self) -> usize {
        leasehold_protocol::memcached::Limits::DEFAULT.entry_bytes_max
    }

    /// Flushes all databases at that server time, instead of when it was asked for before; `None`: at none.
    fn flush_at(&self, at_ms: Option<u64>) {
        let _ = at_ms;
    }

    /// Whether [`Host::shut_down`] is allowed.
    fn may_shut_down(&self) -> bool {
        false
    }

    /// Ends the server in order, soon.
    fn shut_down(&self) {}

    /// Names and values of `stats`.
    fn memcached_stats(&self, of: StatsOf) -> Vec<(String, String)> {
        let _ = of;
        Vec::new()
    }

    /// Counts for memcached's `stats`.
    fn count(&self, count: Count, number: u64) {
        let _ = (count, number);
    }

    /// Wall clock in microseconds since 1970, for `TIME`.
    fn wall_us(&self) -> u64;

    /// All connections, in order of id.
    fn clients(&self) -> Vec<ClientRow>;

    /// Closes the matching connections of all threads; how many. The caller's own, if it matches, is counted but left
    /// to the caller to close.
    fn kill_clients(&self, filter: &ClientFilter, caller: u64) -> usize;
}

/// Which of memcached's `stats`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatsOf {
    /// Without a word behind it.
    General,
    /// `settings`.
    Settings,
    /// `items`.
    Items,
    /// `slabs`.
    Slabs,
    /// `sizes`.
    Sizes,
    /// `conns`.
    Connections,
}

/// What memcached's `stats` counts, by the names that it gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are memcached's, and say it")]
pub enum Count {
    GetHits,
    GetMisses,
    CmdSet,
    CmdFlush,
    CmdMeta,
    DeleteHits,
    DeleteMisses,
    IncrHits,
    IncrMisses,
    DecrHits,
    DecrMisses,
    CasHits,
    CasBadval,
    CasMisses,
    TouchHits,
    TouchMisses,
    StoreTooLarge,
    StoreNoMemory,
    AuthCmds,
    AuthErrors,
    /// Values that were lengthened in place. memcached makes a new item of each, and counts it among `total_items`.
    Lengthened,
}

impl Count {
    /// So many there are.
    pub const TOTAL: usize = Self::Lengthened as usize + 1;
}

/// One change of a key for its source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The key.
    pub key: Bytes,
    /// Its new value; `None` deletes it.
    pub value: Option<Bytes>,
}

/// A change that its source refused for good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LetterView {
    /// The name of its loader.
    pub loader: String,
    /// Database of the key.
    pub db: u8,
    /// The key.
    pub key: Bytes,
    /// The value that was to be written; `None`: it was to be deleted.
    pub value: Option<Bytes>,
    /// Its number in the journal.
    pub number: u64,
    /// How often it was tried.
    pub attempts: u32,
    /// When it was given up, in ms since 1970.
    pub parked_at_ms: u64,
    /// What the source said.
    pub reason: String,
}

/// What the auditor has counted of a loader.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditView {
    /// The name of the loader.
    pub loader: String,
    /// Shares, in order.
    pub texts: Vec<(String, String)>,
    /// Counters, in order.
    pub counters: Vec<(String, i64)>,
}

/// An entry that was not what its source had.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ViolationView {
    /// The name of the loader.
    pub loader: String,
    /// The key.
    pub key: Bytes,
    /// Fields that are texts, in order.
    pub texts: Vec<(&'static str, String)>,
    /// Fields that are numbers, in order; -1 stands for none.
    pub numbers: Vec<(&'static str, i64)>,
    /// The value that was cached, if it is to be shown.
    pub cached_value: Option<Bytes>,
    /// The value of the source, if it is to be shown.
    pub source_value: Option<Bytes>,
    /// What became of the key lately, oldest first: each a time in ms since 1970 and words.
    pub history: Vec<String>,
}

/// The error where nothing is written behind.
pub const NO_JOURNAL: &str = "ERR there is no [journal], so no loader writes behind";

/// The error where there is no configuration file.
pub const NO_CONFIGURATION: &str =
    "ERR there is no configuration file to read again: the server was started without --conf";

/// The error for a name that no loader has.
pub const NO_LOADER_NAMED: &str = "NOLOADER no loader has this name";

/// What an operator tells a loader to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoaderOrder {
    /// Start no load until told to go on. Those under way end as ever.
    Pause,
    /// Go on.
    Resume,
    /// Load keys before anybody asks for them.
    Warm {
        /// Which.
        keys: WarmKeys,
        /// So many a second; `None`: as configured.
        rate: Option<u32>,
    },
    /// End the warming that is under way.
    StopWarm,
}

/// The keys to warm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WarmKeys {
    /// These.
    Named(Vec<Bytes>),
    /// Those whose placeholders this query selects, in its order.
    Selected(String),
}

/// What a reader of a loader's key must know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoaderPolicy {
    /// Index of the loader.
    pub loader: u32,
    /// Whether GET and MGET load (`mode = "transparent"`), or only LOADTHROUGH.
    pub transparent: bool,
    /// What a reader of a stale key gets.
    pub serve_stale: ServeStale,
    /// After so long a stale value is served instead of waiting on, in ms.
    pub soft_timeout_ms: u64,
    /// After so long the waiter gets `-LOADFAIL`, in ms.
    pub hard_timeout_ms: u64,
    /// So many loads may wait for the source (`queue`), and one command starts no more.
    pub loads_max: usize,
}

/// When a loader's values are loaded anew before they expire, and by which loader.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RefreshRule {
    /// Index of the loader.
    pub loader: u32,
    /// Whether GET and MGET load, too (`mode = "transparent"`), or only LOADTHROUGH.
    pub transparent: bool,
    /// As its values near their end.
    pub when: RefreshWhen,
}

/// `refresh` of a loader that has one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RefreshWhen {
    /// At the first access so long before the end, in ms.
    Ahead {
        /// The rest of the TTL past its share.
        early_ms: u64,
    },
    /// By chance, the likelier the nearer the end, measured in load times of the key: at an access at which
    /// `now − Δ·β·ln(random) ≥ expiry` (Vattani, Chierichetti, Lowenstein: Optimal Probabilistic Cache Stampede Prevention, VLDB
    /// 2015).
    XFetch {
        /// Above 1: earlier.
        beta: f64,
    },
}

/// `serve_stale` of a loader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServeStale {
    /// Readers wait for the load.
    Never,
    /// Readers wait; the stale value is the answer when the load fails or takes longer than the soft timeout.
    OnError,
    /// Readers get the stale value at once; a load refreshes it behind them.
    Always,
}

/// One loader in `LOADER LIST` and `LOADER STATS`, or one feed in `FEED LIST` and `FEED STATS`.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// As configured.
    pub name: String,
    /// Fields of the list (match, source, mode, value, ttl_ms, state …) in order.
    pub settings: Vec<(&'static str, String)>,
    /// Counters in order.
    pub counters: Vec<(&'static str, i64)>,
}

/// One connection in `CLIENT LIST`.
#[derive(Clone, Debug, Default)]
pub struct ClientRow {
    /// `CLIENT ID`.
    pub id: u64,
    /// The whole line without a line end: `id=… addr=… …`.
    pub line: String,
}

/// Which connections `CLIENT KILL` means; all named conditions must hold.
#[derive(Clone, Debug, Default)]
pub struct ClientFilter {
    /// One of these; empty: any.
    pub ids: Vec<u64>,
    /// Of the peer, `host:port`.
    pub address: Option<String>,
    /// Ours on the connection.
    pub local_address: Option<String>,
    /// Whom it authenticated as.
    pub user: Option<String>,
    /// `normal`, `master`, `replica`, `pubsub`.
    pub kind: Option<String>,
    /// Connected for at least so many seconds.
    pub age_s_min: Option<u64>,
    /// Whether the caller is left alone.
    pub skip_caller: bool,
}

impl ClientFilter {
    /// Whether all named conditions hold for a client at `now_ms` in server time; `skip_caller` is for the caller to see to.
    #[must_use]
    pub fn matches(&self, client: &Client, now_ms: u64) -> bool {
        let age_s = now_ms.saturating_sub(client.connected_at_ms) / 1000;
        (self.ids.is_empty() || self.ids.contains(&client.id))
            && self.address.as_ref().is_none_or(|address| *address == client.address.to_string())
            && self.local_address.as_ref().is_none_or(|address| *address == client.local_address.to_string())
            && self.user.as_ref().is_none_or(|user| user == "default")
            && self.kind.as_ref().is_none_or(|kind| kind == "normal")
            && self.age_s_min.is_none_or(|age_s_min| age_s >= age_s_min)
    }
}
