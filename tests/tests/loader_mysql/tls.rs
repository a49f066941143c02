//! MariaDB and MySQL over TLS: what is verified, and what is refused.

use super::*;
use leasehold_tests::Certificates;

/// Whether a query goes over TLS.
fn cipher() -> String {
    let place = MySqlKind::here().choose("information_schema", "performance_schema");
    format!("SELECT VARIABLE_VALUE <> '' AS tls FROM {place}.session_status WHERE VARIABLE_NAME = 'Ssl_cipher'")
}

/// Whether a query goes over TLS, or why there is no connection.
async fn is_encrypted(url: &str) -> Result<bool, String> {
    let mut settings = SourceSettings::new("main", url);
    settings.acquire_timeout = Duration::from_secs(10);
    let source = Source::open(settings).await.expect("a good URL");
    source.check().await?;
    let loader = build_loader(&source, single("tls", &cipher())).await.expect("a good loader");
    match load_one(&loader, "tls").await {
        Ok(Row::Value { value, .. }) => Ok(value == r#"{"tls":1}"#),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn certificates_are_verified_as_far_as_the_url_says() {
    let Some(certificates) = Certificates::make(GROUP) else { return };
    let options = ["--ssl-ca={dir}/ca.pem", "--ssl-cert={dir}/server.pem", "--ssl-key={dir}/server.key"];
    let Some(server) = MySqlServer::start(GROUP, &options, |directory| certificates.install(directory)) else { return };
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
        ("127.0.0.1", "ssl-mode=disabled".to_owned(), MySqlKind::here().choose("Access denied", "Access denied")),
    ] {
        let reason = is_encrypted(&url(host, &more)).await.expect_err(&more);
        assert!(reason.to_lowercase().contains(&says.to_lowercase()) && !reason.contains("hush"), "{more}: {reason}");
    }

    let known = |more: &str| format!("mysql://known@127.0.0.1:{}/?ssl-mode=verify_ca&ssl-ca={ca}{more}", server.port());
    let (certificate, key) = (certificates.path("client.pem"), certificates.path("client.key"));
    let ours = format!("&ssl-cert={}&ssl-key={}", certificate.display(), key.display());
    assert_eq!(is_encrypted(&known(&ours)).await, Ok(true));
    assert!(is_encrypted(&known("")).await.expect_err("no certificate").contains("Access denied"));

    if server.kind() == MySqlKind::MySql {
        passwords_go_over_tls(&server, &admin).await;
    }

    for option in ["ssl-ca", "ssl-cert", "ssl-key"] {
        let settings =
            SourceSettings::new("main", url("127.0.0.1", &format!("ssl-mode=verify_ca&{option}=/no/such.pem")));
        let problem = Source::open(settings).await.expect_err("there is no such file");
        assert_eq!(problem.option, "url");
        assert!(problem.reason.contains(option) && problem.reason.contains("/no/such.pem"), "{problem}");
    }
}

/// The users of MySQL have `caching_sha2_password`: the server wants a password that it has not seen yet whole, and hidden.
async fn passwords_go_over_tls(server: &MySqlServer, admin: &MySqlPool) {
    sqlx::raw_sql("CREATE USER plain@'%' IDENTIFIED BY 'hush!'").execute(admin).await.expect("good SQL");
    let url = |more: &str| format!("mysql://plain:hush%21@127.0.0.1:{}/?ssl-mode={more}", server.port());
    let without = is_encrypted(&url("disabled")).await.expect_err("there is no TLS");
    assert!(without.contains("over TLS (caching_sha2_password)") && without.contains("ssl-mode=required"), "{without}");
    assert!(!without.contains("hush"), "{without}");
    // What the server makes for itself has no name of a host.
    let Some(own) = MySqlServer::shared(GROUP) else { return };
    let ca = own.directory().join("data/ca.pem").display().to_string();
    let own_admin = MySqlPool::connect(&own.url("")).await.expect("the server runs");
    sqlx::raw_sql("CREATE USER plain@'%' IDENTIFIED BY 'hush!'").execute(&own_admin).await.expect("good SQL");
    let own_url = |more: &str| format!("mysql://plain:hush%21@127.0.0.1:{}/?ssl-mode={more}&ssl-ca={ca}", own.port());
    assert_eq!(is_encrypted(&own_url("verify_ca")).await, Ok(true));
    let unnamed = is_encrypted(&own_url("verify_identity")).await.expect_err("no name");
    assert!(unnamed.contains("certificate"), "{unnamed}");
    // From then on the server knows it, until it starts anew.
    assert_eq!(is_encrypted(&url("required")).await, Ok(true));
    assert_eq!(is_encrypted(&url("disabled")).await, Ok(false));
}
