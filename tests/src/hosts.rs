//! Hosts of a network on this machine: each a network namespace, all joined by a switch in this process that can lose packets, cut lines one way or both,
//! and heal them.
//!
//! ```text
//!  thread "host 0", own namespace          switch                 thread "host 1", own namespace
//!  servers, sockets ── tun 10.77.0.1 ──► file ─► lost? cut? ─► file ──► tun 10.77.0.2 ── servers, sockets
//! ```
//!
//! A namespace belongs to a thread and to what that thread starts, so nothing is left behind when they end. It takes the right to make one (root, or
//! CAP_SYS_ADMIN and CAP_NET_ADMIN).

#![allow(unsafe_code)]

use crate::groups::say;
use crate::random::Random;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd as _;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

/// What a thread of a host is given to do.
type Job = Box<dyn FnOnce() + Send>;

/// The hosts. They end when this is dropped; what runs on them must have ended before.
#[derive(Debug)]
pub struct Hosts {
    jobs: Vec<mpsc::Sender<Job>>,
    threads: Vec<JoinHandle<()>>,
    switch: Arc<Switch>,
}

/// The lines between the hosts.
#[derive(Debug)]
struct Switch {
    ports: Vec<File>,
    /// By host it comes from and host it goes to.
    cuts: Vec<Vec<AtomicBool>>,
    lost_percent: AtomicU32,
    lost: AtomicU64,
    ends: AtomicBool,
}

impl Hosts {
    /// So many hosts; `None`, which is said, if this process may not make them.
    ///
    /// # Panics
    /// If it may, and they cannot be made.
    #[must_use]
    pub fn new(group: &str, count: usize) -> Option<Self> {
        let mut jobs = Vec::new();
        let (mut threads, mut ports) = (Vec::new(), Vec::new());
        for host in 0..count {
            let (give, take) = mpsc::channel::<Job>();
            let (tell, told) = mpsc::channel();
            threads.push(std::thread::spawn(move || {
                let port = enter_namespace(address(host));
                let is_there = port.is_ok();
                let _ = tell.send(port);
                if is_there {
                    take.into_iter().for_each(|job| job());
                }
            }));
            jobs.push(give);
            match told.recv().expect("the thread tells") {
                Ok(port) => ports.push(port),
                Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                    // Even where everything must run: nothing that could be installed would give the right.
                    say(&format!("left out: {group}: making network namespaces takes root: {error}"));
                    return None;
                }
                Err(error) => panic!("a network namespace cannot be made: {error}"),
            }
        }
        let cuts = (0..count).map(|_| (0..count).map(|_| AtomicBool::new(false)).collect()).collect();
        let (lost_percent, lost, ends) = (AtomicU32::new(0), AtomicU64::new(0), AtomicBool::new(false));
        let switch = Arc::new(Switch { ports, cuts, lost_percent, lost, ends });
        for host in 0..count {
            let switch = Arc::clone(&switch);
            threads.push(std::thread::spawn(move || switch.carry(host)));
        }
        Some(Self { jobs, threads, switch })
    }

    /// Runs something on a host: what it starts and connects is there for good.
    ///
    /// # Panics
    /// If that panics.
    pub fn on<R: Send + 'static>(&self, host: usize, run: impl FnOnce() -> R + Send + 'static) -> R {
        let (tell, told) = mpsc::channel();
        let job = Box::new(move || drop(tell.send(run())));
        self.jobs[host].send(job).expect("the host is there");
        told.recv().expect("it has run to its end")
    }

    /// Loses so many of a hundred packets, of all lines.
    pub fn lose(&self, percent: u32) {
        self.switch.lost_percent.store(percent, Ordering::Relaxed);
    }

    /// Packets that were lost or met a cut so far.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.switch.lost.load(Ordering::Relaxed)
    }

    /// Lets nothing through any more from one host to another.
    pub fn cut(&self, from: usize, to: usize) {
        self.switch.cuts[from][to].store(true, Ordering::Relaxed);
    }

    /// Cuts a host off from all others.
    pub fn isolate(&self, host: usize) {
        for other in (0..self.jobs.len()).filter(|&other| other != host) {
            self.cut(host, other);
            self.cut(other, host);
        }
    }

    /// Ends all cuts and losses.
    pub fn heal(&self) {
        self.lose(0);
        self.switch.cuts.iter().flatten().for_each(|cut| cut.store(false, Ordering::Relaxed));
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        self.switch.ends.store(true, Ordering::Relaxed);
        self.jobs.clear();
        for thread in self.threads.drain(..) {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "a thread of the hosts has panicked");
        }
    }
}

/// The address of a host.
#[must_use]
pub fn address(host: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, 1 + u8::try_from(host).expect("a few hosts"))
}

impl Switch {
    /// Takes what a host sends, and gives it to whom it is for.
    fn carry(&self, from: usize) {
        let mut random = Random(from as u64);
        let mut packet = [0; 65_536];
        let patience = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
        while !self.ends.load(Ordering::Relaxed) {
            let mut ready = [PollFd::new(&self.ports[from], PollFlags::IN)];
            if !poll(&mut ready, Some(&patience)).is_ok_and(|ready| ready > 0) {
                continue;
            }
            let Ok(len) = (&self.ports[from]).read(&mut packet) else { continue };
            // Version 4; the address it goes to is at 16. Anything else is the kernel's talk of neighbours.
            if len < 20 || packet[0] >> 4 != 4 || packet[16..19] != [10, 77, 0] {
                continue;
            }
            let to = usize::from(packet[19]).wrapping_sub(1);
            let Some(port) = self.ports.get(to) else { continue };
            let is_lost = random.below(100) < u64::from(self.lost_percent.load(Ordering::Relaxed));
            if is_lost || self.cuts[from][to].load(Ordering::Relaxed) {
                self.lost.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            // A host that takes no more loses it, as a card does.
            let _ = (&*port).write(&packet[..len]);
        }
    }
}

/// Moves the calling thread into a network namespace of its own with one device; the other end of that.
fn enter_namespace(address: Ipv4Addr) -> std::io::Result<File> {
    const NAME: &str = "tun0";
    // SAFETY: only its network becomes the thread's own; files and memory stay those of all threads.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }?;
    let device = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    let mut request: libc::ifreq = libc::ifreq {
        ifr_name: [0; libc::IFNAMSIZ],
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short },
    };
    for (place, byte) in request.ifr_name.iter_mut().zip(NAME.bytes()) {
        *place = byte as libc::c_char;
    }
    // SAFETY: TUNSETIFF reads and writes one `ifreq`, which lives until it returns.
    let done = unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    if done < 0 {
        return Err(std::io::Error::last_os_error());
    }
    let address = format!("{address}/24");
    for words in
        [&["link", "set", "lo", "up"][..], &["addr", "add", &address, "dev", NAME], &["link", "set", NAME, "up"]]
    {
        let done = Command::new("ip").args(words).status()?;
        if !done.success() {
            return Err(std::io::Error::other(format!("ip {} failed", words.join(" "))));
        }
    }
    Ok(device)
}
