//! The part of a connection that executes: parse, fetch ahead, run, account.

use super::{Closing, Connection, REPLY_BYTES_PER_TURN, Stop};
use crate::clients::Card;
use crate::front::{Front, Lane, Memcached, Protocol, Resp};
use crate::peer::frame::{self, Sent};
use crate::peer::gather::Gathering;
use crate::peer::hot::note_touched;
use crate::peer::owed::{Awaited, Delivered, Owed};
use crate::peer::spare::Spare;
use crate::peer::under_way::Forwarded;
use crate::stage::{Span, StageEnd};
use crate::thread::{Thread, Work};
use leasehold_cluster::{Slot, StandIns};
use leasehold_command::{Context, Forward, Outcome, Parked, Part, Split, Way};
use leasehold_keyspace::PREFETCH_KEYS_MAX;
use leasehold_protocol::{Parsed, ProtocolError, Reply};
use std::rc::Rc;
use std::time::Instant;

/// Commands executed before other connections have their turn.
const COMMANDS_PER_TURN: usize = 1_024;

/// Keys looked at in the requests behind a parked one, for loads to start ahead: enough for a multi-get of 500 keys, a batch of a loader, to
/// share its queries. More would let one connection fill a loader's queue (1,000 keys by default), and others hear LOADBUSY.
pub(super) const KEYS_AHEAD_MAX: usize = 512;

/// In one turn of so many, each command is timed; `usec` of commandstats is scaled up from these. A clock read per command
/// would cost a tenth of a pipelined GET.
const TIMED_TURN_EVERY: u64 = 16;

impl Connection {
    /// Executes the requests in `input`; how many bytes they had, and why it stopped. They are worked off in stages of
    /// [`PREFETCH_KEYS_MAX`]: parse, fetch the keys' memory side by side, execute.
    pub(super) fn run(&mut self, work: &mut Work, input: &[u8]) -> (usize, Stop) {
        match self.protocol {
            Protocol::Resp => self.run_as::<Resp>(work, input),
            Protocol::Memcached => self.run_as::<Memcached>(work, input),
            Protocol::Link => self.run_frames(work, input),
        }
    }

    fn run_as<F: Front>(&mut self, work: &mut Work, input: &[u8]) -> (usize, Stop) {
        let thread = Rc::clone(&self.thread);
        let stats = thread.stats();
        let Work { lanes, reply, turn, turns, .. } = work;
        let Lane { stage, limits, limits_unauthenticated, password_required } = F::lane(lanes);
        if let Some(own) = self.unfinished.take().and_then(|own| F::resume(*own)) {
            stage.parsers[0] = own;
        }
        stage.begin();
        *turns += 1;
        let mut timed_from = turns.is_multiple_of(TIMED_TURN_EVERY).then(Instant::now);
        let start = reply.len();
        reply.set_version(self.version);
        thread.host.serve(self.client.id);
        let mut context =
            Context { keyspace: &thread.node.keyspace, host: &thread.host, client: &mut self.client, reply, turn };
        let is_foreign = F::is_foreign(context.client, input);
        // From here on replies come behind those that other nodes owe.
        let mut held_from = self.owed.is_some().then_some(start);
        let mut base;
        let mut done = 0;
        let mut commands = 0;
        let mut other_node = None;
        let stop = 'turn: loop {
            base = done;
            let input = &input[base..];
            let end = if is_foreign {
                StageEnd::Broken(ProtocolError::CrossProtocol)
            } else if *password_required && !context.client.authenticated {
                // One by one: after AUTH other limits hold.
                stage.parse(input, limits_unauthenticated, 1)
            } else {
                stage.parse(input, limits, PREFETCH_KEYS_MAX)
            };
            if stage.len > 1 {
                context.keyspace.prefetch(context.client.db, stage.first_keys(input));
            }
            for index in 0..stage.len {
                let request = stage.request(index, input);
                let outcome = run_one::<F>(&mut context, request, &thread, &self.slot.card, &mut timed_from);
                done = base + stage.spans[index].end;
                commands += 1;
                match outcome {
                    Outcome::Replied if context.reply.len() - start < REPLY_BYTES_PER_TURN => {}
                    Outcome::Replied => break 'turn Stop::Bound,
                    Outcome::Parked(parked) => {
                        self.parked = Some(parked);
                        break 'turn Stop::Parked;
                    }
                    Outcome::Close => {
                        self.closing = Closing::Flush;
                        break 'turn Stop::Closing;
                    }
                    Outcome::Forward(forward) => {
                        let owed = self.owed.get_or_insert_with(|| Owed::new(&self.slot));
                        hold(owed, context.reply, held_from);
                        held_from = Some(context.reply.len());
                        let Span { start, end } = stage.spans[index];
                        send_on::<F>(&mut context, &thread, owed, forward, request, &input[start..end]);
                        if owed.is_full() {
                            break 'turn Stop::Owed;
                        }
                    }
                    Outcome::Split(split) => {
                        let owed = self.owed.get_or_insert_with(|| Owed::new(&self.slot));
                        hold(owed, context.reply, held_from);
                        held_from = Some(context.reply.len());
                        if let Some(parked) = send_parts::<F>(&mut context, &thread, owed, *split, limits) {
                            self.parked = Some(parked);
                            break 'turn Stop::Parked;
                        }
                        if owed.is_full() {
                            break 'turn Stop::Owed;
                        }
                    }
                    Outcome::Link(place) => {
                        other_node = Some(place);
                        break 'turn Stop::Linked;
                    }
                }
            }
            done = base + stage.consumed;
            match end {
                StageEnd::Full if commands < COMMANDS_PER_TURN => {}
                StageEnd::Full => break Stop::Bound,
                StageEnd::Starved => break Stop::Starved,
                StageEnd::Broken(error) => {
                    stats.protocol_errors.add(1);
                    tracing::debug!(client = %context.client.address, %error, "protocol error");
                    F::complain(context.reply, error);
                    self.closing = Closing::Linger;
                    break Stop::Closing;
                }
            }
        };
        if stop == Stop::Parked {
            load_ahead_of::<F>(&mut context, &input[done..], limits);
        }
        if let Some(owed) = &self.owed {
            hold(owed, context.reply, held_from);
            self.slot.is_owed.set(true);
        }
        self.version = context.reply.version();
        self.slot.card.note_command(context.client.last_command);
        // Else what comes next is parsed again.
        let is_stage_done = done == base + stage.consumed;
        if let Some(parser) = stage.take_unfinished()
            && is_stage_done
        {
            self.unfinished = Some(Box::new(F::keep(parser)));
        }
        stats.turns.add(1);
        stats.commands_total.add(commands as u64);
        if let Some(parked) = &self.parked {
            thread.park(&self.slot, parked.deadline_ms);
        }
        if let Some(other_node) = other_node {
            self.become_link(other_node, reply, turn.now_ms);
        }
        (done, stop)
    }
}

/// Executes one request and accounts for it.
#[inline]
fn run_one<F: Front>(
    context: &mut Context<'_>,
    request: F::Request<'_>,
    thread: &Thread,
    card: &Card,
    timed_from: &mut Option<Instant>,
) -> Outcome {
    let start = context.reply.len();
    let client = &mut *context.client;
    client.ticket = client.ticket.wrapping_add(1);
    client.last_command = None;
    let outcome = F::execute(context, request);
    let index = context.client.last_command;
    if let Some(index) = index
        && let Some(counters) = thread.stats().commands.get(usize::from(index))
    {
        counters.calls.add(1);
        if let Some(from) = timed_from {
            let now = Instant::now();
            counters.timed_calls.add(1);
            counters.timed_nanos.add((now - *from).as_nanos() as u64);
            *from = now;
        }
        if thread.changes_client(index) {
            card.note_state(context.client, context.reply.version());
        }
    }
    if let Some(error) = F::error_of(context.reply.as_bytes().get(start..).unwrap_or_default()) {
        thread.stats().count_error(index, error);
    }
    outcome
}

/// Moves the replies from `from` on behind those that are owed.
#[inline]
pub(super) fn hold(owed: &Owed, reply: &mut Reply, from: Option<usize>) {
    if let Some(from) = from {
        owed.hold(reply.as_bytes().get(from..).unwrap_or_default());
        reply.truncate(from);
    }
}

/// Sends a request on to the node whose key it is.
fn send_on<F: Front>(
    context: &mut Context<'_>,
    thread: &Rc<Thread>,
    owed: &Rc<Owed>,
    forward: Forward,
    request: F::Request<'_>,
    bytes: &[u8],
) {
    let Forward { place, slot, is_silent, gives_lease, waits_for_lease, is_read, touched, age_max_ms } = forward;
    note_touched(thread, touched);
    let (client, dialect) = (&*context.client, F::dialect(context.reply.version()));
    let number = owed.wait(Awaited { is_silent, waits_for_lease, sent_bytes: bytes.len() });
    let lease_key = if gives_lease { F::key(&request).map(Box::from) } else { None };
    let (owed, command) = (Rc::clone(owed), client.last_command);
    let frame = Sent { id: 0, number: client.id, kind: frame::kind_of(dialect, client), bytes };
    let spare = spare_of(thread, is_read, slot, &frame, age_max_ms);
    context.client.changes_under_way |= !is_read;
    let request = Forwarded { owed, number, part: 0, slot, dialect, touched, command, lease_key, spare };
    thread.links.forward(thread, usize::from(place), request, frame, age_max_ms);
}

/// What is kept of a request to ask somebody else, if somebody may be asked. Counts it if a stand-in is asked at once.
#[inline]
fn spare_of(
    thread: &Thread,
    is_read: bool,
    slot: Slot,
    frame: &Sent<'_>,
    age_max_ms: Option<u64>,
) -> Option<Box<Spare>> {
    let peers = &thread.node.watch.as_ref()?.peers;
    if !is_read || peers.rules().stand_ins == StandIns::None {
        return None;
    }
    if age_max_ms.is_some() {
        thread.peer(peers.topology().place_of_owner(slot)).failovers.add(1);
    }
    Some(Spare::new(frame))
}

/// Sends the parts of a request to their nodes, and executes this node's own; it is given back if it parks.
fn send_parts<F: Front>(
    context: &mut Context<'_>,
    thread: &Rc<Thread>,
    owed: &Rc<Owed>,
    split: Split,
    limits: &F::Limits,
) -> Option<Box<Parked>> {
    let Split { mut parts, gather, is_silent, is_read } = split;
    let sent_bytes = parts.iter().filter(|part| part.way.place.is_some()).map(|part| part.request.len()).sum();
    let awaited = Awaited { is_silent, sent_bytes, ..Awaited::default() };
    let number = owed.gather(awaited, Gathering::new(gather, &mut parts, context.reply.bytes_max()));
    context.client.changes_under_way |= !is_read;
    let (client, dialect) = (&*context.client, F::dialect(context.reply.version()));
    let kind = frame::kind_of(dialect, client);
    let mut own = None;
    for (part, Part { way: Way { place, age_max_ms }, slot, request, touched, answer, .. }) in (0..).zip(parts) {
        let Some(place) = place else {
            own = Some((part, request));
            continue;
        };
        if let Some(answer) = answer {
            // Values, and no error that were to be counted.
            owed.deliver(number, part, &answer);
            continue;
        }
        note_touched(thread, touched);
        let owed = Rc::clone(owed);
        let (command, lease_key) = (client.last_command, None);
        let frame = Sent { id: 0, number: client.id, kind, bytes: &request };
        let spare = spare_of(thread, is_read, slot, &frame, age_max_ms);
        let forwarded = Forwarded { owed, number, part, slot, dialect, touched, command, lease_key, spare };
        thread.links.forward(thread, usize::from(place), forwarded, frame, age_max_ms);
    }
    let (part, request) = own?;
    let start = context.reply.len();
    if let Outcome::Parked(parked) = F::execute_bytes(context, &request, limits) {
        owed.set_own_part(number, part);
        return Some(parked);
    }
    let delivered = owed.deliver(number, part, context.reply.as_bytes().get(start..).unwrap_or_default());
    context.reply.truncate(start);
    if let Delivered::Gathered(reply) = delivered
        && let Some(error) = F::error_of(&reply)
    {
        thread.stats().count_error(context.client.last_command, error);
    }
    None
}

/// While a read is parked, starts the loads of the reads behind it in the pipeline, so that they share a query.
fn load_ahead_of<F: Front>(context: &mut Context<'_>, mut rest: &[u8], limits: &F::Limits) {
    let mut parser = F::Parser::default();
    let mut keys_left = KEYS_AHEAD_MAX;
    while keys_left > 0 {
        let Some(consumed) = load_ahead_one::<F>(context, &mut parser, rest, limits, &mut keys_left) else { return };
        rest = &rest[consumed..];
    }
}

/// Starts the loads that the request at the front of `input` will want; its bytes, if it is a read and the one behind it may be
/// looked at, too.
pub(super) fn load_ahead_one<F: Front>(
    context: &mut Context<'_>,
    parser: &mut F::Parser,
    input: &[u8],
    limits: &F::Limits,
    keys_left: &mut usize,
) -> Option<usize> {
    let Ok(Parsed::Complete { consumed }) = F::parse(parser, input, limits) else { return None };
    F::load_ahead(context, F::request(parser, input)?, keys_left).then_some(consumed)
}
