//! The configuration while the server runs: what `CONFIG GET` shows and `CONFIG SET` changes.
//!
//! A set is all or nothing. It changes only the settings held here; whoever works with them sees by the generation that
//! they have moved, or is told by name in [`Changed`].

use super::options::server_options;
use super::spec::{Change, Kind, Spec, Value, Wrong};
use super::{Config, Live};
use leasehold_command::{ReplyError, glob};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The configuration of the running process, shared by all threads.
pub(crate) struct LiveConfig {
    config: Mutex<Config>,
    generation: AtomicU64,
}

/// What a `CONFIG SET` changed.
pub(crate) struct Changed {
    /// The settings after it.
    pub live: Live,
    /// The options whose values are now others, in the order of the request.
    pub names: Vec<&'static str>,
}

impl LiveConfig {
    pub(crate) fn new(config: Config) -> Self {
        Self { config: Mutex::new(config), generation: AtomicU64::new(0) }
    }

    /// A copy of the settings as they are now.
    pub(crate) fn live(&self) -> Live {
        self.lock().live.clone()
    }

    /// [`Live::wait_max`] in ms, without a copy of everything else: it is asked for each command that parks.
    pub(crate) fn wait_ms_max(&self) -> u64 {
        u64::try_from(self.lock().live.wait_max.as_millis()).unwrap_or(u64::MAX)
    }

    /// Grows with each change, so that a thread can see with one load that its copy is old.
    pub(crate) fn generation(&self) -> u64 {
        // Pairs with the release in `set`: who sees the number sees the change under the lock.
        self.generation.load(Ordering::Acquire)
    }

    /// Name and value of each option whose name matches one of the glob patterns, in any case, in the order of the table.
    /// Secrets have an empty value.
    pub(crate) fn pairs(&self, patterns: &[&[u8]]) -> Vec<(String, String)> {
        let config = self.lock();
        server_options()
            .filter(|option| patterns.iter().any(|pattern| glob::matches_ignore_case(pattern, option.name.as_bytes())))
            .map(|option| (option.name.to_owned(), option.kind.show(&(option.read)(&config))))
            .collect()
    }

    /// Sets all of these options, or none, and has `apply` do what is to be done of it before another set begins. The texts
    /// of the errors are Redis's.
    ///
    /// # Errors
    /// An option is unknown, named twice, fixed at start, or its value is not allowed.
    pub(crate) fn set(&self, pairs: &[(&[u8], &[u8])], apply: impl FnOnce(&Changed)) -> Result<(), ReplyError> {
        let mut config = self.lock();
        let mut next = config.clone();
        let mut named: Vec<&'static str> = Vec::with_capacity(pairs.len());
        for (name, value) in pairs {
            let option =
                server_options().find(|option| option.name.as_bytes().eq_ignore_ascii_case(name)).ok_or_else(|| {
                    let name = String::from_utf8_lossy(name);
                    ReplyError::err(format!("Unknown option or number of arguments for CONFIG SET - '{name}'"))
                })?;
            if named.contains(&option.name) {
                return Err(failed(option.name, "duplicate parameter"));
            }
            if option.change == Change::Start {
                return Err(failed(option.name, "can't set immutable config"));
            }
            (option.write)(&mut next, value_of(option, value)?);
            named.push(option.name);
        }
        if let Some((name, reason)) = super::check::between_options(&next) {
            return Err(failed(name, &reason));
        }
        let names = server_options()
            .filter(|option| named.contains(&option.name) && (option.read)(&config) != (option.read)(&next))
            .map(|option| option.name)
            .collect();
        let live = next.live.clone();
        *config = next;
        self.generation.fetch_add(1, Ordering::Release);
        apply(&Changed { live, names });
        Ok(())
    }

    /// What [`LiveConfig::adopt`] would be refused for: an option and what is wrong with it.
    pub(crate) fn adoptable(&self, before: &Config, now: &Config) -> Option<(&'static str, String)> {
        let mut next = self.lock().clone();
        adopted(&mut next, before, now);
        super::check::between_options(&next)
    }

    /// Whether memcached's client may come in with these.
    pub(crate) fn accepts_memcached_user(&self, user: &[u8], password: &[u8]) -> bool {
        let users = &self.lock().memcached_users;
        // All are compared, so that the time does not tell which was right.
        users.iter().filter(|(name, secret)| secret.accepts(password) & (name.as_bytes() == user)).count() > 0
    }

    /// Takes from a configuration that was read again what is other than in the one before it, and has `apply` do what is to be done of
    /// it. What was set since and is no other there stays.
    pub(crate) fn adopt(&self, before: &Config, now: &Config, apply: impl FnOnce(&Changed)) {
        let mut config = self.lock();
        config.memcached_users.clone_from(&now.memcached_users);
        let names = adopted(&mut config, before, now);
        if !names.is_empty() {
            self.generation.fetch_add(1, Ordering::Release);
            apply(&Changed { live: config.live.clone(), names });
        }
    }

    /// The options that are other than in this configuration.
    pub(crate) fn differences(&self, to: &Config) -> Vec<&'static str> {
        let config = self.lock();
        let differs = |option: &&Spec<Config>| (option.read)(&config) != (option.read)(to);
        server_options().filter(differs).map(|option| option.name).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Config> {
        // A panic between the two writes of `set` cannot happen, so the settings are whole even then.
        self.config.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sets the live options that differ between two configurations; which.
fn adopted(config: &mut Config, before: &Config, now: &Config) -> Vec<&'static str> {
    let differs = |option: &&Spec<Config>| option.change == Change::Live && (option.read)(before) != (option.read)(now);
    let differing: Vec<_> = server_options().filter(differs).collect();
    differing.iter().for_each(|option| (option.write)(config, (option.read)(now)));
    differing.iter().map(|option| option.name).collect()
}

/// Reads a value of `CONFIG SET`.
fn value_of(option: &Spec<Config>, given: &[u8]) -> Result<Value, ReplyError> {
    let text = std::str::from_utf8(given).map_err(|_| failed(option.name, "argument is not UTF-8"))?;
    // A secret that came over the wire is what it is: no client may read the server's environment by it.
    let parsed = match option.kind {
        Kind::Secret => Ok(Value::Text(text.to_owned())),
        kind => kind.parse(text),
    };
    parsed.map_err(|wrong| failed(option.name, &redis_text(&option.kind, &wrong)))
}

/// What Redis 7 says of such a value; for kinds it does not have, what is allowed.
fn redis_text(kind: &Kind, wrong: &Wrong) -> String {
    match (kind, wrong) {
        (Kind::Integer { auto: false, .. }, Wrong::Shape) => "argument couldn't be parsed into an integer".to_owned(),
        (Kind::Bytes { auto: false, .. }, Wrong::Shape) => "argument must be a memory value".to_owned(),
        (Kind::Integer { min, max, auto: false } | Kind::Bytes { min, max, auto: false }, Wrong::Range) => {
            format!("argument must be between {min} and {max} inclusive")
        }
        (Kind::Choice(words), Wrong::Shape) => {
            format!("argument(s) must be one of the following: {}", words.join(", "))
        }
        (_, Wrong::Environment { reason } | Wrong::File { reason }) => reason.clone(),
        (kind, _) => format!("argument must be {}", kind.allowed()),
    }
}

fn failed(name: &str, reason: &str) -> ReplyError {
    ReplyError::err(format!("CONFIG SET failed (possibly related to argument '{name}') - {reason}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use leasehold_keyspace::EvictionPolicy;

    fn running() -> LiveConfig {
        LiveConfig::new(Config::default())
    }

    fn value(config: &LiveConfig, name: &str) -> String {
        let pairs = config.pairs(&[name.as_bytes()]);
        assert_eq!(pairs.len(), 1, "{name}");
        pairs[0].1.clone()
    }

    fn error(config: &LiveConfig, pairs: &[(&str, &str)]) -> String {
        let pairs: Vec<(&[u8], &[u8])> =
            pairs.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect();
        match config.set(&pairs, |_| ()) {
            Ok(()) => "it was set".to_owned(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn values_are_shown_as_redis_shows_them() {
        let config = running();
        let shown = [
            ("port", "6379"),
            ("timeout", "0"),
            ("tcp-keepalive", "300"),
            ("maxmemory", "0"),
            ("MAXMEMORY-POLICY", "allkeys-tinylfu"),
            ("proto-max-bulk-len", "536870912"),
            ("client-query-buffer-limit", "1073741824"),
            ("bind", "127.0.0.1 -::1"),
            ("lease-ms", "10000"),
            ("lease-reissue-after", "auto"),
            ("requirepass", ""),
        ];
        for (name, expected) in shown {
            assert_eq!(value(&config, name), expected, "{name}");
        }
        assert!(config.pairs(&[b"save", b"appendonly"]).is_empty());
        assert_eq!(config.pairs(&[b"*"]).len(), server_options().count());
        let memory: Vec<String> =
            config.pairs(&[b"maxmemory*", b"maxmemory"]).into_iter().map(|(name, _)| name).collect();
        assert_eq!(memory, ["maxmemory", "maxmemory-policy", "maxmemory-samples"]);
    }

    #[test]
    fn a_set_says_what_changed() {
        let config = running();
        let pairs: [(&[u8], &[u8]); 4] = [
            (b"maxmemory", b"100mb"),
            (b"Maxmemory-Policy", b"NOEVICTION"),
            (b"maxclients", b"10000"),
            (b"timeout", b"5m"),
        ];
        let set = config.set(&pairs, |changed| {
            assert_eq!(changed.names, ["timeout", "maxmemory", "maxmemory-policy"]);
            assert_eq!(changed.live.memory_bytes_max, 100 << 20);
            assert_eq!(changed.live.policy, EvictionPolicy::NoEviction);
        });
        set.unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(
            (value(&config, "maxmemory"), value(&config, "timeout")),
            ("104857600".to_owned(), "300".to_owned())
        );
        assert_eq!(config.generation(), 1);
    }

    #[test]
    fn a_set_is_all_or_nothing() {
        let config = running();
        assert_eq!(
            error(&config, &[("maxmemory", "1gb"), ("timeout", "soon")]),
            "ERR CONFIG SET failed (possibly related to argument 'timeout') - argument must be a duration from 0s to 365d \
             (a number of seconds, or with a unit: \"50s\", \"5m\", \"1h\")"
        );
        assert_eq!(value(&config, "maxmemory"), "0");
        assert_eq!(config.generation(), 0);
    }

    #[test]
    fn wrong_sets_get_redis_texts() {
        let config = running();
        let wrong: [(&[(&str, &str)], &str); 8] = [
            (&[("nosuch", "1")], "ERR Unknown option or number of arguments for CONFIG SET - 'nosuch'"),
            (
                &[("port", "1")],
                "ERR CONFIG SET failed (possibly related to argument 'port') - can't set immutable config",
            ),
            (
                &[("maxmemory", "1"), ("MAXMEMORY", "2")],
                "ERR CONFIG SET failed (possibly related to argument 'maxmemory') - duplicate parameter",
            ),
            (
                &[("maxmemory", "lots")],
                "ERR CONFIG SET failed (possibly related to argument 'maxmemory') - argument must be a memory value",
            ),
            (
                &[("maxclients", "x")],
                "ERR CONFIG SET failed (possibly related to argument 'maxclients') - argument couldn't be parsed into an integer",
            ),
            (
                &[("maxmemory-samples", "0")],
                "ERR CONFIG SET failed (possibly related to argument 'maxmemory-samples') - argument must be between 1 and 64 \
                 inclusive",
            ),
            (
                &[("maxmemory-policy", "allkeys-mru")],
                "ERR CONFIG SET failed (possibly related to argument 'maxmemory-policy') - argument(s) must be one of the \
                 following: noeviction, allkeys-lru, volatile-lru, allkeys-random, volatile-random, volatile-ttl, \
                 allkeys-tinylfu, volatile-tinylfu, allkeys-lfu, volatile-lfu",
            ),
            (
                &[("lease-ms", "10m")],
                "ERR CONFIG SET failed (possibly related to argument 'lease-ms') - is longer than lease-ms-max (5m)",
            ),
        ];
        for (pairs, expected) in wrong {
            assert_eq!(error(&config, pairs), expected);
        }
    }

    #[test]
    fn a_password_is_set_and_not_shown_and_the_environment_stays_closed() {
        let config = running();
        assert!(config.set(&[(b"requirepass", b"${PATH}")], |_| ()).is_ok());
        assert_eq!(value(&config, "requirepass"), "");
        assert!(config.live().password.accepts(b"${PATH}"));
        assert!(!config.live().password.accepts(b"${PATH"));
        assert!(!config.live().password.accepts(b"${PATH}\0"));
        assert!(!format!("{:?}", config.live()).contains("PATH"));
    }
}
