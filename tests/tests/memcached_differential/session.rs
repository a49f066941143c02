//! One sequence on two servers: sent in pieces, replies brought into one form, and compared.
//!
//! Commands go out in pipelines. A command that must know the replies before it waits for them. Behind each pipeline stands a mark,
//! a value that is set and read, by which the end of the replies is found whatever they are.

use crate::grammar::{FAR_AWAY, Part, Step, keys};
use leasehold_tests::Memcached;
use leasehold_tests::memcached::Incomplete;
use leasehold_tests::random::Random;
use leasehold_tests::reply::Quoted;
use std::collections::HashMap;
use std::fmt;
use std::io::Write as _;

/// What was compared.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Commands made up; what is left over of spoiled ones and taken for commands is not counted.
    pub(crate) commands: u64,
    /// Replies that do or show something.
    pub(crate) done: u64,
    /// Pipelines.
    pub(crate) pipelines: u64,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { commands, done, pipelines } = self;
        write!(
            f,
            "{commands} commands compared in {pipelines} pipelines, {done} replies are more than a refusal or a miss"
        )
    }
}

/// Below it lie the numbers that memcached gives itself.
const VERSION_FIRST: u64 = 1_000_000_000_000_000;

/// Two servers.
pub(crate) struct Pair {
    ports: [u16; 2],
    marks: u64,
    /// The last number for `E`.
    version: u64,
    pub(crate) tally: Tally,
}

/// A connection, and what CAS values it has seen.
struct Session {
    client: Memcached,
    /// The last one told for a key.
    last_cas: HashMap<Vec<u8>, u64>,
    /// Numbers in the order in which they were seen for a key.
    names: HashMap<(Vec<u8>, u64), usize>,
    seen: HashMap<Vec<u8>, usize>,
}

impl Pair {
    pub(crate) fn new(ours: u16, theirs: u16) -> Self {
        Self { ports: [ours, theirs], marks: 0, version: VERSION_FIRST, tally: Tally::default() }
    }

    /// Runs a sequence on both, from nothing, and reads at the end what each has.
    pub(crate) fn run(&mut self, steps: &[Step], cuts: u64) -> Result<(), String> {
        let mut random = Random(cuts);
        let mut sessions = self.ports.map(Session::new);
        let mut first = Vec::new();
        let mut last = b"gets".to_vec();
        for key in keys() {
            first.extend_from_slice(&[b"delete ", &key[..], b" noreply\r\n"].concat());
            last.extend_from_slice(&[b" ", &key[..]].concat());
        }
        last.extend_from_slice(b"\r\n");
        let mut pending: Vec<&Step> = Vec::new();
        let (first, last) = (Step::of(first), Step::of(last));
        pending.push(&first);
        for step in steps.iter().chain([&last]) {
            if step.waits_for_replies() {
                self.exchange(&mut sessions, &pending, &mut random)?;
                pending.clear();
            }
            pending.push(step);
        }
        self.tally.commands += steps.len() as u64;
        self.exchange(&mut sessions, &pending, &mut random)
    }

    fn exchange(&mut self, sessions: &mut [Session; 2], steps: &[&Step], random: &mut Random) -> Result<(), String> {
        self.marks += 1;
        self.tally.pipelines += 1;
        let mark = format!("mark {:012}", self.marks);
        let mut end = Vec::new();
        if steps.iter().any(|step| step.is_missized) {
            // Taken for data, or for commands that are none.
            end.extend_from_slice(b"xx\r\nxx\r\nxx\r\n");
        }
        end.extend_from_slice(format!("set mark 0 0 {}\r\n{mark}\r\nget mark\r\n", mark.len()).as_bytes());
        let pieces = 1 + random.below(12).saturating_sub(5);
        let cuts: Vec<u64> = (1..pieces).map(|_| random.number()).collect();
        for session in sessions.iter_mut() {
            session.send(&[session.bytes_of(steps, self.version), end.clone()].concat(), &cuts);
        }
        let is_version = |part: &&Part| matches!(part, Part::Version);
        self.version += steps.iter().flat_map(|step| &step.parts).filter(is_version).count() as u64;
        let reply_to_mark = format!("STORED\r\nVALUE mark 0 {}\r\n{mark}\r\nEND\r\n", mark.len());
        let [ours, theirs] = sessions.each_mut().map(|session| session.replies(reply_to_mark.as_bytes()));
        const DONE: [&[u8]; 7] = [b"STORED", b"VALUE ", b"DELETED", b"TOUCHED", b"OK", b"HD", b"VA "];
        let is_done = |line: &&[u8]| DONE.iter().any(|word| line.starts_with(word));
        let without_mark = theirs.strip_suffix(reply_to_mark.as_bytes()).unwrap_or(&theirs);
        self.tally.done += without_mark.split(|&byte| byte == b'\n').filter(is_done).count() as u64;
        // Of two mistakes on a line, one of them a key that is too long, which one is told follows from the order of looking.
        let may_have_two_mistakes = steps.iter().any(|step| step.has_long_key());
        let is_same = ours == theirs || (may_have_two_mistakes && without_reasons(&ours) == without_reasons(&theirs));
        if is_same { Ok(()) } else { Err(difference(steps, &ours, &theirs)) }
    }
}

impl Session {
    fn new(port: u16) -> Self {
        Self { client: Memcached::connect(port), last_cas: HashMap::new(), names: HashMap::new(), seen: HashMap::new() }
    }

    /// With numbers for `E` from behind `version` on.
    fn bytes_of(&self, steps: &[&Step], mut version: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        for part in steps.iter().flat_map(|step| &step.parts) {
            match part {
                Part::Bytes(piece) => bytes.extend_from_slice(piece),
                Part::Cas { key, plus } => {
                    let cas = self.last_cas.get(key).map_or(FAR_AWAY, |cas| cas + plus);
                    bytes.extend_from_slice(cas.to_string().as_bytes());
                }
                Part::Version => {
                    version += 1;
                    bytes.extend_from_slice(version.to_string().as_bytes());
                }
            }
        }
        bytes
    }

    /// In pieces that end at random places; the system may join some again.
    fn send(&mut self, bytes: &[u8], cuts: &[u64]) {
        let mut places: Vec<usize> = cuts.iter().map(|cut| (cut % bytes.len() as u64) as usize).collect();
        places.sort_unstable();
        let mut start = 0;
        for place in places.into_iter().chain([bytes.len()]) {
            // Who has closed the connection tells by that what it thinks of it; the other is asked the same.
            let _ = self.client.stream().write_all(&bytes[start..place]);
            start = place;
        }
    }

    /// The replies up to the mark in their common form, or up to where they end otherwise, and how.
    fn replies(&mut self, mark: &[u8]) -> Vec<u8> {
        let (bytes, how): (_, &[u8]) = match self.client.receive_while(|bytes| !bytes.ends_with(mark)) {
            Ok(bytes) => (bytes, b""),
            Err(Incomplete::Closed(bytes)) => (bytes, b"<closed>"),
            Err(Incomplete::Timeout(bytes)) => (bytes, b"<nothing more>"),
        };
        [&self.in_common_form(&bytes)[..], how].concat()
    }

    /// CAS values become their number for a key, times left and the like are rounded, versions of servers go.
    fn in_common_form(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut rest = bytes;
        let mut form = Vec::with_capacity(bytes.len());
        while let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
            let (line, behind) = rest.split_at(end + 1);
            rest = behind;
            let words: Vec<&[u8]> = line.trim_ascii_end().split(|&byte| byte == b' ').collect();
            let data_len = match words[..] {
                [b"VALUE", key, flags, length, cas] => {
                    let named = self.named(key, cas);
                    form.extend_from_slice(&[b"VALUE", key, flags, length, named.as_bytes()].join(&b' '));
                    form.extend_from_slice(b"\r\n");
                    length
                }
                [b"VALUE", _, _, length] => {
                    form.extend_from_slice(line);
                    length
                }
                [b"VA", length, ref flags @ ..] => {
                    self.meta_line(&[b"VA", length], flags, &mut form);
                    length
                }
                [code @ (b"HD" | b"EN" | b"NF" | b"NS" | b"EX"), ref flags @ ..] => {
                    self.meta_line(&[code], flags, &mut form);
                    continue;
                }
                [b"ME", key, ref facts @ ..] => {
                    let names = facts.iter().map(|fact| fact.split(|&byte| byte == b'=').next().unwrap_or_default());
                    form.extend_from_slice(&[b"ME", key].into_iter().chain(names).collect::<Vec<_>>().join(&b' '));
                    form.extend_from_slice(b"\r\n");
                    continue;
                }
                // What 1.6.45 writes behind the error of a read with a key that is too long. No reply of ours is empty.
                [b""] => continue,
                [b"VERSION", ..] => {
                    form.extend_from_slice(b"VERSION\r\n");
                    continue;
                }
                _ => {
                    form.extend_from_slice(line);
                    continue;
                }
            };
            let data_len = std::str::from_utf8(data_len).ok().and_then(|text| text.parse::<usize>().ok());
            let (data, behind) = rest.split_at(data_len.map_or(0, |len| len + 2).min(rest.len()));
            form.extend_from_slice(data);
            rest = behind;
        }
        form.extend_from_slice(rest);
        form
    }

    fn meta_line(&mut self, head: &[&[u8]], flags: &[&[u8]], form: &mut Vec<u8>) {
        let key = flags.iter().find_map(|flag| flag.strip_prefix(b"k")).unwrap_or_default().to_vec();
        form.extend_from_slice(&head.join(&b' '));
        for flag in flags {
            form.push(b' ');
            match flag.split_first() {
                Some((b'c', cas)) => {
                    // 0: nothing was stored.
                    if let Some(cas) = number(cas)
                        && cas != 0
                    {
                        self.last_cas.insert(key.clone(), cas);
                    }
                    // Without a key: numbers of all keys are in one order.
                    form.extend_from_slice(format!("c{}", self.named(b"", cas)).as_bytes());
                }
                Some((b't', left)) => match number(left) {
                    // Times are far apart.
                    Some(left) => form.extend_from_slice(format!("t~{}", (left + 5_000) / 10_000).as_bytes()),
                    None => form.extend_from_slice(flag),
                },
                // Since the last read: a moment, or the test stood still.
                Some((b'l', since)) if number(since).is_some() => form.extend_from_slice(b"l~"),
                _ => form.extend_from_slice(flag),
            }
        }
        form.extend_from_slice(b"\r\n");
    }

    fn named(&mut self, key: &[u8], cas: &[u8]) -> String {
        let Some(cas) = number(cas) else { return format!("not a number: {}", Quoted(cas)) };
        if !key.is_empty() {
            self.last_cas.insert(key.to_vec(), cas);
        }
        let seen = self.seen.entry(key.to_vec()).or_default();
        let name = self.names.entry((key.to_vec(), cas)).or_insert_with(|| {
            *seen += 1;
            *seen
        });
        format!("#{name}")
    }
}

/// Replies without what is wrong with a command that is wrong.
fn without_reasons(replies: &[u8]) -> Vec<&[u8]> {
    let reason = |line| if <[u8]>::starts_with(line, b"CLIENT_ERROR ") { &b"CLIENT_ERROR"[..] } else { line };
    replies.split(|&byte| byte == b'\n').map(reason).collect()
}

fn number(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Both replies from a little before the place where they part.
fn difference(steps: &[&Step], ours: &[u8], theirs: &[u8]) -> String {
    const BEFORE: usize = 200;
    const SHOWN: usize = 500;
    let same = ours.iter().zip(theirs).take_while(|(ours, theirs)| ours == theirs).count();
    let part = |reply: &[u8]| {
        let start = same.saturating_sub(BEFORE);
        Quoted(&reply[start..(start + SHOWN).min(reply.len())]).to_string()
    };
    let steps: Vec<String> = steps.iter().map(|step| format!("{step:?}")).collect();
    let (ours, theirs) = (part(ours), part(theirs));
    format!("replies part after {same} bytes\n  ours:   {ours}\n  theirs: {theirs}\nin:\n{}\n", steps.join("\n"))
}
