//! A server whose users come from PostgreSQL and change by a feed alone, and what tests of feeds look at.

use crate::client::PATIENCE;
use crate::watch::until;
use crate::{Client, Database, Postgres, Server, Value};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A server, its database, and a client of each. The loader is `user`, its keys `user:ID`, its feed `users`.
pub struct Fed {
    /// A client of the server.
    pub client: Client,
    /// The server.
    pub server: Server,
    /// A connection to the database.
    pub database: Database,
    /// The database.
    pub url: String,
    /// A connection to another database, from which ours can be closed and opened.
    pub keeper: Option<Database>,
    _postgres: Option<Arc<Postgres>>,
}

impl Fed {
    /// A server whose feed has begun, on a database of its own that begins with `schema`. `conf` makes the conf from its URL.
    #[must_use]
    pub fn on_a_new_database(postgres: Arc<Postgres>, schema: &str, conf: impl FnOnce(&str) -> String) -> Self {
        let url = postgres.new_database();
        let keeper = Some(Database::connect(&postgres.url()));
        Database::connect(&url).run(schema);
        Self { keeper, _postgres: Some(postgres), ..Self::start(&url, &conf(&url)) }
    }

    /// A server whose feed has begun, on a database that has all it needs.
    #[must_use]
    pub fn start(url: &str, conf: &str) -> Self {
        let database = Database::connect(url);
        let server = Server::options().conf(conf).start();
        let mut client = server.client();
        until("the feed has begun", || client.feed_field("state") == "ok");
        Self { client, server, database, url: url.to_owned(), keeper: None, _postgres: None }
    }

    /// What a reader gets.
    pub fn get(&mut self, id: i64) -> Value {
        self.client.command(&["GET", &format!("user:{id}")])
    }

    /// Waits until a reader gets this.
    pub fn until_seen(&mut self, id: i64, value: &Value) {
        until("the change is seen", || self.get(id) == *value);
    }

    /// A counter of the feed.
    pub fn stat(&mut self, counter: &str) -> i64 {
        self.client.feed_counter("users", counter)
    }

    /// Nobody can connect to the database, and the server's connections end.
    pub fn shut_out(&mut self) {
        self.allow_connections(false);
        self.throw_out();
    }

    /// Everybody can connect again.
    pub fn let_in(&mut self) {
        self.allow_connections(true);
    }

    fn allow_connections(&mut self, allowed: bool) {
        let path = self.url.rsplit('/').next().expect("a URL has a path");
        let name = path.split('?').next().expect("a split has a first part");
        let keeper = self.keeper.as_mut().expect("a database beside ours");
        keeper.run(&format!("ALTER DATABASE {name} ALLOW_CONNECTIONS {allowed}"));
    }

    /// Ends the connections of the server, and waits until they are gone.
    pub fn throw_out(&mut self) {
        self.database.number(
            "SELECT count(pg_terminate_backend(pid, 10000)) FROM pg_stat_activity
             WHERE application_name = 'leasehold' AND datname = current_database()",
        );
    }
}

/// A user as the cache answers it.
#[must_use]
pub fn user(id: i64, name: &str) -> Value {
    Value::bulk(format!(r#"{{"id":{id},"name":"{name}"}}"#))
}

/// How long after an acknowledged commit a key is no longer fresh: median and 99th percentile of so many rounds, by a client that looks.
///
/// # Panics
/// If a change is not seen.
pub fn lags(client: &mut Client, key: &str, rounds: usize, mut change: impl FnMut()) -> [Duration; 2] {
    let mut lags = Vec::new();
    for _ in 0..rounds {
        assert!(!client.command(&["GET", key]).is_null());
        change();
        let committed = Instant::now();
        while client.command(&["EXISTS", key]).integer() == 1 {
            assert!(committed.elapsed() < PATIENCE, "the update is not seen");
        }
        lags.push(committed.elapsed());
        // Apart by more than the window, as changes on an idle machine are.
        std::thread::sleep(Duration::from_millis(15));
    }
    lags.sort_unstable();
    [rounds / 2, rounds * 99 / 100].map(|place| lags[place])
}
