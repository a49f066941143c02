// ioredis 6's Cluster against three nodes, connected as an application would.
//
// Usage: ioredis_cluster.mjs PORT, of one of the nodes, with the loader of `tests/tests/cluster.rs` for `user:*`. Ends with 0 if all holds.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { Cluster } from "ioredis";

const port = Number(process.argv[2]);
const version = createRequire(import.meta.url)("ioredis/package.json").version;
const client = new Cluster([{ host: "127.0.0.1", port }], { redisOptions: { maxRetriesPerRequest: 1 } });

const tests = {
  async strings() {
    const numbers = Array.from({ length: 1000 }, (_, index) => index);
    await Promise.all(numbers.map((number) => client.set(`i:${number}`, number)));
    assert.deepEqual(await Promise.all(numbers.map((number) => client.get(`i:${number}`))), numbers.map(String));
    assert.equal(client.nodes("master").length, 3);
    assert.match(await client.cluster("INFO"), /cluster_state:ok/);
  },

  async severalKeys() {
    await client.mset({ "{i}a": 1, "{i}b": 2 });
    assert.deepEqual(await client.mget("{i}a", "{i}b", "{i}c"), ["1", "2", null]);
    await assert.rejects(client.rename("a", "b"), /CROSSSLOT|same slot/);
  },

  async pipelines() {
    const pipeline = client.pipeline();
    for (let index = 0; index < 100; index++) pipeline.set(`{i}p:${index}`, index).get(`{i}p:${index}`);
    const replies = await pipeline.exec();
    replies.forEach(([error, reply], index) => {
      assert.equal(error, null);
      assert.equal(reply, index % 2 === 0 ? "OK" : String((index - 1) / 2));
    });
  },

  // ioredis does not know these commands and sends them to any node, which sends them on, or answers MOVED, which it follows.
  async leases() {
    for (let index = 0; index < 20; index++) {
      const key = `ilease:${index}`;
      const [status, value, token] = await client.call("GETL", key);
      assert.deepEqual([status, value], ["LEASE", null]);
      assert.equal(await client.call("SETL", key, token, "filled"), "STORED");
      assert.deepEqual((await client.call("GETL", key)).slice(0, 2), ["HIT", "filled"]);
    }
  },

  async loaders() {
    const replies = await Promise.all(Array.from({ length: 50 }, (_, index) => client.get(`user:${200 + index}`)));
    replies.forEach((reply, index) => assert.equal(JSON.parse(reply).id, 200 + index));
  },
};

for (const [name, test] of Object.entries(tests)) {
  await test().catch((error) => {
    console.error(`${name}: ${error.stack}`);
    process.exit(1);
  });
}
console.log(`ioredis ${version}: Cluster on ${client.nodes("master").length} nodes`);
client.disconnect();
