// memcache-client for Node.js, which speaks the text protocol: as an application would use it, with several connections.
//
// Usage: memcached_node.mjs PORT, with the database of `tests/src/client_scripts.rs` behind `user:*`. Ends with 0 if all holds.

import assert from "node:assert/strict";
import { createRequire } from "node:module";

const require = createRequire(import.meta.url);
const { MemcacheClient } = require("memcache-client");
const { version } = require("memcache-client/package.json");
const server = `127.0.0.1:${process.argv[2]}`;
const client = new MemcacheClient({ server: { server, maxConnections: 3 }, lifetime: 100, noDelay: true });

const tests = {
  async basics() {
    assert.deepEqual(await client.set("k", "v"), ["STORED"]);
    assert.equal((await client.get("k")).value, "v");
    assert.equal(await client.get("none"), undefined);
    await assert.rejects(client.add("k", "no"), /NOT_STORED/);
    assert.deepEqual(await client.add("a", "b"), ["STORED"]);
    assert.deepEqual(await client.replace("a", "c"), ["STORED"]);
    assert.deepEqual(await client.append("a", "d"), ["STORED"]);
    assert.deepEqual(await client.prepend("a", "b"), ["STORED"]);
    assert.equal((await client.get("a")).value, "bcd");
    assert.deepEqual(await client.delete("a"), ["DELETED"]);
    await assert.rejects(client.delete("a"), /NOT_FOUND/);
    assert.match((await client.version())[0], /VERSION|\d/);
  },

  async values() {
    const bytes = Buffer.from(Array.from({ length: 256 }, (_, index) => index));
    for (const value of ["text", "€", 7, { a: [1, { b: null }] }, bytes, "long".repeat(100_000), ""]) {
      await client.set("value", value);
      assert.deepEqual((await client.get("value")).value, value);
    }
  },

  async many() {
    const keys = Array.from({ length: 300 }, (_, index) => `m:${index}`);
    await Promise.all(keys.map((key) => client.set(key, key)));
    const found = await client.get([...keys, "none"]);
    assert.deepEqual(Object.keys(found).sort(), [...keys].sort());
    keys.forEach((key) => assert.equal(found[key].value, key));
    const values = await Promise.all(keys.map((key) => client.get(key)));
    values.forEach((value, index) => assert.equal(value.value, keys[index]));
  },

  async cas() {
    await client.set("c", "1");
    const { casUniq } = await client.gets("c");
    assert.deepEqual(await client.cas("c", "2", { casUniq }), ["STORED"]);
    await assert.rejects(client.cas("c", "3", { casUniq }), /EXISTS/);
    await assert.rejects(client.cas("none", "3", { casUniq }), /NOT_FOUND/);
  },

  async numbers() {
    await client.set("n", "10");
    assert.equal(await client.incr("n", 5), "15");
    assert.equal(await client.decr("n", 50), "0");
    await assert.rejects(client.incr("k", 1), /CLIENT_ERROR/);
    await client.cmd("incr n 7", { noreply: true });
    assert.equal(Number((await client.get("n")).value), 7);
  },

  async times() {
    await client.set("t", "v", { lifetime: 1000 });
    assert.deepEqual(await client.touch("t", 500), ["TOUCHED"]);
    await assert.rejects(client.touch("none", 500), /NOT_FOUND/);
    await client.set("t", "v", { noreply: true });
    await client.set("t", "v", { lifetime: -1 });
  },

  async raw() {
    const { STAT } = await client.cmd("stats");
    assert.ok(STAT.some(([name]) => name === "curr_connections"), JSON.stringify(STAT));
    assert.deepEqual(await client.send("set raw 0 0 5\r\nhello\r\n"), ["STORED"]);
    await assert.rejects(client.cmd("nosuchcommand"), /ERROR/);
    assert.equal((await client.get("raw")).value, "hello");
  },

  async loaders() {
    assert.equal(JSON.parse((await client.get("user:42")).value).name, "user 42");
    assert.equal(await client.get("user:100000"), undefined);
    const users = await client.get(Array.from({ length: 50 }, (_, index) => `user:${index + 1}`));
    assert.equal(Object.keys(users).length, 50);
    for (const [key, { value }] of Object.entries(users)) assert.equal(`user:${JSON.parse(value).id}`, key);
  },
};

await client.cmd("flush_all");
for (const [name, test] of Object.entries(tests)) {
  await test();
  console.log(`memcache-client ${version}: ${name}`);
}
console.log(`memcache-client ${version}: all`);
process.exit(0);
