//! Tests of the queue, the scheduler and what they count.

use super::*;
use crate::config::Config;
use crate::config::live::LiveConfig;
use crate::config::options::loader_named;
use crate::log::LogControl;
use leasehold_keyspace::{Claim, Claimant, Claimed, LoadCause};
use leasehold_loader_api::{Change, WriteError, Writes};
use std::pin::Pin;
use std::sync::atomic::AtomicBool;

fn job(key: &'static str, token: u64) -> Job {
    let load =
        Load { db: Db(0), key: Bytes::from_static(key.as_bytes()), token, loader: 0, cause: LoadCause::Invalidated };
    Job { load, asked: Instant::now() }
}

#[test]
fn a_key_wanted_twice_is_asked_once_and_answered_twice() {
    let (keys, jobs) = group_by_key(vec![job("a", 2), job("b", 3), job("a", 4)]);
    assert_eq!(keys, ["a", "b"]);
    let tokens: Vec<Vec<u64>> = jobs.iter().map(|jobs| jobs.iter().map(|job| job.load.token).collect()).collect();
    assert_eq!(tokens, [vec![2, 4], vec![3]]);
}

/// Matches all keys, and is never asked: its loads are counted by who sends them.
pub(crate) struct Unasked;

impl Loader for Unasked {
    fn matches(&self, _: &[u8]) -> bool {
        true
    }

    fn load(&self, _: LoadRequest) -> Pin<Box<dyn Future<Output = Vec<Loaded>> + Send + '_>> {
        unreachable!("nobody asks")
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
}

fn users() -> LoaderConfig {
    let mut config = loader_named("users");
    config.settings.pattern = "user:{id:int}".to_owned();
    config.source = "main".to_owned();
    config.concurrency_max = 1;
    config.batch_window = Duration::ZERO;
    config
}

#[test]
fn misses_on_a_full_loader_are_refused_and_nothing_is_queued_for_them() {
    let config = LoaderConfig { queue_max: 3, ..users() };
    let (loaders, mut queues) = Loaders::new(&[], vec![(config, Arc::new(Unasked))]);
    let queue = &mut queues[0];
    let miss = |token| job("user:1", token).load;
    let refused = loaders.start(&loaders.table(), (1..=5).map(miss).collect());
    assert_eq!(refused.iter().map(|(load, _)| load.token).collect::<Vec<_>>(), [4, 5]);
    assert_eq!(queue.try_recv().map(|group| group.len()), Ok(3));
    for token in 0..10_000 {
        let refused = loaders.start(&loaders.table(), vec![miss(token)]);
        assert!(matches!(&refused[..], [(load, text)] if load.token == token && text.starts_with("LOADBUSY users ")));
    }
    assert!(queue.try_recv().is_err(), "the channel is empty");
    assert_eq!(loaders.table().list[0].counters.busy.load(Ordering::Relaxed), 10_002);
}

#[test]
fn jitter_spreads_evenly_up_and_down_and_no_further() {
    assert_eq!(jittered(1_000, 0.1, 0), 900);
    assert_eq!(jittered(1_000, 0.1, u64::MAX), 1_099);
    assert_eq!(jittered(1_000, 0.1, 1 << 63), 1_000);
    assert_eq!(jittered(1_000, 0.0, u64::MAX), 1_000);
    assert_eq!(jittered(u64::MAX, 0.5, u64::MAX), u64::MAX);
}

#[test]
fn quantiles_bound_the_times_from_above() {
    let counters = LoadCounters::default();
    (0..98).for_each(|_| counters.note_time(Duration::from_micros(100)));
    counters.note_time(Duration::from_millis(50));
    counters.note_time(Duration::from_millis(50));
    assert_eq!(counters.quantile_us(50), 128);
    assert_eq!(counters.quantile_us(99), 65_536);
}

/// A source that is down until it is mended, and says nothing while it is held.
#[derive(Default)]
struct Fickle {
    is_up: AtomicBool,
    is_held: AtomicBool,
    asked: AtomicU64,
}

impl Loader for Fickle {
    fn matches(&self, _: &[u8]) -> bool {
        true
    }

    fn load(&self, request: LoadRequest) -> Pin<Box<dyn Future<Output = Vec<Loaded>> + Send + '_>> {
        Box::pin(async move {
            self.asked.fetch_add(1, Ordering::SeqCst);
            while self.is_held.load(Ordering::SeqCst) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            let answer = match self.is_up.load(Ordering::SeqCst) {
                true => Ok(Row::Absent),
                false => Err(LoadError::Unavailable("gone".to_owned())),
            };
            vec![answer; request.keys.len()]
        })
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

    fn write(&self, changes: Vec<Change>) -> Pin<Box<dyn Future<Output = Result<Vec<u64>, WriteError>> + Send + '_>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let answer = match self.is_up.load(Ordering::SeqCst) {
            true => Ok(vec![1; changes.len()]),
            false => Err(WriteError::Unavailable("gone".to_owned())),
        };
        Box::pin(std::future::ready(answer))
    }
}

/// A scheduler in front of a [`Fickle`] source.
struct Bench {
    node: Arc<Node>,
    source: Arc<Fickle>,
    next_key: u64,
    _runtime: tokio::runtime::Runtime,
}

impl Bench {
    fn new(change: impl FnOnce(&mut LoaderConfig)) -> Self {
        let mut settings = users();
        settings.breaker.calls_min = 4;
        change(&mut settings);
        let config = Config { threads: 1, loaders: vec![settings.clone()], ..Config::default() };
        let source = Arc::new(Fickle::default());
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a thread");
        let (loaders, queues) = Loaders::new(&[], vec![(settings, Arc::clone(&source) as Arc<dyn Loader>)]);
        let live = LiveConfig::new(config.clone());
        let node = Node::new(config, live, loaders, Some(runtime.handle().clone()), LogControl::for_tests(), 0);
        let node = Arc::new(node);
        {
            let _inside = runtime.enter();
            start_schedulers(&node, queues);
        }
        Self { node, source, next_key: 0, _runtime: runtime }
    }

    /// Misses so many keys that nobody has asked for before; the refused ones.
    fn miss(&mut self, count: u64) -> Vec<String> {
        let mut turn = self.node.turn();
        let loads = (0..count).map(|_| {
            self.next_key += 1;
            let key = Bytes::from(format!("user:{}", self.next_key));
            let waiter = Some(Waiter { thread: 0, connection: self.next_key, ticket: 0, index: 0 });
            let claim = Claim {
                claimant: Claimant::Server { loader: 0 },
                lease_ms: None,
                version_min: None,
                fresh_required: false,
                stale_ms_max: None,
                waiter,
            };
            let Claimed::Lead { token, .. } = self.node.keyspace.claim(&mut turn, Db(0), &key, claim) else {
                panic!("a new key has no holder")
            };
            Load { db: Db(0), key, token, loader: 0, cause: LoadCause::Missed }
        });
        let refused = self.node.loaders.start(&self.node.loaders.table(), loads.collect());
        refused.into_iter().map(|(_, text)| text).collect()
    }

    /// Writes a key through.
    fn write(&self) -> Result<u64, String> {
        let change = leasehold_command::Change { key: Bytes::from_static(b"user:1"), value: None };
        let waiter = Waiter { thread: 0, connection: 1, ticket: 0, index: 0 };
        write::start(&self.node, 0, Db(0), vec![change], waiter)
    }

    fn counter(&self, name: &str) -> i64 {
        let (_, view) = &self.node.loaders.table().views()[0];
        view.counters.iter().find(|(field, _)| *field == name).unwrap_or_else(|| panic!("no counter {name}")).1
    }

    /// Whether each miss has its outcome, which is counted when the breaker knows of it.
    fn is_settled(&self) -> bool {
        let outcomes = ["absent", "errors", "busy", "cut_off"];
        outcomes.iter().map(|name| self.counter(name)).sum::<i64>() as u64 == self.next_key
    }

    fn state(&self) -> String {
        let (_, view) = &self.node.loaders.table().views()[0];
        view.settings.iter().find(|(field, _)| *field == "state").expect("there is a state").1.clone()
    }

    fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let patience = Instant::now() + Duration::from_secs(20);
        while !holds(self) {
            assert!(Instant::now() < patience, "waited in vain: {what}");
            std::thread::yield_now();
        }
    }
}

#[test]
fn nothing_reaches_the_source_while_the_breaker_is_open_not_even_what_was_queued_before() {
    let mut bench = Bench::new(|_| {});
    assert!(bench.miss(10).is_empty());
    bench.until("all are answered", |bench| bench.counter("errors") + bench.counter("cut_off") == 10);
    assert_eq!((bench.counter("keys"), bench.counter("cut_off")), (4, 6));
    assert_eq!((bench.state().as_str(), bench.counter("breaker_trips")), ("open", 1));
    for refused in bench.miss(100) {
        assert!(
            refused.starts_with("LOADFAIL users breaker open: source unavailable: gone, next try in "),
            "{refused}"
        );
    }
    assert_eq!((bench.source.asked.load(Ordering::SeqCst), bench.counter("cut_off")), (4, 106));
}

#[test]
fn one_load_probes_and_all_follow_when_it_was_answered() {
    let mut bench = Bench::new(|config| {
        config.concurrency_max = 8;
        config.breaker.open = Duration::from_millis(1);
        config.breaker.open_max = Duration::from_millis(1);
    });
    while bench.state() == "ok" {
        bench.miss(1);
    }
    bench.until("the first have an outcome", Bench::is_settled);
    for is_up in [false, true] {
        bench.until("the next load is a probe", |bench| bench.state() == "half-open");
        let (asked, cut_off) = (bench.source.asked.load(Ordering::SeqCst), bench.counter("cut_off"));
        bench.source.is_held.store(true, Ordering::SeqCst);
        bench.source.is_up.store(is_up, Ordering::SeqCst);
        assert!(bench.miss(10).is_empty());
        bench.until("all but one are cut off", |bench| bench.counter("cut_off") == cut_off + 9);
        assert_eq!((bench.source.asked.load(Ordering::SeqCst), bench.counter("in_flight")), (asked + 1, 1));
        assert!(bench.miss(1)[0].ends_with(", one call tries now"));
        bench.source.is_held.store(false, Ordering::SeqCst);
        bench.until("the probe has ended", Bench::is_settled);
    }
    bench.until("it is closed", |bench| bench.state() == "ok");
    assert!(bench.miss(10).is_empty());
    bench.until("all are answered", |bench| bench.counter("absent") == 11);
    assert_eq!(bench.counter("breaker_trips"), 1);
}

#[test]
fn switched_off_every_load_is_tried() {
    let mut bench = Bench::new(|config| config.breaker.enabled = false);
    assert!(bench.miss(100).is_empty());
    bench.until("all are answered", |bench| bench.counter("errors") == 100);
    assert_eq!((bench.state().as_str(), bench.counter("keys"), bench.counter("cut_off")), ("ok", 100, 0));
}

#[test]
fn writes_that_fail_open_the_breaker_and_then_neither_they_nor_loads_reach_the_source() {
    let mut bench = Bench::new(|config| config.breaker.open = Duration::from_secs(3_600));
    for count in 1..=4 {
        assert!(bench.write().is_ok());
        bench.until("it has failed", |bench| bench.counter("writes_failed") == count);
    }
    assert_eq!((bench.state().as_str(), bench.counter("breaker_trips")), ("open", 1));
    let text = bench.write().expect_err("it is open");
    assert!(text.starts_with("WRITEFAIL users breaker open: source unavailable: gone, next try in "), "{text}");
    assert!(bench.miss(1)[0].starts_with("LOADFAIL users breaker open: "));
    assert_eq!(bench.source.asked.load(Ordering::SeqCst), 4);
}

#[test]
fn a_write_that_is_let_through_closes_the_breaker() {
    let mut bench = Bench::new(|config| config.breaker.open = Duration::from_millis(1));
    assert!(bench.miss(4).is_empty());
    bench.until("all are answered", |bench| bench.counter("errors") + bench.counter("cut_off") == 4);
    bench.source.is_up.store(true, Ordering::SeqCst);
    bench.until("one is let through", |bench| bench.write().is_ok());
    bench.until("it is written", |bench| bench.counter("writes") >= 1);
    bench.until("it is closed", |bench| bench.state() == "ok");
    assert_eq!((bench.counter("breaker_trips"), bench.counter("breaker_probes")), (1, 1));
}
