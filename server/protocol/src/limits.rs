//! How much of a request is accepted, by name.

/// Bounds of one request. Each has an option of the same meaning in `conf`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest inline command line in bytes, line end excluded.
    pub inline_bytes_max: usize,
    /// Most arguments in one request, the command name included.
    pub args_max: usize,
    /// Longest single argument in bytes.
    pub bulk_bytes_max: usize,
    /// Longest request in bytes, framing included.
    pub request_bytes_max: usize,
    /// Whether they are those of a client that has not authenticated: then an error says so.
    pub stranger: bool,
}

impl Limits {
    /// What Redis accepts: 64 KiB inline, 1,048,576 arguments, 512 MiB an argument, 1 GiB in all.
    pub const DEFAULT: Self = Self {
        inline_bytes_max: 64 * 1024,
        args_max: 1024 * 1024,
        bulk_bytes_max: 512 * 1024 * 1024,
        request_bytes_max: 1024 * 1024 * 1024,
        stranger: false,
    };

    /// What a client may send before it has authenticated (as Redis since 6.2.6: 10 arguments of 16 KiB).
    #[must_use]
    pub fn unauthenticated(self) -> Self {
        Self {
            args_max: self.args_max.min(10),
            bulk_bytes_max: self.bulk_bytes_max.min(16 * 1024),
            stranger: true,
            ..self
        }
    }
}

// Argument offsets are stored as u32.
const _: () = assert!(Limits::DEFAULT.request_bytes_max <= u32::MAX as usize);
