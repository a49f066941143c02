//! The connections of a source: how many, by which way, with which session, and none.

use super::*;

#[tokio::test]
async fn many_loads_share_few_connections() {
    let Some(database) = Database::with(USERS, |settings| settings.max_connections = 3).await else { return };
    let loader = Arc::new(database.loader(users()).await);
    let loads: Vec<_> = (1..=300)
        .map(|id| {
            let loader = loader.clone();
            tokio::spawn(async move { (id, load_one(&loader, &format!("user:{id}")).await) })
        })
        .collect();
    for load in loads {
        let (id, answer) = load.await.expect("no panic");
        assert_eq!(answer, user(id));
    }
    assert!(database.backends().await.len() <= 3);
}

#[tokio::test]
async fn the_unix_socket_works_as_well() {
    let Some(server) = Postgres::shared(GROUP) else { return };
    let source = Source::open(SourceSettings::new("main", server.socket_url())).await.expect("a good URL");
    assert_eq!(source.check().await, Ok(()));
    let one = build_loader(&source, single("one", "SELECT 1 AS one")).await.expect("a good loader");
    assert_eq!(load_one(&one, "one").await, value(r#"{"one":1}"#));
}

#[tokio::test]
async fn what_the_url_says_of_the_session_is_kept() {
    let Some(server) = Postgres::shared(GROUP) else { return };
    let url = format!("{}&options=-c%20search_path%3Dpg_catalog&application_name=mine", server.url());
    let source = Source::open(SourceSettings::new("main", url)).await.expect("a good URL");
    let sql = "SELECT current_setting('search_path') AS path, current_setting('statement_timeout') AS timeout,
               current_setting('application_name') AS application";
    let session = build_loader(&source, single("session", sql)).await.expect("a good loader");
    let expected = r#"{"path":"pg_catalog","timeout":"2s","application":"mine"}"#;
    assert_eq!(load_one(&session, "session").await, value(expected));
}

#[tokio::test]
async fn a_closed_source_is_unavailable() {
    let Some(database) = Database::new(USERS).await else { return };
    let loader = database.loader(users()).await;
    assert_eq!(load_one(&loader, "user:1").await, user(1));
    database.source.close().await;
    assert!(matches!(load_one(&loader, "user:1").await, Err(LoadError::Unavailable(_))));
    database.until_left_alone().await;
    assert!(database.url.starts_with("postgres://"));
}
