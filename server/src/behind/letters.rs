//! Dead letters as operators see them: `WB LIST`, `WB REPLAY`, `WB DROP`; and as the flusher does.

use super::scribe::Order;
use super::{Behind, Desk, lock};
use bytes::Bytes;
use leasehold_command::{Change, LetterView};
use leasehold_loader_sql::DeadLetter;
use std::io;
use std::sync::Arc;

impl Behind {
    /// The letters of one loader, or of all.
    pub(crate) fn letters(&self, loader: Option<&[u8]>) -> Vec<LetterView> {
        let letters = lock(&self.letters);
        let view = |letter: &DeadLetter| LetterView {
            loader: letter.change.loader.clone(),
            db: letter.change.db,
            key: letter.change.key.clone(),
            value: letter.change.value.clone(),
            number: letter.number,
            attempts: letter.attempts,
            parked_at_ms: letter.parked_at_ms,
            reason: letter.reason.clone(),
        };
        letters.iter().filter(|letter| is_of(letter, loader)).map(view).collect()
    }

    /// Puts the letters of a loader into the journal again, where no later change of the key is; how many.
    ///
    /// # Errors
    /// No such loader writes behind.
    pub(crate) fn replay(&self, loader: &[u8]) -> Result<u64, String> {
        let desk = self.desks.iter().flatten().find(|desk| desk.name.as_bytes() == loader);
        let desk = desk.ok_or("NOLOADER no loader of this name writes behind")?;
        let letters: Vec<(u64, Change)> = {
            let letters = lock(&self.letters);
            let of_loader = letters.iter().filter(|letter| is_of(letter, Some(loader)));
            let change =
                |letter: &DeadLetter| Change { key: letter.change.key.clone(), value: letter.change.value.clone() };
            of_loader.map(|letter| (letter.number, change(letter))).collect()
        };
        let count = letters.len() as u64;
        for (number, change) in letters {
            let order =
                Order::Write { desk: Arc::clone(desk), changes: vec![change], waiter: None, letter: Some(number) };
            self.orders.send(order).map_err(|_| "ERR the server is shutting down".to_owned())?;
        }
        Ok(count)
    }

    /// Forgets the letters of a loader for good; how many.
    ///
    /// # Errors
    /// The file of letters cannot be written; some may be gone.
    pub(crate) fn drop_letters(&self, loader: &[u8]) -> Result<u64, String> {
        let mut letters = lock(&self.letters);
        let numbers: Vec<u64> =
            letters.iter().filter(|letter| is_of(letter, Some(loader))).map(|letter| letter.number).collect();
        letters.remove_all(&numbers).map_err(|error| format!("ERR dead letters cannot be dropped: {error}"))?;
        Ok(numbers.len() as u64)
    }

    pub(super) fn dead_letters_of(&self, loader: &str) -> usize {
        lock(&self.letters).iter().filter(|letter| letter.change.loader == loader).count()
    }

    pub(super) fn park(&self, letter: DeadLetter) -> io::Result<()> {
        let mut letters = lock(&self.letters);
        let has_one = letters.of_key(letter.change.db, &letter.change.key).is_some();
        if letters.len() >= self.config.letters_max && !has_one {
            return Err(io::Error::other(format!("there are {} (max_dead_letters)", letters.len())));
        }
        letters.park(letter)
    }

    /// A letter is of no use any more.
    pub(super) fn remove_letter(&self, number: u64) {
        if let Err(error) = lock(&self.letters).remove(number) {
            tracing::error!(%error, number, "a dead letter cannot be removed; it would be replayed again");
        }
    }

    /// Whether it is still there.
    pub(super) fn has_letter(&self, number: u64) -> bool {
        lock(&self.letters).has(number)
    }

    /// Changes of these keys are in the source that have these numbers: earlier ones must not come back.
    pub(super) fn forget_letters<'k>(&self, desk: &Desk, changes: impl Iterator<Item = (&'k Bytes, u64)>) {
        let mut letters = lock(&self.letters);
        if letters.is_empty() {
            return;
        }
        let earlier = |(key, number): (&Bytes, u64)| {
            let letter = letters.of_key(desk.db.0, key)?;
            (letter.change.loader == desk.name && letter.number < number).then_some(letter.number)
        };
        let numbers: Vec<u64> = changes.filter_map(earlier).collect();
        if let Err(error) = letters.remove_all(&numbers) {
            tracing::error!(%error, loader = desk.name, "dead letters of keys that were written since cannot be removed");
        }
    }
}

fn is_of(letter: &DeadLetter, loader: Option<&[u8]>) -> bool {
    loader.is_none_or(|loader| letter.change.loader.as_bytes() == loader)
}
