//! Prints the README's tables of commands: `cargo run -p leasehold-command --example readme_table`.

use std::io::Write;

fn main() -> std::io::Result<()> {
    std::io::stdout().write_all(leasehold_command::readme::readme_table().as_bytes())
}
