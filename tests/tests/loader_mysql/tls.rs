//! MariaDB over TLS: what is verified, and what is refused.

use super::*;
use leasehold_tests::Certificates;

const CIPHER: &str =
    "SELECT VARIABLE_VALUE <> '' AS tls FROM information_schema.SESSION_STATUS WHERE VARIABLE_NAME = 'Ssl_cipher'";

/// Whether a query goes over TLS, or why there is no connection.
async fn is_encrypted(url: &str) -> Result<bool, String> {
    let mut settings = SourceSettings::new("main", url);
    settings.acquire_timeout = Duration::from_secs(10);
    let source = Source::open(settings).await.expect("a good URL");
    source.check().await?;
    let loader = build_loader(&source, single("tls", CIPHER)).await.expect("a good loader");
    match load_one(&loader, "tls").await {
        Ok(Row::Value { value, .. }) => Ok(value == r#"{"tls":1}"#),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn certificates_are_verified_as_far_as_the_url_says() {
    let Some(certificates) = Certificates::make(GROUP) else { return };
    let options = ["--ssl-ca={dir}/ca.pem", "--ssl-cert={dir}/server.pem", "--ssl-key={dir}/server.key"];
    let Some(server) = MariaDb::start(GROUP, &options, |directory| certificates.install(directory)) else { return };
    let admin = MySqlPool::connect(&server.url("")).await.expect("the server runs");
    let script = "CREATE USER app@'%' IDENTIFIED BY 'hush!' REQUIRE SSL; CREATE USER known@'%' REQUIRE X509;";
    sqlx::raw_sql(script).execute(&admin).await.expect("good SQL");
    let ca = certificates.path("ca.pem").display().to_string();
    let other_ca = certificates.path("other-ca.pem").display().to_string();
    let url = |host: &str, more: &str| format!("mysql://app:hush%21@{host}:{}/?{more}", server.port());

    assert_eq!(is_encrypted(&server.url("")).await, Ok(false), "or the test sees nothing");
    for verified in [
        "ssl-mode=preferred".to_owned(),
        "ssl-mode=required".to_owned(),
        format!("ssl-mode=VERIFY_CA&ssl-ca={ca}"),
        format!("sslmode=verify_identity&sslca={ca}"),
    ] {
        assert_eq!(is_encrypted(&url("127.0.0.1", &verified)).await, Ok(true), "{verified}");
    }
    // The certificate is for the address, not for the name.
    assert_eq!(is_encrypted(&url("localhost", &format!("ssl-mode=verify_ca&ssl-ca={ca}"))).await, Ok(true));
    for (host, more, says) in [
        ("127.0.0.1", format!("ssl-mode=verify_ca&ssl-ca={other_ca}"), "certificate"),
        ("127.0.0.1", format!("ssl-mode=verify_identity&ssl-ca={other_ca}"), "certificate"),
        ("127.0.0.1", "ssl-mode=verify_ca".to_owned(), "certificate"),
        ("localhost", format!("ssl-mode=verify_identity&ssl-ca={ca}"), "certificate"),
        ("127.0.0.1", "ssl-mode=disabled".to_owned(), "Access denied"),
    ] {
        let reason = is_encrypted(&url(host, &more)).await.expect_err(&more);
        assert!(reason.to_lowercase().contains(&says.to_lowercase()) && !reason.contains("hush"), "{more}: {reason}");
    }

    let known = |more: &str| format!("mysql://known@127.0.0.1:{}/?ssl-mode=verify_ca&ssl-ca={ca}{more}", server.port());
    let (certificate, key) = (certificates.path("client.pem"), certificates.path("client.key"));
    let ours = format!("&ssl-cert={}&ssl-key={}", certificate.display(), key.display());
    assert_eq!(is_encrypted(&known(&ours)).await, Ok(true));
    assert!(is_encrypted(&known("")).await.expect_err("no certificate").contains("Access denied"));

    for option in ["ssl-ca", "ssl-cert", "ssl-key"] {
        let settings =
            SourceSettings::new("main", url("127.0.0.1", &format!("ssl-mode=verify_ca&{option}=/no/such.pem")));
        let problem = Source::open(settings).await.expect_err("there is no such file");
        assert_eq!(problem.option, "url");
        assert!(problem.reason.contains(option) && problem.reason.contains("/no/such.pem"), "{problem}");
    }
}
