// ioredis 6 against the server, connected as an application would: RESP3, ready check, automatic pipelines.
//
// Usage: ioredis.mjs PORT, with the database of `tests/tests/clients.rs` behind `user:*`. Ends with 0 if all holds.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { Redis } from "ioredis";

const port = Number(process.argv[2]);
const version = createRequire(import.meta.url)("ioredis/package.json").version;
const client = new Redis({ port, connectionName: "ioredis", maxRetriesPerRequest: 1 });

const tests = {
  async connection() {
    assert.equal(await client.ping(), "PONG");
    assert.equal(await client.echo("hello"), "hello");
    assert.equal(await client.client("GETNAME"), "ioredis");
    const info = await client.info();
    assert.match(info, /redis_version:7\.4\.0/);
    assert.match(info, /loading:0/);
    assert.match(await client.client("INFO"), /lib-name=ioredis/);
    assert.equal(await client.command("COUNT"), (await client.command("LIST")).length);
    await client.select(2);
    await client.set("only-here", "1");
    await client.flushdb();
    await client.select(0);
  },

  async strings() {
    assert.equal(await client.set("s", "v"), "OK");
    assert.equal(await client.get("s"), "v");
    assert.equal(await client.get("no"), null);
    assert.equal(await client.set("s", "w", "NX"), null);
    assert.equal(await client.set("s", "w", "EX", 100, "GET"), "v");
    assert.ok((await client.ttl("s")) > 90);
    assert.equal(await client.getex("s", "PERSIST"), "w");
    assert.equal(await client.getdel("s"), "w");
    assert.equal(await client.setex("s", 50, "v"), "OK");
    assert.equal(await client.append("text", "Hello"), 5);
    assert.equal(await client.getrange("text", 0, 1), "He");
    assert.equal(await client.setrange("text", 5, "!"), 6);
    assert.equal(await client.incr("n"), 1);
    assert.equal(await client.incrby("n", 9), 10);
    assert.equal(await client.incrbyfloat("n", 0.5), "10.5");
    assert.deepEqual(await client.bitfield("field", "SET", "u8", 0, 255, "GET", "u8", 0), [0, 255]);
    assert.equal(await client.setbit("bits", 7, 1), 0);
    assert.equal(await client.bitcount("bits"), 1);
    const bytes = Buffer.from(Array.from({ length: 256 }, (_, index) => index));
    await client.set(bytes, bytes);
    assert.deepEqual(await client.getBuffer(bytes), bytes);
  },

  async keys() {
    await client.flushdb();
    await client.mset(Object.fromEntries(Array.from({ length: 300 }, (_, index) => [`k:${index}`, index])));
    assert.equal(await client.dbsize(), 300);
    assert.deepEqual(await client.mget("k:1", "no", "k:2"), ["1", null, "2"]);
    const found = new Set();
    for await (const keys of client.scanStream({ match: "k:*", count: 40 })) keys.forEach((key) => found.add(key));
    assert.equal(found.size, 300);
    assert.equal(await client.expire("k:1", 100), 1);
    assert.equal(await client.expire("k:1", 50, "GT"), 0);
    assert.equal(await client.persist("k:1"), 1);
    assert.equal(await client.rename("k:1", "r"), "OK");
    assert.equal(await client.copy("r", "c"), 1);
    assert.equal(await client.unlink("r", "c"), 2);
    assert.equal(await client.type("k:2"), "string");
    assert.equal(await client.object("ENCODING", "k:2"), "int");
    assert.equal(await client.exists("k:2", "no"), 1);
  },

  async pipelines() {
    const pipeline = client.pipeline();
    for (let index = 0; index < 1000; index++) pipeline.set(`p:${index}`, index).get(`p:${index}`);
    const replies = await pipeline.exec();
    replies.forEach(([error, reply], index) => {
      assert.equal(error, null);
      assert.equal(reply, index % 2 === 0 ? "OK" : String((index - 1) / 2));
    });
    const automatic = new Redis({ port, enableAutoPipelining: true });
    assert.deepEqual(
      await Promise.all(Array.from({ length: 200 }, (_, index) => automatic.get(`p:${index}`))),
      Array.from({ length: 200 }, (_, index) => String(index)),
    );
    automatic.disconnect();
    const [[, set], [error], [, get]] = await client.pipeline().set("n", "x").incr("n").get("n").exec();
    assert.equal(set, "OK");
    assert.match(error.message, /not an integer/);
    assert.equal(get, "x");
  },

  async leases() {
    const [status, value, token, left, floor] = await client.call("GETL", "lease");
    assert.deepEqual([status, value, floor], ["LEASE", null, 0]);
    assert.ok(BigInt(token) > 1n && left > 0);
    const other = client.duplicate();
    const waiting = other.call("GETL", "lease", "WAIT", 10000);
    assert.equal(await client.call("SETL", "lease", token, "value"), "STORED");
    assert.deepEqual((await waiting).slice(0, 3), ["HIT", "value", "0"]);
    await client.del("lease");
    const [, , next] = await client.call("GETL", "lease");
    await client.del("lease");
    assert.equal(await client.call("SETL", "lease", next, "stale"), "LOST revoked");
    other.disconnect();
  },

  async loaders() {
    assert.equal(JSON.parse(await client.get("user:42")).name, "user 42");
    assert.equal(await client.get("user:100000"), null);
    const users = await client.mget(Array.from({ length: 50 }, (_, index) => `user:${index + 1}`));
    assert.deepEqual(users.map((user) => JSON.parse(user).id), Array.from({ length: 50 }, (_, index) => index + 1));
    assert.equal(JSON.parse(await client.call("LOADTHROUGH", "user:8")).id, 8);
  },

  async errors() {
    await assert.rejects(client.call("NOSUCHCOMMAND"), /unknown command/);
    await assert.rejects(client.call("GET"), /wrong number of arguments/);
    await assert.rejects(client.call("LOADTHROUGH", "nomatch:1"), /NOLOADER/);
    assert.equal(await client.ping(), "PONG");
  },

  async reconnects() {
    const id = await client.client("ID");
    await assert.doesNotReject(new Redis({ port }).client("KILL", "ID", id));
    // The client notices, connects again and repeats nothing by itself.
    await new Promise((resolve) => client.once("ready", resolve));
    assert.notEqual(await client.client("ID"), id);
  },
};

client.on("error", (error) => console.error(`ioredis: ${error}`));
await client.flushall();
for (const [name, test] of Object.entries(tests)) {
  await test();
  console.log(`ioredis ${version}: ${name}`);
}
console.log(`ioredis ${version}: all`);
process.exit(0);
