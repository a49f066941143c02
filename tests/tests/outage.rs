//! Three nodes and a gutter under load, with PostgreSQL behind them, while nodes are lost: killed, stopped, cut off, restarted one after the other; and while
//! the network between them loses packets or falls apart. Reads go on, the database is asked little more than before, and nothing that was deleted is seen
//! again.

use leasehold_tests::groups::say;
use leasehold_tests::hosted::GUTTER;
use leasehold_tests::watch::until;
use leasehold_tests::{Crowd, Hosted, Tally};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// `gutter-ttl` as it is if nobody says otherwise.
const GUTTER_TTL: Duration = Duration::from_secs(10);

/// Reads of each reader in a phase.
const READS: usize = 700;

/// Of a thousand reads so many may fail.
const FAILED_PER_1000: usize = 1;

/// The node that is lost.
const VICTIM: usize = 1;

/// Waits until so many reads have ended.
fn until_read(ended: &AtomicUsize, reads: usize) {
    until("clients read", || ended.load(Ordering::Relaxed) >= reads);
}

/// A line for who looks for why it failed.
fn told(what: &str, tally: &Tally) -> String {
    format!("{what}: {} {:?}", tally.shown(), &tally.failed[..tally.failed.len().min(5)])
}

fn assert_few_failed(tally: &Tally) {
    assert!(tally.failed.len() * 1000 <= tally.reads * FAILED_PER_1000, "of {}: {:#?}", tally.reads, tally.failed);
}

#[test]
fn reads_go_on_through_the_loss_of_a_node() {
    let Some(mut hosted) = Hosted::start("outages under load", "flap-out = \"0s\"") else { return };
    let mut crowd = Crowd::of(&hosted, GUTTER_TTL);
    let early = crowd.reads_of(READS) / 10;
    println!("{}", told("warming up", &crowd.read(&mut hosted, READS, |_, _| {})));
    let steady = crowd.read(&mut hosted, READS, |_, _| {});
    println!("{}", told("steady", &steady));
    assert!(steady.failed.is_empty(), "{:#?}", steady.failed);

    let mut lost = Tally::default();
    for (what, lose, find) in TROUBLES {
        let mut outage = crowd.read(&mut hosted, READS, |hosted, ended| {
            until_read(ended, early);
            lose(hosted);
        });
        println!("{}", told(what, &outage));
        hosted.until_seen(VICTIM, "out");
        let back = crowd.read(&mut hosted, READS, |hosted, ended| {
            until_read(ended, early);
            find(hosted);
        });
        println!("{}", told("back", &back));
        outage.add(back);
        hosted.until_well();
        assert!(outage.stale.is_empty(), "{what}: {:#?}", outage.stale);
        let (during, before) = (outage.queries_per_1000(), steady.queries_per_1000());
        assert!(during <= 2.0 * before, "{what}: {during:.0} queries per 1,000 reads, {before:.0} before");
        lost.add(outage);
    }
    say(&format!("through the loss of a node: {}; {:.0} queries before", lost.shown(), steady.queries_per_1000()));
    assert_few_failed(&lost);
    assert!(lost.deletes > 100 && lost.checked > 1000, "{}", lost.shown());
    assert!(hosted.client(3).info("x_stood_in") > 0);
}

/// A name, how the node is lost, and how it is found again.
type Trouble = (&'static str, fn(&mut Hosted), fn(&mut Hosted));

const TROUBLES: [Trouble; 3] = [
    ("kill -9", |hosted| hosted.node(VICTIM).kill(), |hosted| hosted.restart(VICTIM)),
    ("SIGSTOP", |hosted| hosted.node(VICTIM).pause(), |hosted| hosted.node(VICTIM).resume()),
    ("cut off", |hosted| hosted.hosts().isolate(VICTIM), |hosted| hosted.hosts().heal()),
];

/// How long the flapping node is gone, and there, each time.
const FLAP: Duration = Duration::from_secs(2);

const FLAPS: usize = 2;

#[test]
fn restarts_one_by_one_and_a_flapping_node_lose_no_reads_and_without_a_gutter_its_own_alone() {
    let Some(mut hosted) = Hosted::start("outages under load", "") else { return };
    let mut crowd = Crowd::of(&hosted, GUTTER_TTL);
    let early = crowd.reads_of(READS) / 10;
    crowd.read(&mut hosted, READS, |_, _| {});
    let mut restarts = Tally::default();
    for host in 0..3 {
        let tally = crowd.read(&mut hosted, READS, |hosted, ended| {
            until_read(ended, early);
            assert!(hosted.node(host).terminate().is_some_and(|status| status.success()));
            hosted.restart(host);
        });
        println!("{}", told("restart", &tally));
        restarts.add(tally);
        hosted.until_well();
    }
    assert_few_failed(&restarts);
    assert!(restarts.stale.is_empty(), "{:#?}", restarts.stale);

    // How often the database is asked is told and not judged: each change that the node answers while it is held out makes all that was loaded in its
    // place too old, and the checkers change something all the time.
    let mut flaps = Tally::default();
    for _ in 0..FLAPS {
        for change in
            [|hosted: &mut Hosted| hosted.node(VICTIM).pause(), |hosted: &mut Hosted| hosted.node(VICTIM).resume()]
        {
            let begun = Instant::now();
            let tally = crowd.read(&mut hosted, READS / 2, |hosted, _| change(hosted));
            println!("{}", told("flapping", &tally));
            flaps.add(tally);
            until("its time is up", || begun.elapsed() >= FLAP);
        }
    }
    say(&format!("restarts: {}; flapping each 2 s: {}", restarts.shown(), flaps.shown()));
    assert_few_failed(&flaps);
    assert!(flaps.stale.is_empty(), "{:#?}", flaps.stale);
    hosted.until_well();

    hosted.node(VICTIM).kill();
    hosted.node(GUTTER).kill();
    for host in [0, 2] {
        for other in [VICTIM, GUTTER] {
            until("both are out", || hosted.sees(host, other, "out"));
        }
    }
    // Few: clients that know the slots ask again and again.
    let tally = crowd.read(&mut hosted, READS / 20, |_, _| {});
    println!("{}", told("without a gutter", &tally));
    let is_refused =
        |failed: &String| failed.contains("CLUSTERDOWN node b ") || failed.contains("SERVER_ERROR node b ");
    assert!(tally.failed.iter().all(is_refused), "{:#?}", tally.failed);
    assert!(!tally.failed.is_empty() && tally.failed.len() * 2 < tally.reads, "{}", tally.shown());
    assert!(tally.stale.is_empty(), "{:#?}", tally.stale);
    hosted.restart(GUTTER);
    for host in [0, 2] {
        until("the gutter is back", || hosted.sees(host, GUTTER, "well"));
    }
    let tally = crowd.read(&mut hosted, READS, |_, _| {});
    println!("{}", told("with a gutter again", &tally));
    assert_few_failed(&tally);
    assert!(tally.stale.is_empty(), "{:#?}", tally.stale);
}

/// Reads of each reader while so many of a hundred packets are lost, which takes its time.
const LOSSES: [(u32, usize); 3] = [(1, 150), (10, 30), (30, 8)];

#[test]
fn nothing_too_old_is_read_where_packets_are_lost_and_lines_are_cut() {
    let ttl = Duration::from_secs(1);
    let Some(mut hosted) = Hosted::start("outages under load", "gutter-ttl = \"1s\"\nflap-out = \"0s\"") else {
        return;
    };
    let mut crowd = Crowd::of(&hosted, ttl);
    // On the side of the node that is cut off.
    let (there, here) = (hosted.client(VICTIM), hosted.client(0));
    crowd.add_checker(&hosted, ttl, there, here);
    crowd.read(&mut hosted, READS / 2, |_, _| {});
    for (percent, reads) in LOSSES {
        hosted.hosts().lose(percent);
        let tally = crowd.read(&mut hosted, reads, |_, _| {});
        hosted.hosts().heal();
        println!("{}", told(&format!("{percent} % of packets lost"), &tally));
        assert!(tally.stale.is_empty() && tally.checked + tally.unchecked > 0, "{:#?}", tally.stale);
        hosted.until_well();
    }
    let mut cuts = Tally::default();
    for (from, to) in [(0, VICTIM), (VICTIM, 0)] {
        let tally = crowd.read(&mut hosted, READS / 2, |hosted, _| hosted.hosts().cut(from, to));
        println!("{}", told("a line cut one way", &tally));
        cuts.add(tally);
        hosted.hosts().heal();
        hosted.until_well();
    }
    let tally = crowd.read(&mut hosted, READS, |hosted, _| hosted.hosts().isolate(VICTIM));
    println!("{}", told("a node alone with clients", &tally));
    cuts.add(tally);
    hosted.hosts().heal();
    let tally = crowd.read(&mut hosted, READS / 2, |_, _| {});
    println!("{}", told("healed", &tally));
    cuts.add(tally);
    say(&format!("lines cut and healed: {}", cuts.shown()));
    assert_few_failed(&cuts);
    assert!(cuts.stale.is_empty(), "{:#?}", cuts.stale);
}
