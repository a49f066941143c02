//! The calls to Linux that the standard library does not have: epoll, core pinning, another process's CPU clock.
//!
//! The only file of the benches with `unsafe`; each block is one call.

#![allow(unsafe_code)]

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::Duration;

/// A level-triggered epoll instance whose events carry an index of the caller's.
#[derive(Debug)]
pub struct Epoll {
    fd: OwnedFd,
    events: Vec<libc::epoll_event>,
    ready: usize,
}

/// Events taken by one wait.
const EVENTS_MAX: usize = 256;

impl Epoll {
    /// An empty instance.
    ///
    /// # Errors
    /// What `epoll_create1` reports: no descriptors left.
    pub fn new() -> io::Result<Self> {
        // SAFETY: takes no pointers.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just given us this descriptor; nobody else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { fd, events: vec![libc::epoll_event { events: 0, u64: 0 }; EVENTS_MAX], ready: 0 })
    }

    /// Watches `socket` for input; its events carry `index`. Closing the socket ends it.
    ///
    /// # Errors
    /// What `epoll_ctl` reports.
    pub fn add(&self, socket: &impl AsRawFd, index: usize) -> io::Result<()> {
        let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: index as u64 };
        // SAFETY: both descriptors are open for the length of the call; the kernel copies `event`.
        let result =
            unsafe { libc::epoll_ctl(self.fd.as_raw_fd(), libc::EPOLL_CTL_ADD, socket.as_raw_fd(), &raw mut event) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Sleeps until a socket has input or `timeout_ms` is over, -1 = for ever. Returns the number of events.
    ///
    /// # Errors
    /// What `epoll_wait` reports, except an interruption, which counts as no events.
    pub fn wait(&mut self, timeout_ms: i32) -> io::Result<usize> {
        // SAFETY: `events` has room for EVENTS_MAX events and lives through the call.
        let count =
            unsafe { libc::epoll_wait(self.fd.as_raw_fd(), self.events.as_mut_ptr(), EVENTS_MAX as i32, timeout_ms) };
        if count < 0 {
            let error = io::Error::last_os_error();
            self.ready = 0;
            return if error.kind() == io::ErrorKind::Interrupted { Ok(0) } else { Err(error) };
        }
        self.ready = count as usize;
        Ok(self.ready)
    }

    /// The index of event `event` of the last wait.
    ///
    /// # Panics
    /// If `event` is not below what the last wait returned.
    #[must_use]
    pub fn ready(&self, event: usize) -> usize {
        assert!(event < self.ready, "events are counted by wait");
        self.events[event].u64 as usize
    }
}

/// Waits until `socket` takes output again.
///
/// # Errors
/// [`io::ErrorKind::TimedOut`] after `timeout`, or what `poll` reports.
pub fn wait_writable(socket: &impl AsRawFd, timeout: Duration) -> io::Result<()> {
    let mut poll = libc::pollfd { fd: socket.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
    // SAFETY: one pollfd, alive through the call.
    match unsafe { libc::poll(&raw mut poll, 1, timeout.as_millis() as i32) } {
        0 => Err(io::ErrorKind::TimedOut.into()),
        1.. => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Lets the calling thread, and what it starts from now on, run on these cores only.
///
/// # Errors
/// What `sched_setaffinity` reports: a core that is not there or not allowed.
pub fn pin_current_thread(cores: &[usize]) -> io::Result<()> {
    // SAFETY: a cpu_set_t is an array of integers; all zero is the empty set.
    let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
    for &core in cores {
        if core >= libc::CPU_SETSIZE as usize {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("core {core} is beyond the largest set")));
        }
        // SAFETY: `core` is within the set.
        unsafe { libc::CPU_SET(core, &mut set) };
    }
    // SAFETY: 0 is the calling thread; the kernel reads the set, whose size it is told.
    let result = unsafe { libc::sched_setaffinity(0, mem::size_of::<libc::cpu_set_t>(), &raw const set) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Lets all others go before the calling thread.
///
/// # Errors
/// What `setpriority` reports.
pub fn give_way() -> io::Result<()> {
    // SAFETY: takes no pointers; 0 is the calling thread.
    let result = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 19) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Makes the kernel kill the child when the thread that starts it ends, however it ends: no server survives its bench.
pub fn die_with_parent(command: &mut Command) {
    // SAFETY: prctl is async-signal-safe and allocates nothing, as code between fork and exec must.
    unsafe {
        command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        });
    }
}

/// CPU time that all threads of a process have used so far, user and system together, in ns.
///
/// The scheduler's own count, exact to the running tick, unlike the 10 ms ticks of `/proc/PID/stat`; threads that have
/// ended are in it.
///
/// # Errors
/// What the clock reports: no such process.
pub fn process_cpu_ns(pid: u32) -> io::Result<u64> {
    let mut clock: libc::clockid_t = 0;
    // SAFETY: writes one clock id.
    let result = unsafe { libc::clock_getcpuclockid(pid as libc::pid_t, &raw mut clock) };
    if result != 0 {
        return Err(io::Error::from_raw_os_error(result));
    }
    clock_ns(clock)
}

/// CPU time that the calling thread has used so far, in ns: what a loop costs, whoever else wants the core.
///
/// # Errors
/// What the clock reports.
pub fn thread_cpu_ns() -> io::Result<u64> {
    clock_ns(libc::CLOCK_THREAD_CPUTIME_ID)
}

fn clock_ns(clock: libc::clockid_t) -> io::Result<u64> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes one timespec.
    if unsafe { libc::clock_gettime(clock, &raw mut time) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}
