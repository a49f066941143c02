//! Connections to MySQL and MariaDB for the log: where to and how the source's URL says, TLS too.
//!
//! The driver is another than that of the loaders, which cannot read logs. `ssl-mode` means the same in both, but for `verify_ca`: this driver
//! knows no way to check who signed a certificate and not for which host, so the host is checked as well.

use super::super::Trouble;
use crate::source::{AnyPool, Source, percent_decoded};
use mysql_async::{ClientIdentity, Conn, DriverError, Error, Opts, OptsBuilder, SslOpts};
use sqlx::mysql::MySqlSslMode;

/// Largest packet that is taken: as large as the servers make them.
const PACKET_BYTES_MAX: usize = 1 << 30;

/// Idle connections are asked for their health by nobody here.
const IDLE_S_MAX: usize = 8 * 60 * 60;

/// Error numbers for what a user may not do. That of a refused login is one of them: commands of replicas answer it, too.
const NOT_ALLOWED: [u16; 5] = [1044, 1045, 1142, 1227, 1370];

/// A new connection.
pub(super) async fn connect(source: &Source) -> Result<Conn, Trouble> {
    let AnyPool::MySql(pool) = &source.pool else {
        return Err(Trouble::Wrong("via", "binlog is for MySQL and MariaDB only".into()));
    };
    let settings = &source.state.settings;
    let query = settings.url.split_once('?').map_or("", |(_, query)| query);
    let named = |names: [&str; 2]| {
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.filter(|(name, _)| names.contains(name)).map(|(_, value)| percent_decoded(value)).next_back()
    };
    let known = pool.connect_options();
    let host = known.get_host();
    let options = OptsBuilder::default()
        .ip_or_hostname(host.trim_start_matches('[').trim_end_matches(']'))
        .tcp_port(known.get_port())
        .user(Some(known.get_username()))
        .pass(source.password())
        .db_name(known.get_database())
        // Else it would move to the socket that the server names, which may be another server's here.
        .prefer_socket(false)
        .socket(known.get_socket().map(|path| path.to_string_lossy().into_owned()))
        .max_allowed_packet(Some(PACKET_BYTES_MAX))
        .wait_timeout(Some(IDLE_S_MAX))
        .stmt_cache_size(0);
    let mode = known.get_ssl_mode();
    let files = [named(["ssl-ca", "sslca"]), named(["ssl-cert", "sslcert"]), named(["ssl-key", "sslkey"])];
    let ssl = match mode {
        MySqlSslMode::Disabled => None,
        _ => Some(ssl_options(mode, files).map_err(Trouble::Failed)?),
    };
    let limit = settings.acquire_timeout;
    let connecting = async {
        match Conn::new(Opts::from(options.clone().ssl_opts(ssl))).await {
            Err(Error::Driver(DriverError::NoClientSslFlagFromServer)) if matches!(mode, MySqlSslMode::Preferred) => {
                Conn::new(Opts::from(options)).await
            }
            connected => connected,
        }
    };
    match tokio::time::timeout(limit, connecting).await {
        Ok(connected) => connected.map_err(|error| Trouble::Failed(source.state.hidden(&error.to_string()))),
        Err(_) => Err(Trouble::Failed(format!("no connection within {} ms", limit.as_millis()))),
    }
}

fn ssl_options(mode: MySqlSslMode, files: [Option<String>; 3]) -> Result<SslOpts, String> {
    let [ca, cert, key] = files.map(|file| file.map(pem).transpose());
    let identity = cert?.zip(key?).map(|(cert, key)| ClientIdentity::new(cert.into(), key.into()));
    let options = SslOpts::default().with_client_identity(identity);
    if !matches!(mode, MySqlSslMode::VerifyCa | MySqlSslMode::VerifyIdentity) {
        return Ok(options.with_danger_accept_invalid_certs(true));
    }
    let system = rustls_native_certs::load_native_certs().certs.into_iter().map(|cert| cert.as_ref().to_vec());
    let roots = system.chain(ca?).map(Into::into).collect();
    Ok(options.with_root_certs(roots).with_disable_built_in_roots(true))
}

/// What is in the file, or would be.
fn pem(text: String) -> Result<Vec<u8>, String> {
    if text.contains("-----BEGIN") {
        return Ok(text.into_bytes());
    }
    std::fs::read(&text).map_err(|error| format!("{text}: {error}"))
}

/// What an error of the driver is to the feed; `grant` says what a user without rights needs.
pub(super) fn trouble(source: &Source, error: &Error, grant: &str) -> Trouble {
    let reason = source.state.hidden(&error.to_string());
    match error {
        Error::Server(server) if NOT_ALLOWED.contains(&server.code) => {
            Trouble::Wrong("source", format!("its user may not read the binary log; {grant} ({reason})"))
        }
        _ => Trouble::Failed(reason),
    }
}
