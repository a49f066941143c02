//! The bytes of requests and replies: built by patching templates, compared whole.
//!
//! A key is a prefix and its number in decimal, padded with zeros to a fixed length. Its value is the key repeated up to
//! the value's length, so every reply can be checked without remembering what was stored:
//!
//! ```text
//! *2\r\n$3\r\nGET\r\n$32\r\nkey:00000000000000000000 00001234\r\n
//!                                                    └ 8 digits are patched, the rest is the template
//! $32\r\n key:0000000000000000000000001234 \r\n
//! ```

/// What a server speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// RESP2.
    Resp,
    /// memcached's text protocol.
    Memcached,
}

/// How a key is read by a server that speaks [`Protocol::Memcached`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reads {
    /// `get KEY`.
    #[default]
    Get,
    /// `mg KEY v`.
    Meta,
    /// All keys of a batch in one `get`, so each must be there.
    Joined,
}

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Reads a key that is there.
    Get,
    /// Overwrites a key with the value it has.
    Set,
}

/// Keys and values of a workload.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    /// What every key begins with.
    pub prefix: String,
    /// Length of every key.
    pub key_bytes: usize,
    /// Length of every value.
    pub value_bytes: usize,
}

/// Digits that differ between keys: numbers below 10^8.
pub const DIGITS: usize = 8;

/// Bytes with holes for the digits of a key number.
#[derive(Clone, Debug)]
struct Template {
    bytes: Vec<u8>,
    /// Offsets at which the digits go.
    holes: Vec<usize>,
    /// Bytes before the value, or all where there is none: the part in which a wrong reply differs first.
    header_len: usize,
}

/// Requests and replies of one shape in one protocol.
#[derive(Clone, Debug)]
pub struct Wire {
    get: Template,
    set: Template,
    got: Template,
    stored: Template,
    missed: &'static [u8],
    around: Around,
}

/// What stands before and behind all requests of a batch, and behind its replies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Around {
    /// Before the first request.
    pub head: &'static [u8],
    /// Behind the last.
    pub tail: &'static [u8],
    /// Behind the last reply.
    pub reply_tail: &'static [u8],
}

impl Wire {
    /// The templates of `shape` in `protocol`, a request for each key.
    ///
    /// # Panics
    /// If the key has no room for the prefix and [`DIGITS`].
    #[must_use]
    pub fn new(protocol: Protocol, shape: &Shape) -> Self {
        Self::with_reads(protocol, shape, Reads::Get)
    }

    /// As [`Wire::new`]; under memcached's protocol keys are read in this way.
    ///
    /// # Panics
    /// If the key has no room for the prefix and [`DIGITS`].
    #[must_use]
    pub fn with_reads(protocol: Protocol, shape: &Shape, reads: Reads) -> Self {
        assert!(shape.key_bytes >= shape.prefix.len() + DIGITS, "a key holds its prefix and {DIGITS} digits");
        let key = format!("{}{:0>width$}", shape.prefix, "", width = shape.key_bytes - shape.prefix.len());
        let value = key.as_bytes().iter().copied().cycle().take(shape.value_bytes).collect::<Vec<_>>();
        let (key_len, value_len) = (shape.key_bytes, shape.value_bytes);
        let build = |head: String, with_key: bool, middle: String, with_value: bool, tail: &str| {
            let mut template = Template { bytes: head.into_bytes(), holes: Vec::new(), header_len: 0 };
            if with_key {
                template.holes.push(template.bytes.len() + key_len - DIGITS);
                template.bytes.extend_from_slice(key.as_bytes());
            }
            template.bytes.extend_from_slice(middle.as_bytes());
            template.header_len = template.bytes.len();
            if with_value {
                let copies = (0..value_len / key_len).map(|copy| template.bytes.len() + copy * key_len);
                let holes: Vec<_> = copies.map(|start| start + key_len - DIGITS).collect();
                template.holes.extend(holes);
                template.bytes.extend_from_slice(&value);
            }
            template.bytes.extend_from_slice(tail.as_bytes());
            if !with_value {
                template.header_len = template.bytes.len();
            }
            template
        };
        let none = String::new;
        match protocol {
            Protocol::Resp => Self {
                get: build(format!("*2\r\n$3\r\nGET\r\n${key_len}\r\n"), true, none(), false, "\r\n"),
                set: build(
                    format!("*3\r\n$3\r\nSET\r\n${key_len}\r\n"),
                    true,
                    format!("\r\n${value_len}\r\n"),
                    true,
                    "\r\n",
                ),
                got: build(format!("${value_len}\r\n"), false, none(), true, "\r\n"),
                stored: build("+OK\r\n".into(), false, none(), false, ""),
                missed: b"$-1\r\n",
                around: Around::default(),
            },
            Protocol::Memcached => {
                let with_tail = |tail| build("VALUE ".into(), true, format!(" 0 {value_len}\r\n"), true, tail);
                let joined = Around { head: b"get", tail: b"\r\n", reply_tail: b"END\r\n" };
                let (get, got, missed, around) = match reads {
                    Reads::Get => {
                        let get = build("get ".into(), true, none(), false, "\r\n");
                        (get, with_tail("\r\nEND\r\n"), &b"END\r\n"[..], Around::default())
                    }
                    Reads::Meta => {
                        let get = build("mg ".into(), true, " v".into(), false, "\r\n");
                        let got = build(format!("VA {value_len}\r\n"), false, none(), true, "\r\n");
                        (get, got, &b"EN\r\n"[..], Around::default())
                    }
                    Reads::Joined => (build(" ".into(), true, none(), false, ""), with_tail("\r\n"), &b""[..], joined),
                };
                Self {
                    get,
                    set: build("set ".into(), true, format!(" 0 0 {value_len}\r\n"), true, "\r\n"),
                    got,
                    stored: build("STORED\r\n".into(), false, none(), false, ""),
                    missed,
                    around,
                }
            }
        }
    }

    /// What stands around a batch.
    #[inline]
    #[must_use]
    pub fn around(&self) -> Around {
        self.around
    }

    /// Appends the request for key `number`.
    #[inline]
    pub fn write_request(&self, verb: Verb, number: u64, out: &mut Vec<u8>) {
        let template = self.request(verb);
        let start = out.len();
        out.extend_from_slice(&template.bytes);
        template.patch(&mut out[start..], digits(number));
    }

    /// The key of `number` as an argument of any RESP command: its header, the key, CR LF. Not for the hot path.
    #[must_use]
    pub fn key_argument(&self, number: u64) -> Vec<u8> {
        let mut request = Vec::new();
        self.write_request(Verb::Get, number, &mut request);
        request.split_off(b"*2\r\n$3\r\nGET\r\n".len())
    }

    /// Length of every request of this kind.
    #[must_use]
    pub fn request_len(&self, verb: Verb) -> usize {
        self.request(verb).bytes.len()
    }

    /// Length of every right reply to a request of this kind.
    #[inline]
    #[must_use]
    pub fn reply_len(&self, verb: Verb) -> usize {
        self.reply(verb).bytes.len()
    }

    /// The right reply for key `number`, in a buffer that is written anew at each call.
    #[inline]
    pub fn expected_reply(&mut self, verb: Verb, number: u64) -> &[u8] {
        let template = match verb {
            Verb::Get => &mut self.got,
            Verb::Set => &mut self.stored,
        };
        let digits = digits(number);
        for &hole in &template.holes {
            template.bytes[hole..hole + DIGITS].copy_from_slice(&digits);
        }
        &template.bytes
    }

    /// The reply to a read of a key that is not there.
    #[must_use]
    pub fn missed(&self) -> &'static [u8] {
        self.missed
    }

    /// Whether the bytes of a reply so far can become a right one, as far as its fixed first bytes tell.
    #[must_use]
    pub fn may_become_reply(&self, verb: Verb, bytes: &[u8]) -> bool {
        let template = self.reply(verb);
        let fixed = template.holes.first().copied().unwrap_or(template.header_len).min(template.header_len);
        let len = bytes.len().min(fixed);
        bytes[..len] == template.bytes[..len]
    }

    fn request(&self, verb: Verb) -> &Template {
        match verb {
            Verb::Get => &self.get,
            Verb::Set => &self.set,
        }
    }

    fn reply(&self, verb: Verb) -> &Template {
        match verb {
            Verb::Get => &self.got,
            Verb::Set => &self.stored,
        }
    }
}

impl Template {
    #[inline]
    fn patch(&self, bytes: &mut [u8], digits: [u8; DIGITS]) {
        for &hole in &self.holes {
            bytes[hole..hole + DIGITS].copy_from_slice(&digits);
        }
    }
}

#[inline]
fn digits(number: u64) -> [u8; DIGITS] {
    let mut rest = number;
    let mut digits = [0; DIGITS];
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    digits
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(value_bytes: usize) -> Shape {
        Shape { prefix: "key:".into(), key_bytes: 16, value_bytes }
    }

    #[test]
    fn resp_requests_and_replies_are_what_redis_speaks() {
        let mut wire = Wire::new(Protocol::Resp, &shape(20));
        let mut request = Vec::new();
        wire.write_request(Verb::Set, 1234, &mut request);
        let text = "*3\r\n$3\r\nSET\r\n$16\r\nkey:000000001234\r\n$20\r\nkey:000000001234key:\r\n";
        assert_eq!(String::from_utf8_lossy(&request), text);
        assert_eq!(request.len(), wire.request_len(Verb::Set));
        assert_eq!(wire.expected_reply(Verb::Get, 7), b"$20\r\nkey:000000000007key:\r\n");
        assert_eq!(wire.expected_reply(Verb::Set, 7), b"+OK\r\n");
    }

    #[test]
    fn memcached_requests_and_replies_are_what_memcached_speaks() {
        let mut wire = Wire::new(Protocol::Memcached, &shape(16));
        let mut request = Vec::new();
        wire.write_request(Verb::Get, 99, &mut request);
        assert_eq!(request, b"get key:000000000099\r\n");
        let reply = b"VALUE key:000000000099 0 16\r\nkey:000000000099\r\nEND\r\n";
        assert_eq!(wire.expected_reply(Verb::Get, 99), reply);
    }

    #[test]
    fn meta_and_joined_reads_are_what_memcached_speaks() {
        let read = |reads| {
            let mut wire = Wire::with_reads(Protocol::Memcached, &shape(16), reads);
            let around = wire.around();
            let (mut request, mut reply) = (around.head.to_vec(), Vec::new());
            for number in [1, 2] {
                wire.write_request(Verb::Get, number, &mut request);
                reply.extend_from_slice(wire.expected_reply(Verb::Get, number));
            }
            request.extend_from_slice(around.tail);
            reply.extend_from_slice(around.reply_tail);
            (String::from_utf8(request).expect("text"), String::from_utf8(reply).expect("text"))
        };
        let (request, reply) = read(Reads::Meta);
        assert_eq!(request, "mg key:000000000001 v\r\nmg key:000000000002 v\r\n");
        assert_eq!(reply, "VA 16\r\nkey:000000000001\r\nVA 16\r\nkey:000000000002\r\n");
        let (request, reply) = read(Reads::Joined);
        assert_eq!(request, "get key:000000000001 key:000000000002\r\n");
        assert_eq!(
            reply,
            "VALUE key:000000000001 0 16\r\nkey:000000000001\r\nVALUE key:000000000002 0 16\r\nkey:000000000002\r\nEND\r\n"
        );
    }

    #[test]
    fn a_wrong_reply_shows_in_its_first_bytes() {
        let wire = Wire::new(Protocol::Resp, &shape(16));
        assert!(wire.may_become_reply(Verb::Get, b"$1"));
        assert!(wire.may_become_reply(Verb::Get, b"$16\r\nkey"));
        assert!(!wire.may_become_reply(Verb::Get, b"$-1\r\n"));
        assert!(!wire.may_become_reply(Verb::Set, b"-OOM"));
    }
}
