//! Requests of one connection between parser and execution, so that the memory of their keys can be fetched side by side.

use crate::front::Front;
use leasehold_keyspace::PREFETCH_KEYS_MAX;
use leasehold_protocol::{Parsed, ProtocolError};

/// Requests parsed and not yet executed. Each has a parser of its own, which keeps its arguments. One per thread and protocol.
pub(crate) struct Stage<F: Front> {
    /// One more than requests: the last for one that is not whole.
    pub(crate) parsers: [F::Parser; PREFETCH_KEYS_MAX + 1],
    /// Where each request lies in the input.
    pub(crate) spans: [Span; PREFETCH_KEYS_MAX],
    pub(crate) len: usize,
    /// Bytes of all requests, and of blank lines.
    pub(crate) consumed: usize,
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Span {
    pub(crate) start: usize,
    pub(crate) end: usize,
}

/// Why no more requests are in a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StageEnd {
    Full,
    /// The next request is not whole yet.
    Starved,
    Broken(ProtocolError),
}

impl<F: Front> Stage<F> {
    pub(crate) fn new() -> Self {
        Self {
            parsers: std::array::from_fn(|_| F::Parser::default()),
            spans: [Span::default(); PREFETCH_KEYS_MAX],
            len: 0,
            consumed: 0,
        }
    }

    /// Nothing is parsed.
    pub(crate) fn begin(&mut self) {
        self.len = 0;
        self.consumed = 0;
    }

    /// Parses up to `len_max` requests from the front of `input`, the first of them with what its parser knows already.
    pub(crate) fn parse(&mut self, input: &[u8], limits: &F::Limits, len_max: usize) -> StageEnd {
        if F::PASSES_OVER && self.len > 0 && F::is_inside_request(&self.parsers[self.len]) {
            self.parsers.swap(0, self.len);
        }
        self.begin();
        while self.len < len_max {
            let start = self.consumed;
            let parser = &mut self.parsers[self.len];
            match F::parse(parser, &input[start..], limits) {
                Ok(Parsed::Complete { consumed }) => {
                    self.consumed += consumed;
                    if F::request(parser, &input[start..]).is_none() {
                        continue;
                    }
                    self.spans[self.len] = Span { start, end: self.consumed };
                    self.len += 1;
                    if F::PASSES_OVER && F::is_inside_request(parser) {
                        // This parser keeps the request; another passes over the data behind it.
                        self.parsers[self.len] = F::rest(parser);
                        return StageEnd::Full;
                    }
                }
                Ok(Parsed::Incomplete) => return StageEnd::Starved,
                Err(error) => {
                    *parser = F::Parser::default();
                    return StageEnd::Broken(error);
                }
            }
        }
        StageEnd::Full
    }

    /// The request at `index`; `input` is what was parsed.
    #[inline]
    pub(crate) fn request<'a>(&'a self, index: usize, input: &'a [u8]) -> F::Request<'a> {
        F::request(&self.parsers[index], &input[self.spans[index].start..]).expect("only requests are counted")
    }

    /// What is a key for nearly all commands, of each request.
    pub(crate) fn first_keys<'a>(&'a self, input: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        (0..self.len).filter_map(move |index| F::first_key(&self.parsers[index], &input[self.spans[index].start..]))
    }

    /// The parser of the request that is not whole, if there is one; its place gets a new one.
    pub(crate) fn take_unfinished(&mut self) -> Option<F::Parser> {
        let parser = &mut self.parsers[self.len];
        F::is_inside_request(parser).then(|| std::mem::take(parser))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::front::{Memcached, Resp};
    use leasehold_protocol::{Limits, memcached};

    fn words(stage: &Stage<Resp>, input: &[u8]) -> Vec<String> {
        (0..stage.len)
            .map(|index| {
                let request = stage.request(index, input);
                let words: Vec<_> =
                    request.args_from(0).map(|word| String::from_utf8_lossy(word).into_owned()).collect();
                words.join(" ")
            })
            .collect()
    }

    #[test]
    fn a_stage_finds_whole_requests_between_blank_lines() {
        let mut stage = Stage::<Resp>::new();
        let input = b"\r\nPING\r\n*0\r\n*2\r\n$3\r\nGET\r\n$1\r\na\r\n\r\n*2\r\n$3\r\nGE";
        assert_eq!(stage.parse(input, &Limits::DEFAULT, PREFETCH_KEYS_MAX), StageEnd::Starved);
        assert_eq!(words(&stage, input), ["PING", "GET a"]);
        assert_eq!(stage.first_keys(input).collect::<Vec<_>>(), [b"a"]);
        assert_eq!(&input[stage.consumed..], b"*2\r\n$3\r\nGE");
    }

    #[test]
    fn half_a_request_is_parsed_on_when_the_rest_comes() {
        let mut stage = Stage::<Resp>::new();
        let input = b"PING\r\n*2\r\n$3\r\nGET\r\n$1\r\na\r\n";
        assert_eq!(stage.parse(&input[..14], &Limits::DEFAULT, PREFETCH_KEYS_MAX), StageEnd::Starved);
        let rest = stage.consumed;
        let parser = stage.take_unfinished().expect("half a request");
        assert!(stage.take_unfinished().is_none());
        stage.parsers[0] = parser;
        assert_eq!(stage.parse(&input[rest..], &Limits::DEFAULT, PREFETCH_KEYS_MAX), StageEnd::Starved);
        assert_eq!(words(&stage, &input[rest..]), ["GET a"]);
        assert_eq!(stage.consumed, input.len() - rest);
    }

    #[test]
    fn a_stage_ends_where_it_is_full_or_the_protocol_is_broken() {
        let mut stage = Stage::<Resp>::new();
        let input = b"PING\r\n".repeat(PREFETCH_KEYS_MAX + 3);
        assert_eq!(stage.parse(&input, &Limits::DEFAULT, PREFETCH_KEYS_MAX), StageEnd::Full);
        assert_eq!((stage.len, stage.consumed), (PREFETCH_KEYS_MAX, 6 * PREFETCH_KEYS_MAX));
        assert_eq!(stage.parse(&input, &Limits::DEFAULT, 1), StageEnd::Full);
        assert_eq!((stage.len, stage.consumed), (1, 6));
        let broken = b"PING\r\n*1\r\n:1\r\n";
        let end = stage.parse(broken, &Limits::DEFAULT, PREFETCH_KEYS_MAX);
        assert_eq!(end, StageEnd::Broken(ProtocolError::ExpectedDollar(b':')));
        assert_eq!(words(&stage, broken), ["PING"]);
        assert!(stage.take_unfinished().is_none(), "a broken request is forgotten");
    }

    #[test]
    fn a_stage_ends_behind_a_request_whose_data_is_passed_over() {
        let limits = memcached::Limits { entry_bytes_max: 70, ..memcached::Limits::DEFAULT };
        let mut stage = Stage::<Memcached>::new();
        let input = b"get a\r\nset b 0 0 20\r\n01234567890123456789\r\nget c\r\nget d\r\n";
        let words = |stage: &Stage<Memcached>, input: &[u8]| -> Vec<String> {
            let key = |index| stage.request(index, input).word(1).map(|key| String::from_utf8_lossy(key).into_owned());
            (0..stage.len).filter_map(key).collect()
        };
        // Whole, and with the data in two pieces.
        for cut in [input.len(), 30] {
            stage.begin();
            assert_eq!(stage.parse(&input[..cut], &limits, PREFETCH_KEYS_MAX), StageEnd::Full);
            assert_eq!(words(&stage, input), ["a", "b"]);
            assert_eq!(stage.request(1, input).fault(), Some(memcached::Fault::TooLarge));
            let mut done = stage.consumed;
            assert_eq!(done, 21);
            if cut < input.len() {
                assert_eq!(stage.parse(&input[done..cut], &limits, PREFETCH_KEYS_MAX), StageEnd::Starved);
                assert_eq!((stage.len, stage.consumed), (0, cut - done));
                done = cut;
                let parser = stage.take_unfinished().expect("inside the data");
                stage.begin();
                stage.parsers[0] = parser;
            }
            assert_eq!(stage.parse(&input[done..], &limits, PREFETCH_KEYS_MAX), StageEnd::Starved);
            assert_eq!(words(&stage, &input[done..]), ["c", "d"]);
            assert!(stage.take_unfinished().is_none());
        }
    }
}
