//! Memory that is in use for long moves into huge pages, and out of them as soon as some of it goes; nothing is lost by either, whoever
//! writes meanwhile.

mod common;

use common::{BOOT_MS, SETTINGS, keyspace, set, try_set};
use leasehold_keyspace::{Access, Attributes, Db, EvictionPolicy, Keyspace, Settings, Turn, Worked};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// One test at a time: each looks at what the whole process holds.
static ALONE: Mutex<()> = Mutex::new(());

/// So much later everything that has not changed is calm.
const LONG_S: u32 = 1_000;

fn key(number: usize) -> [u8; 16] {
    let mut key = *b"key:............";
    key[8..].copy_from_slice(&(number as u64).to_be_bytes());
    key
}

/// Says what key it is of.
fn value(number: usize, bytes: usize) -> Vec<u8> {
    number.to_le_bytes().into_iter().cycle().take(bytes).collect()
}

/// Gathers and parts until nothing is left to do. `None` where the system refuses huge pages.
fn work(keyspace: &Keyspace, now_s: &mut u32) -> Option<()> {
    let mut idle = 0;
    while idle < 1_000 {
        match keyspace.gather_pages(*now_s) {
            Worked::Refused => {
                eprintln!("no huge pages here: nothing is tested");
                return None;
            }
            Worked::Done => idle = 0,
            Worked::Idle => {
                *now_s += LONG_S;
                idle += 1;
            }
        }
    }
    Some(())
}

/// A line of the sum of all mappings, in bytes.
fn of_process(name: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup").expect("Linux tells of its mappings");
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).expect("such a line");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number of kB") << 10
}

fn check_all(keyspace: &Keyspace, turn: &mut Turn, numbers: impl Iterator<Item = usize>, bytes: usize) {
    for number in numbers {
        let expected = value(number, bytes);
        let is_right = keyspace.read(turn, Db(0), &key(number), Access::Touch, |entry| entry.value == expected);
        assert_eq!(is_right, Some(true), "key {number}");
    }
}

#[test]
fn what_stays_is_gathered_and_what_goes_gives_its_memory_back() {
    const ENTRIES: usize = 400_000;
    const VALUE_BYTES: usize = 100;
    let _alone = ALONE.lock();
    let resident_before = of_process("Rss");
    let keyspace = keyspace(SETTINGS);
    let mut turn = Turn::new(BOOT_MS, 1);
    for number in 0..ENTRIES {
        set(&keyspace, &mut turn, &key(number), &value(number, VALUE_BYTES));
    }
    let stats = keyspace.stats();
    assert_eq!(stats.huge_bytes, 0);
    assert_eq!(keyspace.gather_pages(5), Worked::Idle, "nothing is calm yet");
    let mut now_s = 10;
    let Some(()) = work(&keyspace, &mut now_s) else { return };
    let huge = keyspace.stats().huge_bytes;
    let resident = of_process("Rss") - resident_before;
    eprintln!("{huge} bytes of {} in huge pages, {resident} resident", stats.used_bytes);
    // Segments that are not full and the end of the index are not gathered.
    assert!(huge > stats.used_bytes / 2, "{huge} of {}", stats.used_bytes);
    assert!(of_process("AnonHugePages") >= huge);
    assert!(resident < stats.used_bytes + (6 << 20), "{resident} resident, {} used", stats.used_bytes);
    check_all(&keyspace, &mut turn, 0..ENTRIES, VALUE_BYTES);

    // Every other key goes, then the cleaning up that a server does.
    (0..ENTRIES).step_by(2).for_each(|number| {
        keyspace.update(&mut turn, Db(0), &key(number), |slot| {
            let _ = slot.remove();
        })
    });
    for _ in 0..200 {
        turn.now_ms += 100;
        keyspace.expire_cycle(&mut turn, 0..keyspace.shards(), 10_000);
    }
    let Some(()) = work(&keyspace, &mut now_s) else { return };
    let (used, resident) = (keyspace.stats().used_bytes, of_process("Rss") - resident_before);
    eprintln!("half of the entries are gone: {used} used, {resident} resident");
    assert!(resident < used + (10 << 20), "{resident} resident, {used} used");
    check_all(&keyspace, &mut turn, (1..ENTRIES).step_by(2), VALUE_BYTES);
    keyspace.check();

    keyspace.flush(&mut turn, None);
    turn.effects.flushed.clear();
    let Some(()) = work(&keyspace, &mut now_s) else { return };
    assert!(keyspace.stats().huge_bytes <= 4 << 20, "what the free lists keep");
    let resident = of_process("Rss").saturating_sub(resident_before);
    assert!(resident < 12 << 20, "{resident} resident of nothing");
}

#[test]
fn writers_and_evictions_do_not_notice() {
    const KEYS: usize = 90_000;
    const THREADS: usize = 3;
    let _alone = ALONE.lock();
    let settings = Settings { policy: EvictionPolicy::AllKeysTinyLfu, memory_bytes_max: 12 << 20, ..SETTINGS };
    let keyspace = keyspace(settings);
    let (over, gathered, now_s) = (AtomicBool::new(false), AtomicU32::new(0), AtomicU32::new(1));
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (keyspace, over, gathered) = (&keyspace, &over, &gathered);
            scope.spawn(move || {
                let mut turn = Turn::new(BOOT_MS, thread as u64);
                let begun = Instant::now();
                let mut round = 0;
                // On until pages were gathered and parted often, or it is clear that there are none.
                while round < 2 || gathered.load(Relaxed) < 200 && begun.elapsed() < Duration::from_secs(5) {
                    for step in 0..KEYS / 4 {
                        let number = (turn.random() as usize % KEYS / THREADS) * THREADS + thread;
                        // A size of its own for each key, and for each time.
                        let bytes = 20 + (number * 7 + round * 13) % 400;
                        match step % 8 {
                            0..3 => {
                                let made = value(number, bytes);
                                try_set(keyspace, &mut turn, &key(number), &made, Attributes::PLAIN).expect("room");
                            }
                            3 => keyspace.update(&mut turn, Db(0), &key(number), |slot| {
                                let _ = slot.remove();
                            }),
                            _ => {
                                let is_right = |found: &[u8]| found == value(number, found.len());
                                let read = keyspace
                                    .read(&mut turn, Db(0), &key(number), Access::Touch, |entry| is_right(entry.value));
                                assert_ne!(read, Some(false), "key {number}");
                            }
                        }
                    }
                    if thread == 0 {
                        keyspace.expire_cycle(&mut turn, 0..keyspace.shards(), 1_000);
                    }
                    round += 1;
                }
                over.store(true, Relaxed);
            });
        }
        for _ in 0..2 {
            scope.spawn(|| {
                while !over.load(Relaxed) {
                    match keyspace.gather_pages(now_s.fetch_add(LONG_S, Relaxed)) {
                        Worked::Done => {
                            gathered.fetch_add(1, Relaxed);
                        }
                        Worked::Idle => std::thread::yield_now(),
                        Worked::Refused => return,
                    }
                }
            });
        }
    });
    eprintln!("{} blocks gathered or parted under writers", gathered.load(Relaxed));
    keyspace.check();
    let used = keyspace.stats().used_bytes;
    assert!(used <= 12 << 20, "{used}");
}
