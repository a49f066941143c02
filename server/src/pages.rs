//! Huge pages where they cost no memory: for what the keyspace has used for a while, on a thread of its own, and never for the heap.

use crate::node::Node;
use leasehold_keyspace::Worked;
use std::sync::Weak;
use std::time::{Duration, Instant};

/// Niceness of the thread, as of the one that frees memory.
const NICENESS: i32 = 10;

/// How long it sleeps when there is nothing to do.
const IDLE: Duration = Duration::from_millis(500);

/// It sleeps so many times as long as it used a processor, so it takes a fiftieth of one at most.
const SLEEP_FACTOR: u32 = 49;

/// See `PR_THP_DISABLE_EXCEPT_ADVISED` in the kernel's `prctl.h`; the bindings do not name it.
#[cfg(target_os = "linux")]
const EXCEPT_ADVISED: std::ffi::c_ulong = 1 << 1;

/// No huge pages that the system makes by itself: once a block of one is given back, the next byte written there makes all of it
/// resident again. After a change of value sizes 343 MB were resident at a `maxmemory` of 256 MiB; without huge pages it is 286. The
/// allocator itself is built not to ask for them (`no_thp`): what it takes before `main` would be 5 MB more.
#[allow(unsafe_code)]
pub(crate) fn keep_small() {
    #[cfg(target_os = "linux")]
    {
        // Those that are asked for stay possible: said so since Linux 6.18, and by a system that makes none by itself.
        // SAFETY: numbers only; it changes how pages of this process are backed, not what is in them.
        let done = unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1_usize, EXCEPT_ADVISED, 0_usize, 0_usize) };
        if done == 0 {
            return;
        }
        if let Err(error) = rustix::thread::disable_transparent_huge_pages(makes_them_by_itself()) {
            tracing::warn!(%error, "cannot do without huge pages; more memory than maxmemory may be resident");
        }
    }
}

/// Whether the system gives huge pages to who did not ask; also if it does not say.
#[cfg(target_os = "linux")]
fn makes_them_by_itself() -> bool {
    let mode = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled");
    mode.map_or(true, |mode| mode.contains("[always]"))
}

/// Processor time of this thread.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Starts the thread. It ends with the node, or when the system refuses.
pub(crate) fn start(node: Weak<Node>) {
    let started = std::thread::Builder::new().name("pages".into()).spawn(move || {
        // Refused, it competes with the others.
        let _ = rustix::process::nice(NICENESS);
        let begun = Instant::now();
        while let Some(node) = node.upgrade() {
            let used = cpu_time();
            let worked = node.keyspace.gather_pages(begun.elapsed().as_secs() as u32);
            drop(node);
            match worked {
                Worked::Idle => std::thread::sleep(IDLE),
                Worked::Done => std::thread::sleep((cpu_time() - used) * SLEEP_FACTOR),
                Worked::Refused => {
                    tracing::info!("the system allows no huge pages; reads of many keys would cost less with them");
                    return;
                }
            }
        }
    });
    if let Err(error) = started {
        tracing::warn!(%error, "no thread for huge pages");
    }
}
