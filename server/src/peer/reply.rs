//! Looks into replies of RESP that another node has made, as far as they are gathered or watched here: one flat element after the other.

/// The elements at the front of `bytes`, each with its head and line ends. Ends at what is not whole, or not flat.
#[derive(Clone, Debug)]
pub(crate) struct Elements<'a> {
    rest: &'a [u8],
}

impl<'a> Elements<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }
}

impl<'a> Iterator for Elements<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        let line = line_end(self.rest)?;
        let len = match self.rest[0] {
            b'+' | b'-' | b':' | b'_' | b',' | b'#' => line,
            b'$' | b'=' if self.rest[1] == b'-' => line,
            b'$' | b'=' => line.checked_add(number(&self.rest[1..line - 2])?)?.checked_add(2)?,
            _ => return None,
        };
        let element = self.rest.get(..len)?;
        self.rest = &self.rest[len..];
        Some(element)
    }
}

/// The bytes of a bulk string; `None` if it is none.
pub(crate) fn bulk(element: &[u8]) -> Option<&[u8]> {
    let line = line_end(element)?;
    let is_bulk = element[0] == b'$' && element[1] != b'-';
    is_bulk.then(|| element.get(line..element.len() - 2)).flatten()
}

/// Bytes of the line at the front, its end included.
#[inline]
fn line_end(bytes: &[u8]) -> Option<usize> {
    let end = bytes.iter().position(|byte| *byte == b'\r')?;
    (end > 0 && bytes.get(end + 1) == Some(&b'\n')).then_some(end + 2)
}

#[inline]
fn number(digits: &[u8]) -> Option<usize> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_usize, |number, digit| {
        let digit = digit.checked_sub(b'0').filter(|digit| *digit < 10)?;
        number.checked_mul(10)?.checked_add(digit.into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use leasehold_protocol::{Reply, RespVersion};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn elements_are_those_that_were_written(
            values in prop::collection::vec(prop::option::of(prop::collection::vec(any::<u8>(), 0..30)), 0..20),
            cut in any::<prop::sample::Index>(),
            is_v3 in any::<bool>(),
        ) {
            let mut reply = Reply::new(if is_v3 { RespVersion::V3 } else { RespVersion::V2 });
            let mut ends = Vec::new();
            for value in &values {
                match value {
                    None => reply.null(),
                    Some(bytes) if bytes.len() == 7 => reply.integer(-7),
                    Some(bytes) if bytes.len() == 8 => reply.error(&"ERR of a key"),
                    Some(bytes) => reply.bulk(bytes),
                }
                ends.push(reply.len());
            }
            let elements: Vec<&[u8]> = Elements::new(reply.as_bytes()).collect();
            prop_assert_eq!(elements.len(), values.len());
            prop_assert_eq!(elements.concat(), reply.as_bytes());
            for (element, value) in elements.iter().zip(&values) {
                let is_bulk = value.as_ref().is_some_and(|bytes| !matches!(bytes.len(), 7 | 8));
                prop_assert_eq!(bulk(element), value.as_deref().filter(|_| is_bulk));
            }
            // What is cut off ends the list where the last whole element does.
            let cut = cut.index(reply.len() + 1);
            let whole = Elements::new(&reply.as_bytes()[..cut]).count();
            prop_assert_eq!(whole, ends.iter().filter(|end| **end <= cut).count());
        }

        #[test]
        fn whatever_comes_is_survived(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let total: usize = Elements::new(&bytes).map(<[u8]>::len).sum();
            prop_assert!(total <= bytes.len());
            let _ = bulk(&bytes);
        }
    }
}
