//! Tests of the scribe and the flusher, each by itself, over a source that does what the test says.

use super::*;
use crate::config::live::LiveConfig;
use crate::config::options::loader_named;
use crate::load::Loaders;
use crate::log::LogControl;
use leasehold_loader_api::{LoadRequest, Loaded, Step, Stepped, WriteError, Writes};
use std::collections::BTreeMap;
use std::future::{Future, ready};
use std::pin::Pin;

/// A source in memory.
#[derive(Default)]
struct Store {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    rows: BTreeMap<Bytes, Bytes>,
    /// All that was committed, in order.
    applied: Vec<(Bytes, Option<Bytes>)>,
    position: u64,
    /// What becomes of the next writes.
    script: VecDeque<Fate>,
    /// Values that are refused.
    bad: Vec<Bytes>,
    tries: u64,
}

enum Fate {
    Fails(WriteError),
    /// It is committed, and nobody hears of it.
    IsLost,
}

impl Store {
    fn write(&self, changes: Vec<leasehold_loader_api::Change>, step: Option<Step>) -> Result<Stepped, WriteError> {
        let mut state = lock(&self.state);
        state.tries += 1;
        let fate = state.script.pop_front();
        if let Some(Fate::Fails(error)) = fate {
            return Err(error);
        }
        if let Some(step) = &step
            && state.position != step.from
        {
            let at = state.position;
            return Ok(if at == step.to { Stepped::Before } else { Stepped::Elsewhere { at } });
        }
        if changes.iter().any(|change| change.value.as_ref().is_some_and(|value| state.bad.contains(value))) {
            return Err(WriteError::Refused("bad".to_owned()));
        }
        for change in changes {
            match change.value.clone() {
                Some(value) => drop(state.rows.insert(change.key.clone(), value)),
                None => drop(state.rows.remove(&change.key)),
            }
            state.applied.push((change.key, change.value));
        }
        state.position = step.map_or(state.position, |step| step.to);
        match fate {
            Some(Fate::IsLost) => Err(WriteError::Unknown("nobody answers".to_owned())),
            _ => Ok(Stepped::Now),
        }
    }
}

type Answer<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

impl Loader for Store {
    fn matches(&self, _: &[u8]) -> bool {
        true
    }

    fn load(&self, _: LoadRequest) -> Answer<'_, Vec<Loaded>> {
        unreachable!("nothing is read")
    }

    fn batch_max(&self) -> usize {
        1
    }

    fn explain(&self, _: &[u8]) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    fn health(&self) -> Result<(), String> {
        Ok(())
    }

    fn writes(&self) -> Writes {
        Writes { upserts: true, deletes: true }
    }

    fn write(&self, changes: Vec<leasehold_loader_api::Change>) -> Answer<'_, Result<Vec<u64>, WriteError>> {
        let count = changes.len();
        Box::pin(ready(Store::write(self, changes, None).map(|_| vec![1; count])))
    }

    fn write_step(
        &self,
        changes: Vec<leasehold_loader_api::Change>,
        step: Step,
    ) -> Answer<'_, Result<Stepped, WriteError>> {
        Box::pin(ready(Store::write(self, changes, Some(step))))
    }

    fn position(&self, _: String) -> Answer<'_, Result<u64, WriteError>> {
        Box::pin(ready(Ok(lock(&self.state).position)))
    }
}

/// A node with one loader that writes behind. Nothing runs until the test lets it.
struct Bench {
    node: Arc<Node>,
    store: Arc<Store>,
    journal: Option<Journal>,
    orders: Option<mpsc::Receiver<Order>>,
    runtime: tokio::runtime::Runtime,
    _directory: tempfile::TempDir,
}

impl Bench {
    fn new(change: impl FnOnce(&mut LoaderConfig, &mut JournalConfig)) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let mut loader = loader_named("note");
        loader.settings.pattern = "note:{name}".to_owned();
        loader.source = "main".to_owned();
        loader.write = WriteMode::Behind;
        let mut config = Config { threads: 1, ..Config::default() };
        config.journal.directory = Some(directory.path().to_owned());
        config.journal.flush_interval = Duration::ZERO;
        config.journal.attempts_max = 1;
        change(&mut loader, &mut config.journal);
        config.loaders = vec![loader.clone()];
        let store = Arc::new(Store::default());
        let loaders = vec![(loader, Arc::clone(&store) as Arc<dyn Loader>)];
        let (behind, journal, orders) = open(&config, &loaders).expect("a new journal").expect("there is one");
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a thread");
        let (loaders, _) = Loaders::new(&[], loaders);
        let live = LiveConfig::new(config.clone());
        let node = Node::new(config, live, loaders, Some(runtime.handle().clone()), LogControl::for_tests(), 0);
        let node = Arc::new(node);
        assert!(node.behind.set(behind).is_ok());
        Self { node, store, journal: Some(journal), orders: Some(orders), runtime, _directory: directory }
    }

    fn behind(&self) -> &Behind {
        self.node.behind.get().expect("it was set")
    }

    fn desk(&self) -> &Arc<Desk> {
        self.behind().desk(0).expect("it writes behind")
    }

    /// Tells the scribe of a command, as a data thread does.
    fn send(&self, changes: &[(&'static str, Option<&'static str>)]) {
        self.order(changes, None);
    }

    fn order(&self, changes: &[(&'static str, Option<&'static str>)], letter: Option<u64>) {
        let change =
            |(key, value): &(&'static str, Option<&'static str>)| Change { key: bytes(key), value: value.map(bytes) };
        let changes = changes.iter().map(change).collect();
        let order = Order::Write { desk: Arc::clone(self.desk()), changes, waiter: None, letter };
        self.behind().orders.send(order).expect("the scribe's end is here");
    }

    /// Lets the scribe see to all it was told, as one group.
    fn scribe(&mut self) {
        self.behind().orders.send(Order::Stop).expect("the scribe's end is here");
        let (journal, orders) = (self.journal.take().expect("once"), self.orders.take().expect("once"));
        scribe::run(&self.node, journal, &orders);
    }

    fn start_flusher(&self) {
        self.runtime.spawn(flusher::run(Arc::clone(&self.node), Arc::clone(self.desk())));
    }

    /// Starts both, each on its own.
    fn start(&mut self) {
        let (journal, orders) = (self.journal.take().expect("once"), self.orders.take().expect("once"));
        let node = Arc::clone(&self.node);
        std::thread::spawn(move || scribe::run(&node, journal, &orders));
        self.start_flusher();
    }

    fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let patience = Instant::now() + Duration::from_secs(60);
        while !holds(self) {
            assert!(Instant::now() < patience, "waited in vain: {what}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn row(&self, key: &'static str) -> Option<Bytes> {
        lock(&self.store.state).rows.get(key.as_bytes()).cloned()
    }

    fn pending(&self, key: &'static str) -> Option<Option<Bytes>> {
        lock(&self.desk().pending).get(key.as_bytes()).cloned()
    }

    fn letter(&self, number: u64, key: &'static str, value: &'static str) {
        let change = JournalChange { loader: "note".into(), db: 0, key: bytes(key), value: Some(bytes(value)) };
        let letter = DeadLetter { number, change, attempts: 1, parked_at_ms: 1, reason: "bad".into() };
        self.behind().park(letter).expect("there is room");
    }

    fn letters(&self) -> usize {
        self.behind().letters(None).len()
    }

    fn script(&self, fates: impl IntoIterator<Item = Fate>) {
        lock(&self.store.state).script.extend(fates);
    }

    fn counter(&self, name: &str) -> i64 {
        let counters = self.behind().counters(0);
        counters.iter().find(|(field, _)| *field == name).unwrap_or_else(|| panic!("no counter {name}")).1
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        // A scribe that runs ends; one that does not has hung up.
        let _ = self.behind().orders.send(Order::Stop);
    }
}

fn bytes(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

#[test]
fn commands_that_come_together_share_one_sync() {
    const COMMANDS: usize = 1_000;

    let mut bench = Bench::new(|_, _| {});
    for _ in 0..COMMANDS / 2 {
        bench.send(&[("note:a", Some("1"))]);
        bench.send(&[("note:b", None), ("note:c", None)]);
    }
    bench.scribe();
    assert_eq!((bench.counter("journal_syncs"), bench.counter("behind_journaled")), (1, COMMANDS as i64 * 3 / 2));
    assert_eq!((bench.counter("behind_pending"), bench.pending("note:a")), (3, Some(Some(bytes("1")))));
}

#[test]
fn a_change_that_finds_no_room_in_the_journal_does_not_pass_one_before_it() {
    let mut bench = Bench::new(|_, journal| journal.bytes_max = 1);
    // One of its keys is on the way to the source already, so this one goes there whatever the journal has room for.
    lock(&bench.desk().directs).keys.insert(bytes("note:b"), 1);
    bench.send(&[("note:a", Some("1"))]);
    bench.send(&[("note:a", None), ("note:b", None)]);
    bench.scribe();
    bench.start_flusher();
    bench.until("both are written", |bench| lock(&bench.store.state).applied.len() == 3);
    let applied = lock(&bench.store.state).applied.clone();
    assert_eq!(applied[0], (bytes("note:a"), Some(bytes("1"))));
    assert_eq!((bench.row("note:a"), bench.counter("behind_direct")), (None, 2));
}

#[test]
fn a_letter_gives_way_to_a_later_change_of_its_key_also_to_one_of_the_same_moment() {
    let mut bench = Bench::new(|_, _| {});
    bench.letter(1, "note:a", "old");
    bench.letter(2, "note:b", "old");
    bench.letter(3, "note:c", "old");
    bench.send(&[("note:a", Some("new"))]);
    bench.order(&[("note:a", Some("old"))], Some(1));
    // Another was flushed, and took its letter along, after this order was given.
    bench.order(&[("note:b", Some("old"))], Some(2));
    bench.order(&[("note:c", Some("old"))], Some(3));
    bench.behind().remove_letter(2);
    bench.scribe();
    assert_eq!(bench.pending("note:a"), Some(Some(bytes("new"))));
    assert_eq!(bench.pending("note:b"), None);
    assert_eq!(bench.pending("note:c"), Some(Some(bytes("old"))));
    assert_eq!((bench.letters(), bench.counter("journal_syncs")), (0, 2));
}

#[test]
fn letters_that_are_replayed_together_share_one_sync() {
    let mut bench = Bench::new(|_, _| {});
    let keys = ["note:a", "note:b", "note:c", "note:d"];
    (1..).zip(keys).for_each(|(number, key)| bench.letter(number, key, "old"));
    assert_eq!(bench.behind().replay(b"note"), Ok(4));
    bench.scribe();
    assert!(keys.iter().all(|key| bench.pending(key) == Some(Some(bytes("old")))));
    assert_eq!((bench.letters(), bench.counter("journal_syncs")), (0, 1));
}

#[test]
fn a_letter_does_not_outlive_a_change_that_went_to_the_source_itself() {
    let mut bench = Bench::new(|_, journal| journal.pending_max = 0);
    bench.letter(1, "note:a", "old");
    bench.letter(2, "note:b", "old");
    bench.send(&[("note:a", Some("new"))]);
    bench.scribe();
    bench.start_flusher();
    bench.until("it is written", |bench| bench.row("note:a").is_some());
    bench.until("its letter is gone", |bench| bench.letters() == 1);
    assert_eq!(bench.behind().letters(None)[0].key, bytes("note:b"));
}

#[test]
fn a_position_that_was_moved_past_letters_unheard_is_found_again() {
    let mut bench = Bench::new(|_, _| {});
    lock(&bench.store.state).bad.push(bytes("bad"));
    bench.start();
    bench.until("it runs", |bench| lock(&bench.desk().pending).len() == 0);
    // Refused, which counts as the first and only try; then the empty step past it, whose answer is lost.
    bench.script([Fate::Fails(WriteError::Refused("bad".to_owned())), Fate::IsLost]);
    bench.send(&[("note:a", Some("bad"))]);
    bench.until("it is parked", |bench| bench.letters() == 1);
    bench.until("the step was tried", |bench| lock(&bench.store.state).script.is_empty());
    bench.send(&[("note:b", Some("1"))]);
    bench.until("the next is flushed", |bench| bench.row("note:b").is_some());
    assert!(!bench.desk().is_halted.load(Ordering::Relaxed));
    assert_eq!(bench.counter("behind_lost_positions"), 0);
}

#[test]
fn a_commit_whose_answer_was_lost_is_not_made_again_and_a_conflict_is_tried_again() {
    let mut bench = Bench::new(|_, _| {});
    bench.script([Fate::IsLost, Fate::Fails(WriteError::Blocked("deadlock".to_owned()))]);
    bench.start();
    bench.send(&[("note:a", Some("1"))]);
    bench.until("nothing is pending", |bench| bench.row("note:a").is_some() && bench.counter("behind_pending") == 0);
    assert_eq!(lock(&bench.store.state).applied.len(), 1);
    assert_eq!((bench.letters(), bench.behind().trouble(0)), (0, None));
}

#[test]
fn a_source_that_lost_what_it_had_goes_on_and_one_that_another_writes_for_does_not() {
    let mut bench = Bench::new(|_, _| {});
    bench.start();
    bench.send(&[("note:a", Some("1"))]);
    bench.until("it is flushed", |bench| bench.counter("behind_flushed") == 1);
    // A server took over that had not heard of it yet.
    lock(&bench.store.state).position = 0;
    bench.send(&[("note:b", Some("1"))]);
    bench.until("it is flushed", |bench| bench.counter("behind_flushed") == 2);
    assert_eq!((bench.row("note:b"), bench.counter("behind_lost_positions")), (Some(bytes("1")), 1));
    // Somebody with a copy of the directory.
    lock(&bench.store.state).position += 1_000;
    bench.send(&[("note:c", Some("1"))]);
    bench.until("it has stopped", |bench| bench.desk().is_halted.load(Ordering::Relaxed));
    let trouble = bench.behind().trouble(0).expect("it says why");
    assert!(trouble.contains("its directory is used elsewhere, or was restored from a copy"), "{trouble}");
    let waiter = Waiter { thread: 0, connection: 1, ticket: 0, index: 0 };
    let refused = bench.behind().submit(0, Vec::new(), waiter, 10);
    assert_eq!(refused, Err(format!("WRITEFAIL note {trouble}")));
    // What was on its way to the journal is refused, too: nobody would ever flush it.
    bench.send(&[("note:d", Some("1"))]);
    bench.until("it is refused", |bench| bench.counter("behind_refused") == 1);
    assert_eq!((bench.pending("note:c"), bench.pending("note:d")), (Some(Some(bytes("1"))), None));
}

#[test]
fn what_a_source_takes_from_nobody_is_no_dead_letter_and_leaves_the_breaker_alone() {
    let mut bench = Bench::new(|loader, _| loader.breaker.calls_min = 1);
    let fails = || Fate::Fails(WriteError::Blocked("relation \"notes\" does not exist".to_owned()));
    bench.script((0..4).map(|_| fails()));
    bench.start();
    bench.send(&[("note:a", Some("1"))]);
    bench.until("it is seen", |bench| bench.behind().trouble(0).is_some());
    assert_eq!(bench.behind().trouble(0).as_deref(), Some("blocked: relation \"notes\" does not exist"));
    bench.until("it is flushed", |bench| bench.row("note:a").is_some());
    assert_eq!((bench.letters(), bench.counter("behind_retries"), bench.counter("behind_parked")), (0, 4, 0));
    let gate = bench.node.loaders.gate(0).expect("there is one");
    assert_eq!(gate.trouble(Instant::now()), None);
    bench.until("the trouble is over", |bench| bench.behind().trouble(0).is_none());
}

fn away() -> Fate {
    Fate::Fails(WriteError::Unavailable("gone".to_owned()))
}

#[test]
fn while_the_breaker_is_open_nothing_is_tried_and_who_would_wait_for_the_source_is_told_at_once() {
    let mut bench = Bench::new(|loader, journal| {
        // The question for the position is a call, too.
        (loader.breaker.calls_min, loader.breaker.open) = (3, Duration::from_secs(3_600));
        journal.pending_max = 1;
    });
    bench.script([away(), away()]);
    bench.start();
    bench.send(&[("note:a", Some("1"))]);
    let gate = bench.node.loaders.gate(0).expect("there is one");
    bench.until("it is open", |_| gate.refusal(Instant::now()).is_some_and(|text| text.starts_with("breaker open")));
    // There is no room in the journal for another.
    bench.send(&[("note:b", Some("1"))]);
    bench.until("it is refused", |bench| bench.counter("behind_refused") == 1);
    bench.until("the flusher has come again", |bench| bench.counter("behind_retries") >= 4);
    assert_eq!(bench.row("note:b"), None);
    assert_eq!(lock(&bench.store.state).tries, 2);
    // What has opened it is what operators see.
    assert_eq!(bench.behind().trouble(0).as_deref(), Some("source unavailable: gone"));
}

#[test]
fn a_flush_that_is_let_through_closes_the_breaker() {
    let mut bench = Bench::new(|loader, _| {
        (loader.breaker.calls_min, loader.breaker.open) = (1, Duration::from_millis(1));
    });
    bench.script([away(), Fate::Fails(WriteError::TimedOut(Duration::from_secs(2))), away()]);
    bench.start();
    bench.send(&[("note:a", Some("1"))]);
    bench.until("it is flushed", |bench| bench.counter("behind_flushed") == 1);
    let gate = bench.node.loaders.gate(0).expect("there is one");
    assert_eq!(gate.trouble(Instant::now()), None);
    let counters = gate.counters(Instant::now());
    let probes = counters.iter().find(|(name, _)| *name == "breaker_probes").expect("it is counted").1;
    assert_eq!((probes, bench.letters()), (3, 0), "{counters:?}");
}
