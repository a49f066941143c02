//! What each command adds to the counters of `stats`: the same on both servers, but for a list of differences that has a reason for each.

use crate::grammar::Oracle;
use leasehold_tests::Memcached;
use std::collections::BTreeMap;

/// What is compared. Of `stats` that leaves out what is no counter of commands, and what is not counted here: `get_expired`,
/// `get_flushed`, `expired_unfetched` and `evicted_unfetched`.
const COUNTERS: [&str; 22] = [
    "cmd_get",
    "cmd_set",
    "cmd_flush",
    "cmd_touch",
    "cmd_meta",
    "get_hits",
    "get_misses",
    "delete_misses",
    "delete_hits",
    "incr_misses",
    "incr_hits",
    "decr_misses",
    "decr_hits",
    "cas_misses",
    "cas_hits",
    "cas_badval",
    "touch_hits",
    "touch_misses",
    "store_too_large",
    "store_no_memory",
    "curr_items",
    "total_items",
];

/// Those of them that `stats slabs` has for each class.
const COUNTERS_OF_CLASSES: [&str; 8] =
    ["get_hits", "cmd_set", "delete_hits", "incr_hits", "decr_hits", "cas_hits", "cas_badval", "touch_hits"];

/// Before each row, with lines as in it: `zz` and `w` have nothing, the others an entry. What is missing is missing on both.
const START: &str = "delete zz|delete w|set a 0 0 1|5|set n 0 0 1|5|set t 0 0 1|x|set e 0 0 0|";

/// Why a counter differs.
#[derive(Clone, Copy)]
enum Why {
    /// Here no entry stands for a key while a client fills it, and who does not ask with `N` does not see that one does.
    NoStub,
    /// What is over is not kept. memcached finds out later.
    OverIsGone,
    /// `get` shows no stale value here.
    StaleIsHidden,
    /// memcached 1.6.18 removes what was flushed as it comes upon it.
    FlushedAtOnce,
    /// A value that a version comes with is stored anew; memcached changes a number in its place if it gets no longer.
    VersionIsNew,
}

/// Commands, `|` for the ends of lines; and for each counter that differs how much more we count.
type Row = (&'static str, &'static [(&'static str, i64, Why)]);

use Why::{FlushedAtOnce, NoStub, OverIsGone, StaleIsHidden, VersionIsNew};

const OVER: &[(&str, i64, Why)] = &[("curr_items", -1, OverIsGone)];
const STUB: &[(&str, i64, Why)] = &[("curr_items", -1, NoStub), ("total_items", -1, NoStub)];

/// `<cas>` is that of `a`, `<long>` a length over `item-size-max` and that much data.
const ROWS: &[Row] = &[
    ("get a", &[]),
    ("get zz", &[]),
    ("get a zz a", &[]),
    ("gets a", &[]),
    ("gets zz a", &[]),
    ("gat 0 a", &[]),
    ("gat 0 zz", &[]),
    ("gat 0 a zz", &[]),
    ("gats 0 a", &[]),
    ("gats 0 zz", &[]),
    ("gat -1 a", OVER),
    ("gat x a", &[]),
    ("touch a 0", &[]),
    ("touch zz 0", &[]),
    ("touch a -1", OVER),
    ("touch a x", &[]),
    ("set a 0 0 1|1", &[]),
    ("set w 0 0 1|1", &[]),
    ("set w 0 0 1 noreply|1", &[]),
    ("set a 0 -1 1|1", OVER),
    ("set w 0 -1 1|1", OVER),
    // A time in 1970.
    ("set w 0 2600000 1|1", OVER),
    ("set a 0 0 1|12", &[]),
    ("set a x 0 1|1", &[]),
    ("add a 0 0 1|1", &[]),
    ("add w 0 0 1|1", &[]),
    ("add w 0 -1 1|1", OVER),
    ("replace a 0 0 1|1", &[]),
    ("replace zz 0 0 1|1", &[]),
    ("append a 0 0 1|1", &[]),
    ("append a 0 0 0|", &[]),
    ("append e 0 0 1|1", &[]),
    ("append zz 0 0 1|1", &[]),
    ("prepend a 0 0 1|1", &[]),
    ("prepend zz 0 0 1|1", &[]),
    ("cas a 0 0 1 <cas>|1", &[]),
    ("cas a 0 -1 1 <cas>|1", OVER),
    ("cas a 0 0 1 1|1", &[]),
    ("cas zz 0 0 1 1|1", &[]),
    ("delete a", &[]),
    ("delete zz", &[]),
    ("incr n 1", &[]),
    ("incr n 100", &[]),
    ("incr zz 1", &[]),
    ("incr t 1", &[]),
    ("incr n x", &[]),
    ("decr n 1", &[]),
    ("decr zz 1", &[]),
    ("decr t 1", &[]),
    ("set a 0 0 <long>", &[]),
    ("set a 0 0 <long>|get a", &[]),
    ("add a 0 0 <long>", &[]),
    ("append a 0 0 <long>", &[]),
    ("ms a <long>", &[]),
    ("mg a", &[]),
    ("mg a v", &[]),
    ("mg a k s t c f h l", &[]),
    ("mg YQ== v b", &[]),
    ("mg a v v", &[]),
    ("mg zz", &[]),
    ("mg zz v q", &[]),
    ("mg a u", &[]),
    ("mg a T0", &[]),
    ("mg a T0 v", &[]),
    ("mg a T-1", OVER),
    ("mg zz T0 v", &[]),
    ("mg w N30 v", STUB),
    ("mg w N30 v|mg w N30 v", STUB),
    ("mg w N30 T30 v", STUB),
    (
        "mg w N30|mg w",
        &[("get_hits", -1, NoStub), ("get_misses", 1, NoStub), ("curr_items", -1, NoStub), ("total_items", -1, NoStub)],
    ),
    ("mg w N30|md w", &[("total_items", -1, NoStub)]),
    ("mg w N30|ms w 1|1", &[("total_items", -1, NoStub)]),
    ("mg a N30", &[]),
    ("mg a R30 v", &[]),
    ("mg a T10 R30 v", &[]),
    ("md a I|mg a v", &[]),
    ("md a I|mg a v|mg a v", &[]),
    ("md a I T30|mg a N30 v", &[]),
    ("md a I|mg a T0 v", &[]),
    ("md a I|get a", &[("get_hits", -1, StaleIsHidden), ("get_misses", 1, StaleIsHidden)]),
    ("ms a 1|1", &[]),
    ("ms w 1|1", &[]),
    ("ms a 1|12", &[]),
    ("ms a 1 T-1|1", OVER),
    ("ms a 1 ME|1", &[]),
    ("ms w 1 ME|1", &[]),
    ("ms a 1 MR|1", &[]),
    ("ms zz 1 MR|1", &[]),
    ("ms a 1 MA|1", &[]),
    ("ms a 1 MP|1", &[]),
    ("ms zz 1 MA|1", &[]),
    ("ms a 1 MX|1", &[]),
    ("ms a 1 C<cas>|1", &[]),
    ("ms a 1 C1|1", &[]),
    ("ms zz 1 C1|1", &[]),
    ("ms a 1 MA C1|1", &[]),
    ("md a", &[]),
    ("md a q", &[]),
    ("md zz", &[]),
    ("md a I", &[]),
    ("md a I T30", &[]),
    ("md zz I", &[]),
    ("md a C<cas>", &[]),
    ("md a C1", &[]),
    ("md zz C1", &[]),
    ("ma n", &[]),
    ("ma n q", &[]),
    ("ma n T0", &[]),
    ("ma n D100", &[]),
    ("ma zz", &[]),
    ("ma w N0 J5", &[]),
    ("ma w N-1", OVER),
    ("ma t", &[]),
    ("ma e", &[]),
    ("ma n C1", &[]),
    ("ma n MD", &[]),
    ("ma zz MD", &[]),
    ("ma w MD N0", &[]),
    ("ma t MD", &[]),
    ("me a", &[]),
    ("me zz", &[]),
    ("mn", &[]),
    ("xx", &[]),
    ("version", &[]),
    ("verbosity 1", &[]),
    ("stats|stats slabs|stats items|stats sizes", &[]),
    ("flush_all x", &[]),
];

/// What only the newest knows.
const ROWS_OF_THE_NEWEST: &[Row] = &[
    ("ms w 1 MA N0|1", &[]),
    ("ms w 1 MA N-1|1", OVER),
    ("ms a 1 E1000000000000001|1", &[]),
    ("ma n E1000000000000001", &[("total_items", 1, VersionIsNew)]),
    ("ma n D100 E1000000000000001", &[]),
    ("md a x", &[]),
    ("md a I x", &[]),
    ("flush_all", &[]),
    ("flush_all 0", &[]),
    ("flush_all 100", &[]),
];

const ROWS_OF_OLDER: &[Row] = &[
    ("flush_all", &[("curr_items", -4, FlushedAtOnce)]),
    ("flush_all 0", &[("curr_items", -4, FlushedAtOnce)]),
    ("flush_all 100", &[]),
];

type Counters = BTreeMap<&'static str, i64>;

/// Runs all rows on both.
pub(crate) fn compare(ours: &mut Memcached, theirs: &mut Memcached, oracle: Oracle) {
    let of_version = match oracle {
        Oracle::Newest => ROWS_OF_THE_NEWEST,
        Oracle::Older => ROWS_OF_OLDER,
    };
    let mut wrong = Vec::new();
    for &(commands, differences) in ROWS.iter().chain(of_version) {
        let (mut counted, expected) = (added(ours, commands), added(theirs, commands));
        for (name, more, _) in differences {
            *counted.get_mut(name).expect("a name of the list") -= more;
        }
        if counted != expected {
            let parts = counted.iter().filter(|(name, count)| expected[*name] != **count);
            let parts = parts.map(|(name, count)| format!("{name} {count} instead of {}", expected[name]));
            wrong.push(format!("{commands}: {}", parts.collect::<Vec<_>>().join(", ")));
        }
    }
    assert!(wrong.is_empty(), "besides what is known to differ:\n{}", wrong.join("\n"));
    for client in [ours, theirs] {
        let (all, classes) = (stats(client, "stats"), stats(client, "stats slabs"));
        for name in COUNTERS_OF_CLASSES {
            let of_class = |(key, _): &(&String, &i64)| key.split_once(':').is_some_and(|(_, key)| key == name);
            let counts: Vec<i64> = classes.iter().filter(of_class).map(|(_, count)| *count).collect();
            assert!(!counts.is_empty() && counts.iter().sum::<i64>() == all[name], "{name}: {classes:?} of {all:?}");
        }
    }
}

/// What commands add to each counter.
fn added(client: &mut Memcached, commands: &str) -> Counters {
    client.ask(lines(START));
    let cas = client.ask("gets a\r\n");
    let cas = cas.lines().next().and_then(|line| line.rsplit(' ').next()).expect("it was set");
    const LONG: usize = 2_000_000;
    let long = format!("{LONG}\r\n{}", "x".repeat(LONG));
    let before = counters(client);
    client.ask(lines(commands).replace("<cas>", cas).replace("<long>", &long));
    let after = counters(client);
    after.iter().map(|(name, count)| (*name, count - before[name])).collect()
}

fn lines(text: &str) -> String {
    format!("{}\r\n", text.replace('|', "\r\n"))
}

fn counters(client: &mut Memcached) -> Counters {
    let stats = stats(client, "stats");
    COUNTERS.iter().map(|&name| (name, *stats.get(name).unwrap_or_else(|| panic!("no {name} in {stats:?}")))).collect()
}

/// The whole numbers of a `stats`.
fn stats(client: &mut Memcached, command: &str) -> BTreeMap<String, i64> {
    let reply = client.ask(format!("{command}\r\n"));
    let pair = |line: &str| {
        let (name, value) = line.strip_prefix("STAT ")?.split_once(' ')?;
        Some((name.to_owned(), value.parse().ok()?))
    };
    reply.lines().filter_map(pair).collect()
}
