//! The running server: starts the threads, accepts, keeps the time, and ends in order.
//!
//! ```text
//! main thread      accept, ticks, signals                  loader runtime    sources, queues, schedulers
//!    │ mailbox        │ mailbox                                 ▲ queues │ fills, wakes by mailbox
//! reactor-0 … reactor-N: connections, commands ─────────────────┘◄───────┘
//! ```

use crate::audit;
use crate::behind;
use crate::config::Config;
use crate::config::live::LiveConfig;
use crate::config::parse::Given;
use crate::feed;
use crate::front::Protocol;
use crate::listener;
use crate::load::{self, Loaders, Opened};
use crate::log::LogControl;
use crate::mailbox::Message;
use crate::node::Node;
use crate::pages;
use crate::peer;
use crate::reload::{self, Reloader, Running};
use crate::thread;
use crate::vital::Vital;
use anyhow::Context as _;
use leasehold_loader_sql::{Source, build_loader, check_feed};
use std::collections::HashMap;
use std::io::Write as _;
use std::net::TcpListener;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// Time between two ticks while commands are parked: how exactly their deadlines and leases are kept.
const TICK_BUSY: Duration = Duration::from_millis(10);

/// Time between two ticks when nobody waits: expiry and idle connections need no more, and an idle server sleeps.
const TICK_QUIET: Duration = Duration::from_millis(100);

/// How long the loader runtime may take to end its queries at the end.
const LOADERS_END: Duration = Duration::from_secs(1);

/// How often the drain is looked at.
const DRAIN_POLL: Duration = Duration::from_millis(5);

/// File descriptors beside those of clients: listeners, epoll, logs, databases.
const DESCRIPTORS_SPARE: u64 = 256;

/// Runs the server until a signal ends it.
///
/// # Errors
/// It cannot start: an address is taken, the system refuses threads, or (a [`leasehold_loader_sql::ConfigProblem`]) a loader does
/// not fit its database.
pub(crate) fn run(mut config: Config, given: Given, log: LogControl) -> anyhow::Result<()> {
    let as_read = config.clone();
    allow_descriptors(&mut config);
    let listeners = listener::listen(&config, config.port)?;
    let port = listeners[0].local_addr()?.port();
    let text_listeners =
        if config.memcached_port == 0 { Vec::new() } else { listener::listen(&config, config.memcached_port)? };
    let of = |listeners: Vec<TcpListener>, protocol| listeners.into_iter().map(move |listener| (listener, protocol));
    let listeners = of(listeners, Protocol::Resp).chain(of(text_listeners, Protocol::Memcached)).collect();
    let loader_runtime = loader_runtime(&config)?;
    let (sources, loaders) = match &loader_runtime {
        Some(runtime) => runtime.block_on(open_loaders(&config))?,
        None => Default::default(),
    };
    let mut writing = loaders.clone();
    let writers = reload::writers_of(&mut writing);
    let behind = behind::open(&config, &writing)?;
    let (loaders, queues) = Loaders::new(&config.sources, loaders);
    let live = LiveConfig::new(config.clone());
    let welcome = config.welcome.clone();
    let handle = loader_runtime.as_ref().map(|runtime| runtime.handle().clone());
    let node = Arc::new(Node::new(config, live, loaders, handle, log, port));
    if let Some(runtime) = &loader_runtime {
        let _inside = runtime.enter();
        load::start_schedulers(&node, queues);
        for desk in node.feeds.desks() {
            let source = sources.get(&desk.config().source);
            feed::start(&node, &desk, source.expect("opened above"));
        }
        if let Some((behind, journal, orders)) = behind {
            behind::start(&node, behind, journal, orders)?;
        }
        audit::start(&node);
    }
    if node.config.huge_pages {
        pages::start(Arc::downgrade(&node));
    }
    let running = Running { config: as_read, sources, writers };
    let reloader = node.reload.get_or_init(|| Reloader::new(given, running, loader_runtime));
    let threads = start_threads(&node)?;
    peer::pulse::start(&node).context("cannot start the thread that asks other nodes")?;
    let main = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let served = main.block_on(serve(&node, listeners, &welcome));
    for desk in &node.threads {
        desk.mailbox.post(Message::Stop);
    }
    for thread in threads {
        // A panic has ended the process.
        let _ = thread.join();
    }
    if let Some(behind) = node.behind.get() {
        main.block_on(behind.end(node.config.shutdown_timeout));
    }
    if let Some(runtime) = reloader.take_runtime() {
        runtime.shutdown_timeout(LOADERS_END);
    }
    tracing::info!("the server has ended");
    served
}

/// Raises the limit of open files to what `maxclients` needs, or lowers `maxclients` to what the limit allows.
fn allow_descriptors(config: &mut Config) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let wanted = config.live.clients_max as u64 + DESCRIPTORS_SPARE;
    let limit = getrlimit(Resource::Nofile);
    let allowed = limit.current.unwrap_or(u64::MAX);
    if allowed >= wanted {
        return;
    }
    let most = limit.maximum.unwrap_or(u64::MAX).max(allowed);
    // Root may raise the hard limit as well.
    let tries = [(wanted, most.max(wanted)), (wanted.min(most), most)];
    let raised = tries.into_iter().find(|(current, maximum)| {
        setrlimit(Resource::Nofile, Rlimit { current: Some(*current), maximum: Some(*maximum) }).is_ok()
    });
    let allowed = raised.map_or(allowed, |(current, _)| current);
    if allowed < wanted {
        let clients_max = allowed.saturating_sub(DESCRIPTORS_SPARE).max(1) as usize;
        tracing::warn!(
            open_files = allowed,
            maxclients = clients_max,
            "the limit of open files is too low for maxclients = {}; lowered",
            config.live.clients_max
        );
        config.live.clients_max = clients_max;
    }
}

fn loader_runtime(config: &Config) -> anyhow::Result<Option<tokio::runtime::Runtime>> {
    if config.loaders.is_empty() {
        return Ok(None);
    }
    reload::loader_runtime(config.loader_threads).map(Some)
}

/// Opens the sources, builds the loaders and checks the feeds, on the loader runtime: their sockets belong to it.
async fn open_loaders(config: &Config) -> anyhow::Result<(HashMap<String, Source>, Vec<Opened>)> {
    let mut sources = HashMap::new();
    for settings in &config.sources {
        sources.insert(settings.name.clone(), Source::open(settings.clone()).await?);
    }
    let mut loaders: Vec<Opened> = Vec::new();
    for loader in &config.loaders {
        let source = sources
            .get(&loader.source)
            .with_context(|| format!("loader {}: no source {}", loader.settings.name, loader.source))?;
        loaders.push((loader.clone(), Arc::new(build_loader(source, loader.loader_settings()).await?)));
    }
    for feed in &config.feeds {
        let name = &feed.settings.name;
        let source = sources.get(&feed.source).with_context(|| format!("feed {name}: no source {}", feed.source))?;
        check_feed(source, &feed.settings()).await?;
    }
    Ok((sources, loaders))
}

fn start_threads(node: &Arc<Node>) -> anyhow::Result<Vec<JoinHandle<()>>> {
    (0..node.threads.len())
        .map(|index| {
            let node = Arc::clone(node);
            std::thread::Builder::new()
                .name(format!("reactor-{index}"))
                .spawn(move || {
                    if let Err(error) = thread::run(&node, index as u16) {
                        // Without this thread its connections would hang; better to say so and end.
                        tracing::error!(%error, "cannot run a reactor thread");
                        std::process::exit(1);
                    }
                })
                .context("cannot start a reactor thread")
        })
        .collect()
}

/// What the main thread does between start and end.
async fn serve(node: &Arc<Node>, listeners: Vec<(TcpListener, Protocol)>, welcome: &[String]) -> anyhow::Result<()> {
    let mut interrupts = signal(SignalKind::interrupt())?;
    let mut terminations = signal(SignalKind::terminate())?;
    let mut acceptors = tokio::task::JoinSet::new();
    for (listener, protocol) in listeners {
        tracing::info!(address = %listener.local_addr()?, ?protocol, threads = node.threads.len(), "listening");
        let listener = tokio::net::TcpListener::from_std(listener)?;
        acceptors.spawn(listener::accept_all(Arc::clone(node), listener, protocol));
    }
    let mut hangups = signal(SignalKind::hangup())?;
    let reloaded = Arc::clone(node);
    tokio::spawn(async move {
        // Those that come meanwhile are one more.
        while hangups.recv().await.is_some() {
            reload::hang_up(&reloaded).await;
        }
    });
    let ticks = tokio::spawn(tick(Arc::clone(node)));
    let mut out = std::io::stdout();
    for text in welcome {
        // A closed standard output is no reason not to serve.
        let _ = writeln!(out, "{text}");
    }
    let _ = out.flush();
    tokio::select! {
        _ = interrupts.recv() => tracing::info!("SIGINT: draining"),
        _ = terminations.recv() => tracing::info!("SIGTERM: draining"),
    }
    drop(acceptors);
    let drained = async {
        for desk in &node.threads {
            desk.mailbox.post(Message::Drain);
        }
        while node.connections() > 0 {
            tokio::time::sleep(DRAIN_POLL).await;
        }
    };
    tokio::select! {
        () = drained => {}
        () = tokio::time::sleep(node.config.shutdown_timeout) => {
            tracing::warn!(connections = node.connections(), "shutdown-timeout is over; closing what is left");
        }
        _ = interrupts.recv() => tracing::warn!("a second signal; closing what is left"),
        _ = terminations.recv() => tracing::warn!("a second signal; closing what is left"),
    }
    ticks.abort();
    Ok(())
}

/// Tells the reactor threads that time passes. They have no timers of their own.
async fn tick(node: Arc<Node>) {
    let _vital = Vital("tick");
    let mut sampled_at_ms = 0;
    loop {
        if node.is_waiting() {
            tokio::time::sleep(TICK_BUSY).await;
        } else {
            let _ = tokio::time::timeout(TICK_QUIET, node.pace.notified()).await;
        }
        for desk in &node.threads {
            desk.mailbox.ring_tick();
        }
        let now_ms = node.clock.now_ms();
        if now_ms.saturating_sub(sampled_at_ms) >= TICK_QUIET.as_millis() as u64 {
            sampled_at_ms = now_ms;
            node.sample_rates();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LoaderConfig;
    use crate::config::options::loader_named;
    use leasehold_loader_api::{LoadRequest, Loaded, Loader, Row};
    use std::fmt::Write as _;
    use std::io::Read as _;
    use std::net::TcpStream;
    use std::pin::Pin;
    use std::sync::Mutex;

    /// Panics on the data thread for one key, and remembers the size of each request.
    #[derive(Default)]
    struct FakeLoader {
        requests: Mutex<Vec<usize>>,
    }

    impl Loader for FakeLoader {
        fn matches(&self, key: &[u8]) -> bool {
            assert_ne!(key, b"user:boom", "the bug that the test wants");
            true
        }

        fn load(&self, request: LoadRequest) -> Pin<Box<dyn Future<Output = Vec<Loaded>> + Send + '_>> {
            self.requests.lock().expect("nobody panics with it").push(request.keys.len());
            Box::pin(async move {
                request
                    .keys
                    .into_iter()
                    .map(|value| Ok(Row::Value { value, version: None, tags: Vec::new() }))
                    .collect()
            })
        }

        fn batch_max(&self) -> usize {
            100
        }

        fn explain(&self, _: &[u8]) -> Vec<(&'static str, String)> {
            Vec::new()
        }

        fn health(&self) -> Result<(), String> {
            Ok(())
        }
    }

    /// One reactor thread in front of a [`FakeLoader`] for `user:…`.
    struct Running {
        node: Arc<Node>,
        loader: Arc<FakeLoader>,
        listener: TcpListener,
        threads: Vec<JoinHandle<()>>,
        _runtime: tokio::runtime::Runtime,
    }

    impl Running {
        fn start(change: impl FnOnce(&mut LoaderConfig)) -> Self {
            let mut settings = loader_named("user");
            settings.settings.pattern = "user:{id}".to_owned();
            change(&mut settings);
            let config = Config { threads: 1, loaders: vec![settings.clone()], ..Config::default() };
            let runtime = loader_runtime(&config).expect("threads").expect("there is a loader");
            let loader = Arc::new(FakeLoader::default());
            let (loaders, queues) = Loaders::new(&[], vec![(settings, Arc::clone(&loader) as Arc<dyn Loader>)]);
            let live = LiveConfig::new(config.clone());
            let log = LogControl::for_tests();
            let node = Arc::new(Node::new(config, live, loaders, Some(runtime.handle().clone()), log, 0));
            {
                let _inside = runtime.enter();
                load::start_schedulers(&node, queues);
            }
            let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
            let threads = start_threads(&node).expect("a thread");
            Self { node, loader, listener, threads, _runtime: runtime }
        }

        fn connect(&self) -> TcpStream {
            let client = TcpStream::connect(self.listener.local_addr().expect("bound")).expect("loopback");
            client.set_read_timeout(Some(Duration::from_secs(20))).expect("not zero");
            let (stream, peer) = self.listener.accept().expect("it connects");
            stream.set_nonblocking(true).expect("a socket");
            let desk = &self.node.threads[0];
            desk.connections.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let id = self.node.next_client_id();
            desk.mailbox.post(Message::Accepted { stream, peer, id, protocol: Protocol::Resp });
            client
        }
    }

    impl Drop for Running {
        fn drop(&mut self) {
            self.node.threads[0].mailbox.post(Message::Stop);
            for thread in self.threads.drain(..) {
                let ended = thread.join();
                assert!(ended.is_ok() || std::thread::panicking(), "the reactor thread panicked");
            }
        }
    }

    /// Sends a line of words, and reads a reply of the expected length.
    fn ask(client: &mut TcpStream, line: &str, reply: &str) {
        client.write_all(format!("{line}\r\n").as_bytes()).expect("connected");
        let mut bytes = vec![0; reply.len()];
        client.read_exact(&mut bytes).expect("a reply");
        assert_eq!(String::from_utf8_lossy(&bytes), reply);
    }

    #[test]
    fn a_panic_in_a_command_costs_its_connection_and_nothing_else() {
        let running = Running::start(|_| {});
        let (mut other, mut unlucky) = (running.connect(), running.connect());
        ask(&mut other, "SET a 1", "+OK\r\n");
        unlucky.write_all(b"GET a\r\nGET user:boom\r\nSET a 2\r\n").expect("connected");
        let mut replies = Vec::new();
        unlucky.read_to_end(&mut replies).expect("closed in order");
        // What was not sent yet is lost with the connection, as nobody knows what state it is in.
        assert_eq!(String::from_utf8_lossy(&replies), "");
        ask(&mut other, "GET a", "$1\r\n1\r\n");
        ask(&mut other, "GET user:1", "$6\r\nuser:1\r\n");
        let mut new = running.connect();
        ask(&mut new, "GET a", "$1\r\n1\r\n");
        let stats = &running.node.threads[0].stats;
        assert_eq!((stats.panics.value(), running.node.connections()), (1, 2));
    }

    #[test]
    fn what_one_request_wants_is_one_query_and_a_longer_list_fills_whole_queries() {
        // Without a window, nothing but their being asked together brings them together.
        let running = Running::start(|loader| loader.batch_window = Duration::ZERO);
        let keys = |range: std::ops::Range<u32>| range.map(|id| format!(" user:{id}")).collect::<String>();
        let values = |range: std::ops::Range<u32>| {
            let value = |id: u32| format!("user:{id}");
            let bulks: String = range.clone().map(|id| format!("${}\r\n{}\r\n", value(id).len(), value(id))).collect();
            format!("*{}\r\n{bulks}", range.len())
        };
        let mut client = running.connect();
        for round in 0..20 {
            let range = round * 50..round * 50 + 50;
            ask(&mut client, &format!("MGET{}", keys(range.clone())), &values(range));
        }
        assert_eq!(*running.loader.requests.lock().expect("nobody panics with it"), [50; 20]);
        ask(&mut client, &format!("MGET{}", keys(1_000..1_250)), &values(1_000..1_250));
        let mut sizes = running.loader.requests.lock().expect("nobody panics with it").split_off(20);
        sizes.sort_unstable();
        assert_eq!(sizes, [50, 100, 100]);
    }

    #[test]
    fn what_the_queue_does_not_hold_is_refused_and_the_rest_loaded() {
        let running = Running::start(|loader| loader.queue_max = 10);
        let mut client = running.connect();
        let keys: String = (0..30).map(|id| format!(" user:{id}")).collect();
        let busy = "-LOADBUSY user queue full: 10 loads wait for the source\r\n";
        ask(&mut client, &format!("MGET{keys}"), busy);
        ask(&mut client, "MGET user:0 user:9", "*2\r\n$6\r\nuser:0\r\n$6\r\nuser:9\r\n");
        ask(&mut client, "GET user:29", "$7\r\nuser:29\r\n");
        assert_eq!(running.loader.requests.lock().expect("nobody panics with it").iter().sum::<usize>(), 11);
    }

    #[test]
    fn a_command_starts_no_more_loads_than_may_wait() {
        const KEYS: u32 = 300_000;
        let running = Running::start(|loader| {
            loader.queue_max = 100;
            // A busy machine takes a while for so many keys.
            loader.hard_timeout = Duration::from_secs(60);
        });
        let mut client = running.connect();
        let mut request = format!("*{}\r\n$12\r\nMLOADTHROUGH\r\n", KEYS + 1);
        for id in 0..KEYS {
            let key = format!("user:{id}");
            let _ = write!(request, "${}\r\n{key}\r\n", key.len());
        }
        let mut reply = format!("*{KEYS}\r\n");
        for id in 0..KEYS {
            let key = format!("user:{id}");
            let _ = match id {
                0..100 => write!(reply, "${}\r\n{key}\r\n", key.len()),
                _ => write!(reply, "-LOADBUSY user queue full: 100 loads wait for the source\r\n"),
            };
        }
        let mut sender = client.try_clone().expect("a socket");
        let sent = std::thread::spawn(move || sender.write_all(request.as_bytes()));
        let mut bytes = vec![0; reply.len()];
        client.read_exact(&mut bytes).expect("a reply");
        sent.join().expect("no panic").expect("connected");
        assert!(bytes == reply.as_bytes(), "100 values and as many errors as there are other keys");
        let counters = running.node.loader_views().remove(0).counters;
        let count = |name: &str| counters.iter().find(|(known, _)| *known == name).map(|(_, count)| *count);
        assert_eq!((count("loads"), count("busy")), (Some(i64::from(KEYS)), Some(i64::from(KEYS) - 100)));
    }
}
