//! Leasehold, the cache server: the command line, and the way from there to a running server.

#![forbid(unsafe_code)]

mod config;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let config = config::Config::default();
    let _ = config::live::LiveConfig::new(config);
}
