//! Network addresses of PostgreSQL as text, as PostgreSQL writes them.

use std::io::Write;
use std::net::{Ipv4Addr, Ipv6Addr};

/// An inet or a cidr:
///
/// ```text
/// u8 family: 2 or 3 | u8 bits of the network | u8 is a cidr | u8 bytes: 4 or 16 | address
/// ```
pub(super) fn network(raw: &[u8], out: &mut Vec<u8>) -> Result<(), String> {
    let [_family, bits, is_cidr, _length, address @ ..] = raw else {
        return Err("an address that ends too early".into());
    };
    // Writing to a Vec cannot fail.
    let _ = if let Ok(bytes) = <[u8; 4]>::try_from(address) {
        write!(out, "{}", Ipv4Addr::from(bytes))
    } else if let Ok(bytes) = <[u8; 16]>::try_from(address) {
        write!(out, "{}", Ipv6Addr::from(bytes))
    } else {
        return Err(format!("an address of {} bytes", address.len()));
    };
    // A host is a network of all bits.
    if *is_cidr != 0 || usize::from(*bits) != address.len() * 8 {
        let _ = write!(out, "/{bits}");
    }
    Ok(())
}

/// A macaddr or a macaddr8.
pub(super) fn mac(raw: &[u8], out: &mut Vec<u8>) {
    for (index, byte) in raw.iter().enumerate() {
        let colon = if index > 0 { ":" } else { "" };
        let _ = write!(out, "{colon}{byte:02x}");
    }
}
