//! `leasehold --ping`: whether the server answers, for health checks in images that have no shell.

use crate::config::Config;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

/// A server that needs longer is not well.
const PATIENCE: Duration = Duration::from_secs(2);
/// More than any answer to PING.
const ANSWER_BYTES_MAX: u64 = 512;

/// Asks the server that runs with this configuration, at each of its addresses until one answers.
///
/// # Errors
/// None answers, or not as this server does; the text is about the last one.
pub(crate) fn ping(config: &Config) -> Result<(), String> {
    let mut result = Err("there is no address to ask".to_owned());
    for address in &config.bind {
        result = ping_at(SocketAddr::new(reachable(address.ip), config.port));
        if result.is_ok() {
            break;
        }
    }
    result
}

/// Where a server that listens at `ip` is reached from its own machine.
fn reachable(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    }
}

fn ping_at(address: SocketAddr) -> Result<(), String> {
    let answer = ask(address).map_err(|error| format!("no answer from {address}: {error}"))?;
    // A server that wants a password is up as well.
    if answer.starts_with("+PONG") || answer.starts_with("-NOAUTH") {
        return Ok(());
    }
    Err(format!("{address} answers {answer:?}"))
}

fn ask(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(b"*1\r\n$4\r\nPING\r\n")?;
    let mut answer = Vec::new();
    BufReader::new(stream.take(ANSWER_BYTES_MAX)).read_until(b'\n', &mut answer)?;
    Ok(String::from_utf8_lossy(&answer).trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::BindAddress;
    use std::net::TcpListener;

    fn there(port: u16) -> Config {
        let bind = vec![BindAddress { ip: Ipv4Addr::UNSPECIFIED.into(), optional: false }];
        Config { bind, port, ..Config::default() }
    }

    /// Answers one connection and gives back what was asked.
    fn answered(answer: &'static [u8]) -> (Result<(), String>, Vec<u8>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            let mut asked = vec![0; 14];
            stream.read_exact(&mut asked).expect("a request");
            stream.write_all(answer).expect("it reads");
            asked
        });
        let result = ping(&there(port));
        (result, server.join().expect("it ends"))
    }

    #[test]
    fn only_this_kind_of_server_is_well() {
        let (result, asked) = answered(b"+PONG\r\n");
        assert!(result.is_ok());
        assert_eq!(asked, b"*1\r\n$4\r\nPING\r\n");
        assert!(answered(b"-NOAUTH Authentication required.\r\n").0.is_ok());
        let wrong = answered(b"HTTP/1.1 400 Bad Request\r\n").0.expect_err("a web server");
        assert!(wrong.ends_with("answers \"HTTP/1.1 400 Bad Request\""), "{wrong}");
        assert!(answered(b"").0.is_err());
    }

    #[test]
    fn nobody_there_is_no_answer() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        drop(listener);
        let error = ping(&there(port)).expect_err("nobody listens");
        assert!(error.starts_with(&format!("no answer from 127.0.0.1:{port}: ")), "{error}");
    }
}
