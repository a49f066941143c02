//! A server that is killed again and again under load: what was answered is in the source, nothing is there twice, and in order.

use super::{GROUP, Setup, flushed};
use leasehold_tests::client::request;
use leasehold_tests::random::Random;
use leasehold_tests::{Client, Server, Value, groups};
use std::collections::BTreeMap;
use std::io::Write as _;
use std::time::{Duration, SystemTime};

/// How often a server is killed; `tests/nightly` does it more often.
const KILL_CYCLES: u64 = 10;

/// After so many writes a writer is silent, for about the time of a flush.
const PAUSE_EVERY: u64 = 5;
const PAUSE: Duration = Duration::from_millis(15);

/// What a writer did to its key: the number of each operation is its value, and every seventh deletes.
#[derive(Clone, Copy, Debug, Default)]
struct Writer {
    begun: u64,
    answered: u64,
}

fn deletes(number: u64) -> bool {
    number.is_multiple_of(7)
}

#[test]
fn kills_at_random_moments_lose_nothing_repeat_nothing_and_keep_the_order() {
    const WRITERS: usize = 4;
    let cycles = std::env::var("LEASEHOLD_KILL_CYCLES").ok().and_then(|text| text.parse().ok()).unwrap_or(KILL_CYCLES);
    let seed = std::env::var("LEASEHOLD_KILL_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(|| {
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_millis() as u64
    });
    groups::say(&format!("{GROUP}: {cycles} kills, LEASEHOLD_KILL_SEED={seed}"));
    let mut random = Random(seed);
    let setup = Setup::new("flush_interval = \"5ms\"\nflush_batch = 3\nsegment_bytes = \"4kb\"\nmax_bytes = \"1mb\"");
    let mut writers = [Writer::default(); WRITERS];
    let mut kills = 0;
    let mut answered_in_all = 0;
    while kills < cycles {
        let mut server = setup.server();
        check(&setup, &mut server, &writers);
        let clients: Vec<Client> = writers.iter().map(|_| server.client()).collect();
        let moment = Duration::from_micros(random.below(60_000));
        std::thread::scope(|scope| {
            for ((place, writer), client) in writers.iter_mut().enumerate().zip(clients) {
                scope.spawn(move || write_on(client, place, writer));
            }
            // The moment is the point of this test: any will do.
            std::thread::sleep(moment);
            server.kill();
        });
        kills += 1;
        answered_in_all = writers.iter().map(|writer| writer.answered).sum::<u64>();
    }
    let mut server = setup.server();
    check(&setup, &mut server, &writers);
    assert!(answered_in_all > cycles, "{answered_in_all} writes were answered");
    groups::say(&format!("{GROUP}: {answered_in_all} writes answered, none lost, none applied twice"));
}

/// Writes to a key of its own until the server is gone.
fn write_on(mut client: Client, place: usize, writer: &mut Writer) {
    loop {
        if writer.begun.is_multiple_of(PAUSE_EVERY) {
            // Else no key would ever be wholly flushed when the server is killed, and nothing could be applied twice.
            std::thread::sleep(PAUSE);
        }
        writer.begun += 1;
        let (key, number) = (format!("note:w{place}"), writer.begun.to_string());
        let bytes = if deletes(writer.begun) { request(&["DEL", &key]) } else { request(&["SET", &key, &number]) };
        if client.stream().write_all(&bytes).is_err() {
            return;
        }
        match client.receive_within(Duration::from_secs(20)) {
            Ok(Value::Simple(_) | Value::Integer(_)) => writer.answered = writer.begun,
            Ok(other) => panic!("{key} {number}: {other:?}"),
            Err(_) => return,
        }
    }
}

/// Once all is flushed: each key is what an operation made of it that was answered, or was begun after that.
fn check(setup: &Setup, server: &mut Server, writers: &[Writer]) {
    flushed(&mut server.client());
    let mut file = setup.file();
    let rows: BTreeMap<String, String> = file.pairs("SELECT name, body FROM notes").into_iter().collect();
    let applied = file.pairs("SELECT name, body FROM applied ORDER BY id");
    for (place, writer) in writers.iter().enumerate() {
        let name = format!("w{place}");
        let possible = writer.answered..=writer.begun;
        match rows.get(&name) {
            Some(body) => {
                let number: u64 = body.parse().expect("a number");
                assert!(possible.contains(&number) && !deletes(number), "{name} is {number} after {writer:?}");
            }
            None => assert!(
                possible.into_iter().any(|number| deletes(number) || number == 0),
                "{name} is gone after {writer:?}"
            ),
        }
        let mut last = 0;
        for body in applied.iter().filter(|(of, body)| *of == name && !body.is_empty()).map(|(_, body)| body) {
            let number: u64 = body.parse().expect("a number");
            assert!(number > last, "{name}: {number} was applied after {last}");
            last = number;
        }
    }
}
