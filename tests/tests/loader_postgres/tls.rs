//! PostgreSQL over TLS: what is verified, and what is refused.

use super::*;
use leasehold_tests::Certificates;

/// Whether a query goes over TLS, or why there is no connection.
async fn is_encrypted(url: &str) -> Result<bool, String> {
    let mut settings = SourceSettings::new("main", url);
    settings.acquire_timeout = Duration::from_secs(10);
    let source = Source::open(settings).await.expect("a good URL");
    source.check().await?;
    let sql = "SELECT ssl AS tls FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    let loader = build_loader(&source, single("tls", sql)).await.expect("a good loader");
    match load_one(&loader, "tls").await {
        Ok(Row::Value { value, .. }) => Ok(value == r#"{"tls":true}"#),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn certificates_are_verified_as_far_as_the_url_says() {
    let Some(certificates) = Certificates::make(GROUP) else { return };
    let settings =
        ["ssl=on", "ssl_cert_file={dir}/server.pem", "ssl_key_file={dir}/server.key", "ssl_ca_file={dir}/ca.pem"];
    let server = Postgres::start_with(GROUP, &settings, |directory| certificates.install(directory));
    let Some(server) = server else { return };
    let ca = certificates.path("ca.pem").display().to_string();
    let other_ca = certificates.path("other-ca.pem").display().to_string();
    let url = |host: &str, more: &str| format!("postgres://test:hush@{host}:{}/test?{more}", server.port());

    assert_eq!(is_encrypted(&url("127.0.0.1", "sslmode=disable")).await, Ok(false), "or the test sees nothing");
    for verified in [
        "sslmode=prefer".to_owned(),
        "sslmode=require".to_owned(),
        format!("sslmode=verify-ca&sslrootcert={ca}"),
        format!("sslmode=verify-full&sslrootcert={ca}"),
    ] {
        assert_eq!(is_encrypted(&url("127.0.0.1", &verified)).await, Ok(true), "{verified}");
    }
    // The certificate is for the address, not for the name.
    assert_eq!(is_encrypted(&url("localhost", &format!("sslmode=verify-ca&sslrootcert={ca}"))).await, Ok(true));
    for (host, more) in [
        ("127.0.0.1", format!("sslmode=verify-ca&sslrootcert={other_ca}")),
        ("127.0.0.1", format!("sslmode=verify-full&sslrootcert={other_ca}")),
        ("127.0.0.1", "sslmode=verify-ca".to_owned()),
        ("localhost", format!("sslmode=verify-full&sslrootcert={ca}")),
    ] {
        let reason = is_encrypted(&url(host, &more)).await.expect_err(&more);
        assert!(reason.contains("certificate") && !reason.contains("hush"), "{more}: {reason}");
    }
    let (certificate, key) = (certificates.path("client.pem"), certificates.path("client.key"));
    let ours = format!("sslmode=verify-ca&sslrootcert={ca}&sslcert={}&sslkey={}", certificate.display(), key.display());
    assert_eq!(is_encrypted(&url("127.0.0.1", &ours)).await, Ok(true));

    for option in ["sslrootcert", "sslcert", "sslkey"] {
        let settings = SourceSettings::new("main", url("127.0.0.1", &format!("sslmode=require&{option}=/no/such.pem")));
        let problem = Source::open(settings).await.expect_err("there is no such file");
        assert_eq!(problem.option, "url");
        assert!(problem.reason.contains(option) && problem.reason.contains("/no/such.pem"), "{problem}");
    }
}
