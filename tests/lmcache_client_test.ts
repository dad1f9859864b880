// SPDX-License-Identifier: Apache-2.0
//
// The client of LMCache against the stand-in: what any server must do, and what only one does that
// lies, is slow, or is something else.

import assert from "node:assert/strict";
import { once } from "node:events";
import { cpSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { ShmFileConnector } from "../src/connector/shm_file_connector.ts";
import { type KvEvent, LmcacheClient } from "../src/lmcache/mod.ts";
import { ShmSegment } from "../src/memory/segment.ts";
import { shmError } from "./support/assertions.ts";
import { uniqueName } from "./support/leaks.ts";
import { StandIn } from "./support/lmcache_server.ts";
import {
  connect,
  fill,
  KV_SHAPE,
  lmcacheTests,
  prompt,
  TOKENS_A_CHUNK,
} from "./support/lmcache_suite.ts";
import { runFixture, runScript } from "./support/process.ts";
import { eventually, TempDir } from "./support/worker.ts";

const timeout = 60_000;

lmcacheTests("stand-in", async (settings) => {
  const server = await StandIn.start({ chunkTokens: TOKENS_A_CHUNK, ...settings });
  return {
    address: server.address,
    kill: () => server.kill(),
    restart: () => server.restart(),
    clear: () => Promise.resolve(void server.evictAll()),
    [Symbol.asyncDispose]: () => server[Symbol.asyncDispose](),
  };
});

const start = (options: Parameters<typeof StandIn.start>[0] = {}) =>
  StandIn.start({ chunkTokens: TOKENS_A_CHUNK, ...options });

test("no lock, instance or segment is left of a client", { timeout }, async () => {
  await using server = await start();
  let segment;
  {
    await using client = await connect(server, { worldSize: 2 });
    segment = client.segment;
    await fill(client, prompt(2));
    await client.store(prompt(2), ({ bytes }) => void bytes.fill(1), { worker: 1 });
    await client.lookup(prompt(2));
    await client.retrieve(prompt(2));
    assert.equal(server.instances, 1);
  }
  assert.equal(server.locks, 0);
  assert.equal(server.instances, 0);
  assert.ok(segment!.closed);
  assert.equal(server.calls.filter((name) => name === "ping").length, 0);
});

test("a chunk that is evicted between two steps is a miss", { timeout }, async () => {
  await using server = await start();
  await using client = await connect(server);
  await fill(client, prompt(2));
  const step = Promise.withResolvers<void>();
  server.holdUp.set("prepareRetrieve", step.promise);
  const lease = client.retrieve(prompt(2));
  await eventually("it is asked where they are", () => server.calls.includes("prepareRetrieve"));
  server.clearByForce();
  step.resolve();
  assert.equal(await lease, null);
});

test("a lease renews its locks while it lasts", { timeout }, async () => {
  await using server = await start();
  await using client = await connect(server, { leaseMs: 12_000 });
  await fill(client, prompt(1));
  await using lease = await client.retrieve(prompt(1));
  server.calls.length = 0;
  await eventually("it is renewed", () => server.calls.at(-1) === "endSession");
  assert.deepEqual(server.calls, [
    ...["register", "lookup", "waitPrefetchStatus", "freeLookupLocks", "endSession"],
  ]);
  assert.ok(lease!.valid);
  assert.equal(server.locks, 1);
});

test("a lease whose chunks are gone by force is lost, and says so", { timeout }, async () => {
  await using server = await start();
  await using client = await connect(server, { leaseMs: 12_000 });
  await fill(client, prompt(1));
  const lease = await client.retrieve(prompt(1));
  const { bytes } = lease!.chunks[0]!;
  server.clearByForce();
  await eventually("the lease is lost", () => !lease!.valid);
  assert.equal(bytes.length, 0);
  assert.throws(() => lease!.chunks[0]!.bytes, shmError("EFREED", /has a chunk of it no more/));
  await assert.rejects(lease!.release(), shmError("ESTALE", /retrieve again/));
});

test("a lease that cannot be renewed ends", { timeout }, async () => {
  await using server = await start();
  await using client = await connect(server, { leaseMs: 3_000 });
  await fill(client, prompt(1));
  const lease = await client.retrieve(prompt(1));
  const { bytes } = lease!.chunks[0]!;
  await server.kill();
  await eventually("the lease is lost", () => bytes.length === 0);
  assert.ok(!lease!.valid);
  assert.throws(() => lease![Symbol.dispose](), shmError("ESTALE", /renewed for 3000 ms/));
});

test("a program that is busy for too long does not read what is another's", {
  timeout,
}, async () => {
  await using server = await start();
  await using client = await connect(server, { leaseMs: 50 });
  await fill(client, prompt(1));
  const lease = await client.retrieve(prompt(1));
  const end = performance.now() + 100;
  while (performance.now() < end);
  assert.throws(() => lease!.chunks[0]!.bytes, shmError("EFREED"));
  await assert.rejects(lease!.release(), shmError("ESTALE"));
});

test("an instance that the server has forgotten registers again", { timeout }, async () => {
  await using server = await start();
  await using client = await connect(server);
  await using _other = await connect(server);
  await fill(client, prompt(1));
  server.reap();
  assert.equal(server.instances, 1);
  const lease = await client.retrieve(prompt(1));
  assert.equal(lease!.chunks[0]!.bytes[0], 1);
  await lease!.release();
  assert.equal(server.instances, 2);
  await eventually("what the first attempt locked is free", () => server.locks === 0);
});

test("a client that was idle for long registers before it asks", { timeout }, async () => {
  await using server = await start();
  await using client = await connect(server);
  await fill(client, prompt(1));
  server.reap();
  assert.equal(await client.lookup(prompt(1)), 0);
  const now = performance.now;
  performance.now = () => now.call(performance) + 6 * 60_000;
  try {
    assert.equal(await client.lookup(prompt(1)), 1);
  } finally {
    performance.now = now;
  }
});

test("a fill that never ends is given up, and cannot write any more", { timeout }, async () => {
  await using server = await start();
  await using client = await connect(server, { storeMs: 2_000 });
  let slot: Uint8Array | undefined;
  const store = client.store(prompt(1), ({ bytes }) => {
    slot = bytes;
    return new Promise(() => {});
  });
  await assert.rejects(store, shmError("ETIMEDOUT", /Raise storeMs/));
  await eventually("its view is taken back", () => slot!.length === 0);
  assert.equal(await client.lookup(prompt(1)), 0);
});

test("a fill that looks at its chunk too late is told so", { timeout }, async () => {
  await using server = await start();
  await using client = await connect(server, { storeMs: 1 });
  const store = client.store(prompt(1), (chunk) => {
    const end = performance.now() + 20;
    while (performance.now() < end);
    chunk.bytes.fill(1);
  });
  await assert.rejects(store, shmError("ETIMEDOUT", /Raise storeMs/));
});

test("a store whose chunks are still held when fill has ended is given up", {
  timeout,
}, async () => {
  await using server = await start();
  await using client = await connect(server);
  let release = () => {};
  const store = client.store(prompt(1), (chunk) => {
    release = chunk.hold("get of something");
  });
  await assert.rejects(store, shmError("EBUSY", /get of something/));
  await assert.rejects(client.close(), shmError("EBUSY"));
  release();
  await eventually("the reservation is the client's again", () => {
    return server.calls.at(-1) === "endSession";
  });
  assert.equal(await fill(client, prompt(1)), 1);
});

test("a signal ends a store, and what it reserved is filled by the next", { timeout }, async () => {
  await using server = await start();
  await using client = await connect(server);
  const controller = new AbortController();
  const filling = Promise.withResolvers<void>();
  const reason = new Error("changed my mind");
  const store = client.store(prompt(1), () => {
    controller.abort(reason);
    return filling.promise;
  }, { signal: controller.signal });
  await assert.rejects(store, (error) => error === reason);
  await assert.rejects(client.close(), shmError("EBUSY"));
  filling.resolve();
  await eventually("the fill has ended", () => server.calls.at(-1) === "endSession");
  assert.equal(await fill(client, prompt(1)), 1);
  assert.equal(await client.lookup(prompt(1)), 1);
});

test("every call has a limit, and ends by its signal", { timeout }, async () => {
  await using server = await start();
  await using client = await connect(server);
  await fill(client, prompt(1));
  const never = new Promise(() => {});
  for (const name of ["lookup", "waitPrefetchStatus", "prepareRetrieve", "prepareStore", "ping"]) {
    server.holdUp.set(name, never);
  }
  const reason = new Error("enough");
  const calls = {
    lookup: (options: object) => client.lookup(prompt(1), options),
    retrieve: (options: object) => client.retrieve(prompt(1), options),
    store: (options: object) => client.store(prompt(3), () => {}, options),
    ping: (options: object) => client.ping(options),
  };
  for (const call of Object.values(calls)) {
    await assert.rejects(call({ timeoutMs: 50 }), shmError("ETIMEDOUT"));
    await assert.rejects(call({ signal: AbortSignal.abort(reason) }), (error) => error === reason);
    const controller = new AbortController();
    const pending = call({ signal: controller.signal });
    await new Promise((resolve) => setTimeout(resolve, 20));
    controller.abort(reason);
    await assert.rejects(pending, (error) => error === reason);
  }
  server.holdUp.clear();
  assert.equal(await client.lookup(prompt(1)), 1);
});

test("a closed client says so, also to those who wait", { timeout }, async () => {
  await using server = await start();
  const client = await connect(server);
  server.holdUp.set("lookup", new Promise(() => {}));
  const waiting = client.lookup(prompt(1));
  const events = client.events();
  await eventually("it is asked", () => server.calls.includes("lookup"));
  await Promise.all([
    client.close(),
    assert.rejects(waiting, shmError("ECANCELED", /was closed/)),
  ]);
  await client.close();
  await assert.rejects(client.lookup(prompt(1)), shmError("ECANCELED"));
  await assert.rejects(client.ping(), shmError("ECANCELED"));
  await assert.rejects(events.next(), shmError("ECANCELED"));
  assert.throws(() => client.events(), shmError("ECANCELED"));
});

// --- servers that are not to be believed

type Slots = Record<string, unknown>;

/** What a server says in place of its first slot; and what it is told then. */
const LIES: readonly [string, (context: Slots) => unknown, "EPROTO" | "EINVAL"][] = [
  ["no MessagePack", () => new Uint8Array([0xc1, 1, 2]), "EPROTO"],
  ["bytes that end too early", () => new Uint8Array([0x92, 1]), "EPROTO"],
  ["a number", () => 7, "EPROTO"],
  ["no slots", () => ({}), "EPROTO"],
  ["slots that are no list", () => ({ slots: { length: 1 } }), "EPROTO"],
  ["too many slots", ({ slots }) => ({ slots: [...slots as [], {}] }), "EPROTO"],
  ["a slot that is none", slot(() => 3), "EPROTO"],
  ["an offset beyond the pool", slot((one) => ({ ...one, offset: 2 ** 20 })), "EPROTO"],
  ["an end beyond the pool", slot((one) => ({ ...one, offset: 2 ** 20 - 4095 })), "EPROTO"],
  ["a negative offset", slot((one) => ({ ...one, offset: -4096 })), "EPROTO"],
  ["an offset that is no integer", slot((one) => ({ ...one, offset: 0.5 })), "EPROTO"],
  ["an offset of 64 bits", slot((one) => ({ ...one, offset: 2 ** 63 })), "EPROTO"],
  ["a length that is not the shape's", slot((one) => ({ ...one, length: 4095 })), "EPROTO"],
  ["a length of text", slot((one) => ({ ...one, length: "4096" })), "EPROTO"],
  ["another dtype", slot((one) => ({ ...one, dtype: "float16" })), "EINVAL"],
  ["another shape", slot((one) => ({ ...one, shape: [2, 2, 32, 16] })), "EINVAL"],
  ["a shape of text", slot((one) => ({ ...one, shape: "2,2,16,32" })), "EINVAL"],
  ["two chunks in one place", ({ slots, ...rest }) => {
    const [first] = slots as Slots[];
    return { ...rest, slots: (slots as Slots[]).map(() => ({ ...first })) };
  }, "EPROTO"],
  ["two chunks that overlap", ({ slots, ...rest }) => {
    const [first] = slots as [Slots];
    const second = { ...first, offset: first.offset as number + 4095 };
    return { ...rest, slots: [first, second] };
  }, "EPROTO"],
];

function slot(change: (one: Slots) => unknown): (context: Slots) => unknown {
  return ({ slots, ...rest }) => {
    const [first, ...others] = slots as Slots[];
    return { ...rest, slots: [change(first!), ...others] };
  };
}

for (const [what, lie, code] of LIES) {
  test(`a server that says ${what} is not believed`, { timeout }, async () => {
    await using server = await start();
    await using client = await connect(server);
    await fill(client, prompt(2));
    server.lie = lie;
    await assert.rejects(client.retrieve(prompt(2)), shmError(code, /LMCache/));
    // A list that is too long has no more indices than slots either.
    const store = client.store(prompt(2, 50), () => assert.fail("nothing is to be filled"));
    await assert.rejects(store, shmError(code, /LMCache/));
    server.lie = null;
    await eventually("what was locked is free", () => server.locks === 0);
    assert.equal(await client.lookup(prompt(2)), 2);
  });
}

test("indices of chunks to store are not believed either", { timeout }, async () => {
  await using server = await start();
  await using client = await connect(server);
  for (const chunk_indices of [undefined, [0], [0, 2], [1, 0], [0, 0], [-1, 0], [0, 0.5], "01"]) {
    server.lie = ({ slots }) => ({ slots, chunk_indices });
    const store = client.store(prompt(2, Math.random() * 1e9 | 0), () => assert.fail("not filled"));
    await assert.rejects(store, shmError("EPROTO", /are for chunks/));
  }
});

test("a pool that is not LMCache's, or smaller than it should be, is not touched", {
  timeout,
}, async () => {
  await using server = await start();
  await using stranger = await ShmSegment.create({
    name: uniqueName("stranger"),
    sizeBytes: 1 << 20,
    pin: "none",
  });
  const cases = [
    [{ shmName: stranger.name! }, "EPROTO", /LMCache's are/],
    [{ shmName: "../lmcache_l1_pool_x" }, "EPROTO", /LMCache's are/],
    [{ shmName: "lmcache_l1_pool_/x" }, "EPROTO", /LMCache's are/],
    [{ poolSize: 0n }, "EPROTO", /of 0 bytes/],
    [{ poolSize: -1n }, "EPROTO", /of -1 bytes/],
    [{ poolSize: 2n ** 62n }, "EPROTO", /bytes/],
    [{ poolSize: 2n ** 21n }, "ESTALE", /has 1048576 bytes, and the server says 2097152/],
    [{ shmName: `lmcache_l1_pool_${uniqueName("none")}` }, "ENOENT", /share this \/dev\/shm/],
  ] as const;
  for (const [lie, code, text] of cases) {
    server.poolLie = lie;
    await assert.rejects(connect(server), shmError(code, text));
  }
});

test("a server of the next version is refused, and named", { timeout }, async () => {
  await using server = await start({ version: "0.5.7" });
  await assert.rejects(
    connect(server),
    shmError("EPROTONOSUPPORT", /speaks the protocol of 0\.5\.7 or newer; .* that of 0\.5\.6/),
  );
});

test("a client notices that a server came back in another version", { timeout }, async () => {
  await using server = await start();
  await using client = await connect(server);
  await server.kill();
  (server.options as { version: string }).version = "0.5.7";
  await server.restart();
  await assert.rejects(client.lookup(prompt(1)), shmError("EPROTONOSUPPORT"));
});

test("what is no server of LMCache is refused", { timeout }, async () => {
  const refusals = async (answer: string | null, check: (error: unknown) => true) => {
    const sockets = new Set<{ destroy(): void }>();
    const server = createServer((socket) => {
      sockets.add(socket);
      socket.on("error", () => {});
      if (answer !== null) socket.end(answer);
    }).listen(0, "127.0.0.1");
    await once(server, "listening");
    const { port } = server.address() as { port: number };
    try {
      await assert.rejects(connect({ address: `127.0.0.1:${port}` }, { timeoutMs: 300 }), check);
    } finally {
      for (const socket of sockets) socket.destroy();
      server.close();
    }
    return port;
  };
  const notOne = (error: unknown) => {
    const { code, message } = error as { code: string; message: string };
    assert.match(code, /^(EPROTO|EPIPE|ECONNRESET)$/, message);
    return true as const;
  };
  await refusals("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", notOne);
  // The greeting of ZeroMQ.
  await refusals("\xff\0\0\0\0\0\0\0\x01\x7f\x03", notOne);
  await refusals("", notOne);
  const port = await refusals(null, shmError("ETIMEDOUT"));
  await assert.rejects(
    connect({ address: `127.0.0.1:${port}` }),
    shmError("ECONNREFUSED", /Nobody listens there/),
  );
});

// --- events

test("events: stores and evictions, from a cursor on", { timeout }, async () => {
  await using server = await start({ logSize: 100 });
  await using client = await LmcacheClient.connect({ address: server.address, model: "m" });
  const first = server.announceStore("m", [1, 2]);
  server.announceStore("another", [3]);
  const events = client.events();
  const { value: one } = await events.next();
  assert.equal(one.kind, "stored");
  assert.deepEqual(one, {
    ...{ kind: "stored", cursor: one.cursor, parent: null, tokens: [1, 2] },
    hashes: [Array.from(first, (byte) => byte.toString(16).padStart(2, "0")).join("")],
  });
  const next = events.next();
  server.announceStore("m", [5], first);
  const { value: two } = await next;
  assert.deepEqual([two.kind, two.kind === "stored" && two.parent], ["stored", one.hashes[0]]);
  await events.return(undefined as never);
  for await (const event of client.events({ cursor: one.cursor })) {
    assert.deepEqual(event, two);
    break;
  }
  assert.throws(() => client.events({ cursor: "3" }), RangeError);
});

test("events: what was lost is said, before what follows", { timeout }, async () => {
  await using server = await start({ logSize: 3 });
  await using client = await LmcacheClient.connect({ address: server.address, model: "m" });
  for (let token = 0; token < 5; token++) server.announceStore("m", [token]);
  const seen: KvEvent[] = [];
  for await (const event of client.events()) {
    seen.push(event);
    if (seen.length === 4) break;
  }
  assert.deepEqual(seen.map(({ kind }) => kind), ["lost", "stored", "stored", "stored"]);
  assert.deepEqual(seen.flatMap((event) => event.kind === "stored" ? event.tokens : []), [2, 3, 4]);
  // The cursor of the loss leads to what follows it.
  const [lost, ...rest] = seen;
  const again: KvEvent[] = [];
  for await (const event of client.events({ cursor: lost!.cursor })) {
    again.push(event);
    if (again.length === 3) break;
  }
  assert.deepEqual(again, rest);
});

test("events: a server that ends, a signal and a server without a log", { timeout }, async () => {
  await using server = await start({ logSize: 3 });
  await using client = await LmcacheClient.connect({ address: server.address, model: "m" });
  server.announceStore("m", [1]);
  const events = client.events();
  await events.next();
  const controller = new AbortController();
  const stopped = client.events({ signal: controller.signal });
  await stopped.next();
  const reason = new Error("stop");
  const waiting = stopped.next();
  controller.abort(reason);
  await assert.rejects(waiting, (error) => error === reason);
  const gone = (error: { code?: string }) => /^E(CONN|PIPE)/.test(error.code ?? "");
  await Promise.all([assert.rejects(events.next(), gone), server.kill()]);
  await using silent = await start();
  await using other = await LmcacheClient.connect({ address: silent.address, model: "m" });
  await assert.rejects(other.events().next(), shmError("ENOTSUP", /--kv-event-log-size/));
});

// --- what callers say

test("options and arguments are checked by name", { timeout }, async () => {
  const address = "127.0.0.1:1";
  const refused = (options: object, text: RegExp) =>
    assert.rejects(LmcacheClient.connect({ address, model: "m", ...options }), (error: Error) => {
      assert.ok(error instanceof TypeError || error instanceof RangeError, `${error}`);
      assert.match(error.message, text);
      return true;
    });
  await refused({ adress: "x" }, /adress.*address/);
  for (const bad of ["", "host", "host:0", "host:70000", "http://a/b:1", "a:1/x", "[::1]"]) {
    await refused({ address: bad }, /it is "host:port"/);
  }
  await refused({ address: 5 }, /address must be a string/);
  await refused({ model: "" }, /model/);
  await refused({ model: "a@b" }, /without "@"/);
  await refused({ model: "\ud800" }, /no text/);
  await refused({ salt: "a/b" }, /none of @/);
  await refused({ salt: "x".repeat(129) }, /at most 128/);
  await refused({ worldSize: 0 }, /worldSize/);
  await refused({ timeoutMs: 0 }, /timeoutMs/);
  await refused({ kvShape: { ...KV_SHAPE, dtype: "bf16" } }, /dtype must be one of/);
  await refused({ kvShape: { ...KV_SHAPE, layers: 0 } }, /kvShape.layers/);
  await refused({ kvShape: { ...KV_SHAPE, hidden: 1 } }, /hidden/);
  await using segment = await ShmSegment.create({ sizeBytes: 4096, pin: "none" });
  await refused({ segment }, /with kvShape only/);

  await using server = await start();
  await using client = await connect(server);
  for (const tokens of [[-1], [1.5], [2 ** 32], [NaN], ["1"]]) {
    await assert.rejects(client.lookup(tokens as number[]), RangeError);
  }
  await assert.rejects(client.lookup("text" as never), TypeError);
  await assert.rejects(client.retrieve([], { worker: 1 }), RangeError);
  await assert.rejects(client.store([], 5 as never), TypeError);
  await assert.rejects(client.lookup([], { worker: 1 } as object), TypeError);
});

test("a connector stores a chunk from LMCache's pool, and loads it into it", {
  timeout,
}, async () => {
  using dir = new TempDir();
  await using server = await start();
  await using client = await connect(server);
  await fill(client, prompt(1), 42);
  {
    await using store = await ShmFileConnector.open({
      segment: client.segment!,
      storageDir: dir.path,
    });
    await using lease = await client.retrieve(prompt(1));
    await store.put("m@1@0@aa@bfloat16", lease!.chunks[0]!);
    const stored = await client.store(prompt(1, 9000), async (chunk) => {
      assert.equal((await store.get("m@1@0@aa@bfloat16", chunk))?.byteLength, chunk.byteLength);
    });
    assert.equal(stored, 1);
  }
  await using lease = await client.retrieve(prompt(1, 9000));
  assert.ok(lease!.chunks[0]!.bytes.every((byte) => byte === 42));
});

test("without its libraries the client says what to install", { timeout }, async () => {
  using dir = new TempDir();
  cpSync(fileURLToPath(new URL("../src", import.meta.url)), dir.file("src"), { recursive: true });
  writeFileSync(dir.file("deno.json"), '{ "nodeModulesDir": "manual" }');
  writeFileSync(dir.file("bunfig.toml"), '[install]\nauto = "disable"\n');
  writeFileSync(dir.file("package.json"), '{ "type": "module" }');
  writeFileSync(
    dir.file("main.ts"),
    'import { LmcacheClient } from "./src/lmcache/mod.ts";\n' +
      'await LmcacheClient.connect({ address: "127.0.0.1:1", model: "m" })\n' +
      "  .catch((error) => console.log(error.code, error.hint));\n",
  );
  const ended = await runScript(dir.file("main.ts"), { cwd: dir.path });
  assert.match(
    ended.stdout,
    /^ENOTSUP Install them: bun add @bufbuild\/protobuf@2.17 .*; in Deno: deno add npm:@bufbuild/,
    ended.stderr,
  );
});

test("Deno: looking up needs one permission, which is named", {
  skip: "Deno" in globalThis ? false : "Bun has no permissions",
  timeout,
}, async () => {
  const run = (...denoPermissions: string[]) =>
    runFixture("lmcache_connect.ts", [], { denoPermissions: ["--no-prompt", ...denoPermissions] });
  // Without any, node:child_process gives all.
  assert.match(
    (await run("--allow-env")).stdout,
    /^EPERM Run it with --allow-net=127\.0\.0\.1:1$/m,
  );
  assert.match((await run("--allow-net=127.0.0.1:1")).stdout, /^ECONNREFUSED /m);
});
