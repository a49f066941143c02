// node-redis 6's cluster client against three nodes, connected as an application would.
//
// Usage: node_redis_cluster.mjs PORT, of one of the nodes, with the loader of `tests/tests/cluster.rs` for `user:*`. Ends with 0 if all holds.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { createCluster } from "redis";

const port = Number(process.argv[2]);
const version = createRequire(import.meta.url)("redis/package.json").version;
const client = createCluster({ rootNodes: [{ socket: { host: "127.0.0.1", port } }] });
const troubles = [];
client.on("error", (error) => troubles.push(error));

const tests = {
  async topology() {
    assert.equal(client.masters.length, 3);
    assert.equal(client.replicas.length, 0);
  },

  async strings() {
    const numbers = Array.from({ length: 1000 }, (_, index) => index);
    await Promise.all(numbers.map((number) => client.set(`n:${number}`, number)));
    assert.deepEqual(await Promise.all(numbers.map((number) => client.get(`n:${number}`))), numbers.map(String));
    assert.equal(await client.incr("n"), 1);
    assert.equal(await client.expire("n", 100), 1);
    assert.equal(await client.del("n"), 1);
  },

  async severalKeys() {
    await client.mSet({ "{n}a": "1", "{n}b": "2" });
    assert.deepEqual(await client.mGet(["{n}a", "{n}b", "{n}c"]), ["1", "2", null]);
    await assert.rejects(client.rename("a", "b"), /CROSSSLOT|same slot/);
  },

  async pipelines() {
    const pipeline = client.multi();
    for (let index = 0; index < 100; index++) pipeline.set(`{n}p:${index}`, String(index)).get(`{n}p:${index}`);
    const replies = await pipeline.execAsPipeline();
    replies.forEach((reply, index) => assert.equal(reply, index % 2 === 0 ? "OK" : String((index - 1) / 2)));
  },

  async leases() {
    for (let index = 0; index < 50; index++) {
      const key = `nlease:${index}`;
      const [status, value, token] = await client.sendCommand(key, false, ["GETL", key]);
      assert.deepEqual([status, value], ["LEASE", null]);
      assert.equal(await client.sendCommand(key, false, ["SETL", key, token, "filled", "EX", "60"]), "STORED");
      assert.deepEqual((await client.sendCommand(key, false, ["GETL", key])).slice(0, 2), ["HIT", "filled"]);
    }
  },

  async loaders() {
    const replies = await Promise.all(Array.from({ length: 50 }, (_, index) => client.get(`user:${200 + index}`)));
    replies.forEach((reply, index) => assert.equal(JSON.parse(reply).id, 200 + index));
    assert.equal(await client.get("user:100000"), null);
  },

  async noErrorEvent() {
    assert.deepEqual(troubles, []);
  },
};

await client.connect();
for (const [name, test] of Object.entries(tests)) {
  await test().catch((error) => {
    console.error(`${name}: ${error.stack}`);
    process.exit(1);
  });
}
console.log(`node-redis ${version}: cluster of ${client.masters.length} nodes`);
client.destroy();
