-- The demo database: 100,000 users and their orders. Every value follows from the row's number, so that the same
-- database comes out everywhere and a test can say what `GET user:42` answers.

CREATE TABLE users (
    id         INTEGER PRIMARY KEY,
    name       TEXT    NOT NULL,
    email      TEXT    NOT NULL,
    city       TEXT    NOT NULL,
    created_at TEXT    NOT NULL, -- UTC, ISO 8601
    updated_at INTEGER NOT NULL  -- microseconds since 1970: the version of the row
);

CREATE TABLE orders (
    id          INTEGER PRIMARY KEY,
    user_id     INTEGER NOT NULL REFERENCES users (id),
    item        TEXT    NOT NULL,
    quantity    INTEGER NOT NULL,
    price_cents INTEGER NOT NULL, -- of one piece
    placed_at   TEXT    NOT NULL  -- UTC, ISO 8601
);

CREATE TEMP TABLE first_names (n INTEGER PRIMARY KEY, name TEXT);
INSERT INTO first_names (name) VALUES
    ('Ada'), ('Alan'), ('Barbara'), ('Claude'), ('Donald'), ('Edsger'), ('Frances'), ('Grace'), ('Hedy'), ('Ivan'), ('Jean'),
    ('Ken'), ('Leslie'), ('Margaret'), ('Niklaus'), ('Ole-Johan'), ('Peter'), ('Radia'), ('Sophie'), ('Tony'), ('Ursula'),
    ('Vint'), ('Wietse'), ('Zoë');

CREATE TEMP TABLE last_names (n INTEGER PRIMARY KEY, name TEXT);
INSERT INTO last_names (name) VALUES
    ('Abel'), ('Berg'), ('Castro'), ('Dahl'), ('Eriksen'), ('Fontaine'), ('García'), ('Hoffmann'), ('Ito'), ('Jansen'), ('Kovač'),
    ('Lindqvist'), ('Müller'), ('Novák'), ('O''Brien'), ('Petrov'), ('Quist'), ('Rossi'), ('Schmidt'), ('Tanaka'), ('Urban'),
    ('Vega'), ('Weiß'), ('Xu'), ('Yılmaz'), ('Żak'), ('Öztürk'), ('Laurent'), ('Moreau');

CREATE TEMP TABLE cities (n INTEGER PRIMARY KEY, name TEXT);
INSERT INTO cities (name) VALUES
    ('Amsterdam'), ('Bologna'), ('Cork'), ('Dresden'), ('Évora'), ('Firenze'), ('Graz'), ('Hiroshima'), ('İzmir'), ('Jaén'),
    ('Kraków'), ('Lyon'), ('Malmö');

CREATE TEMP TABLE items (n INTEGER PRIMARY KEY, name TEXT, cents INTEGER);
INSERT INTO items (name, cents) VALUES
    ('lamp', 3900), ('kettle', 4950), ('notebook', 450), ('backpack', 7900), ('chair', 12900), ('desk', 24900), ('pen', 290),
    ('headphones', 8900), ('bicycle', 59900), ('teapot', 3450), ('umbrella', 1990);

-- The lists have 24, 29, 13 and 11 entries, which share no factor, so that all combinations come up.
WITH RECURSIVE number (id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM number WHERE id < 100000)
INSERT INTO users (id, name, email, city, created_at, updated_at)
SELECT
    number.id,
    first_names.name || ' ' || last_names.name,
    'user' || number.id || '@example.com',
    cities.name,
    strftime('%Y-%m-%dT%H:%M:%SZ', 1577836800 + number.id * 1571, 'unixepoch'),
    (1577836800 + number.id * 1571) * 1000000
FROM number
JOIN first_names ON first_names.n = number.id % 24 + 1
JOIN last_names ON last_names.n = number.id % 29 + 1
JOIN cities ON cities.n = number.id % 13 + 1;

-- Every user has the orders 1 to id % 4: none for each fourth user, 150,000 in all.
WITH number (n) AS (VALUES (1), (2), (3))
INSERT INTO orders (user_id, item, quantity, price_cents, placed_at)
SELECT
    users.id,
    items.name,
    1 + (users.id + number.n) % 3,
    items.cents,
    strftime('%Y-%m-%dT%H:%M:%SZ', 1577836800 + users.id * 1571 + number.n * 90061, 'unixepoch')
FROM users
JOIN number ON number.n <= users.id % 4
JOIN items ON items.n = (users.id + number.n * 7) % 11 + 1
ORDER BY users.id, number.n;

CREATE INDEX orders_by_user ON orders (user_id);

DROP TABLE first_names;
DROP TABLE last_names;
DROP TABLE cities;
DROP TABLE items;

ANALYZE;
