// node-redis 6 against the server, connected as an application would: RESP3, maintenance notifications asked for.
//
// Usage: node_redis.mjs PORT, with the database of `tests/tests/clients.rs` behind `user:*`. Ends with 0 if all holds.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { createClient, createClientPool, RESP_TYPES } from "redis";

const port = Number(process.argv[2]);
const version = createRequire(import.meta.url)("redis/package.json").version;
const client = createClient({ socket: { port }, name: "node-redis" });
const troubles = [];
client.on("error", (error) => troubles.push(error));

const tests = {
  async connection() {
    assert.equal(await client.ping(), "PONG");
    assert.equal(await client.echo("hello"), "hello");
    assert.equal(await client.clientGetName(), "node-redis");
    const info = await client.clientInfo();
    assert.equal(info.name, "node-redis");
    assert.equal(info.libName, "node-redis");
    assert.match(await client.info("server"), /redis_version:7\.4\.0/);
    assert.equal(typeof (await client.clientId()), "number");
    assert.equal(await client.commandCount(), (await client.commandList()).length);
    assert.deepEqual({ ...(await client.configGet("timeout")) }, { timeout: "0" });
    await client.select(2);
    await client.set("only-here", "1");
    await client.flushDb();
    await client.select(0);
  },

  async strings() {
    assert.equal(await client.set("s", "v"), "OK");
    assert.equal(await client.get("s"), "v");
    assert.equal(await client.get("no"), null);
    assert.equal(await client.set("s", "w", { condition: "NX" }), null);
    assert.equal(await client.set("s", "w", { expiration: { type: "EX", value: 100 }, GET: true }), "v");
    assert.ok((await client.ttl("s")) > 90);
    assert.equal(await client.getEx("s", { type: "PERSIST" }), "w");
    assert.equal(await client.getDel("s"), "w");
    assert.equal(await client.append("text", "Hello"), 5);
    assert.equal(await client.getRange("text", 0, 1), "He");
    assert.equal(await client.setRange("text", 5, "!"), 6);
    assert.equal(await client.incr("n"), 1);
    assert.equal(await client.incrBy("n", 9), 10);
    assert.equal(await client.incrByFloat("n", 0.5), "10.5");
    assert.equal(await client.setBit("bits", 7, 1), 0);
    assert.equal(await client.bitCount("bits"), 1);
    await client.mSet({ key1: "ohmytext", key2: "mynewtext" });
    assert.equal(await client.lcs("key1", "key2"), "mytext");
    const buffers = client.withTypeMapping({ [RESP_TYPES.BLOB_STRING]: Buffer });
    const bytes = Buffer.from(Array.from({ length: 256 }, (_, index) => index));
    await client.set("bytes", bytes);
    assert.deepEqual(await buffers.get("bytes"), bytes);
  },

  async keys() {
    await client.flushDb();
    await client.mSet(Object.fromEntries(Array.from({ length: 300 }, (_, index) => [`k:${index}`, String(index)])));
    assert.equal(await client.dbSize(), 300);
    assert.deepEqual(await client.mGet(["k:1", "no", "k:2"]), ["1", null, "2"]);
    const found = new Set();
    for await (const keys of client.scanIterator({ MATCH: "k:*", COUNT: 40 })) keys.forEach((key) => found.add(key));
    assert.equal(found.size, 300);
    assert.equal(await client.expire("k:1", 100), 1);
    assert.equal(await client.expire("k:1", 50, "GT"), 0);
    assert.equal(await client.persist("k:1"), 1);
    assert.equal(await client.rename("k:1", "r"), "OK");
    assert.equal(await client.copy("r", "c"), 1);
    assert.equal(await client.unlink(["r", "c"]), 2);
    assert.equal(await client.type("k:2"), "string");
    assert.equal(await client.objectEncoding("k:2"), "int");
    assert.equal(await client.exists(["k:2", "no"]), 1);
  },

  async pipelines() {
    const replies = await Promise.all(
      Array.from({ length: 1000 }, (_, index) => [client.set(`p:${index}`, index), client.get(`p:${index}`)]).flat(),
    );
    replies.forEach((reply, index) => assert.equal(reply, index % 2 === 0 ? "OK" : String((index - 1) / 2)));
    const pipeline = await client.multi().set("n", "1").incr("n").execAsPipeline();
    assert.deepEqual(pipeline, ["OK", 2]);
    const pool = createClientPool({ socket: { port } });
    await pool.connect();
    await Promise.all(Array.from({ length: 500 }, () => pool.incr("pool")));
    assert.equal(await pool.get("pool"), "500");
    await pool.close();
  },

  async leases() {
    const [status, value, token, left, floor] = await client.sendCommand(["GETL", "lease"]);
    assert.deepEqual([status, value, floor], ["LEASE", null, 0]);
    assert.ok(BigInt(token) > 1n && left > 0);
    const other = await client.duplicate().connect();
    const waiting = other.sendCommand(["GETL", "lease", "WAIT", "10000"]);
    assert.equal(await client.sendCommand(["SETL", "lease", token, "value"]), "STORED");
    assert.deepEqual((await waiting).slice(0, 3), ["HIT", "value", "0"]);
    await client.del("lease");
    const [, , next] = await client.sendCommand(["GETL", "lease"]);
    await client.del("lease");
    assert.equal(await client.sendCommand(["SETL", "lease", next, "stale"]), "LOST revoked");
    other.destroy();
  },

  async loaders() {
    assert.equal(JSON.parse(await client.get("user:42")).name, "user 42");
    assert.equal(await client.get("user:100000"), null);
    const users = await client.mGet(Array.from({ length: 50 }, (_, index) => `user:${index + 1}`));
    assert.deepEqual(users.map((user) => JSON.parse(user).id), Array.from({ length: 50 }, (_, index) => index + 1));
    assert.equal(JSON.parse(await client.sendCommand(["LOADTHROUGH", "user:9"])).id, 9);
  },

  async errors() {
    await assert.rejects(client.sendCommand(["NOSUCHCOMMAND"]), /unknown command/);
    await assert.rejects(client.sendCommand(["GET"]), /wrong number of arguments/);
    await assert.rejects(client.sendCommand(["LOADTHROUGH", "nomatch:1"]), /NOLOADER/);
    assert.equal(await client.ping(), "PONG");
  },

  async "no error event"() {
    assert.deepEqual(troubles, []);
  },
};

await client.connect();
await client.flushAll();
for (const [name, test] of Object.entries(tests)) {
  await test();
  console.log(`node-redis ${version}: ${name}`);
}
console.log(`node-redis ${version}: all`);
client.destroy();
process.exit(0);
