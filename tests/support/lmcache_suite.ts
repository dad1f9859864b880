// SPDX-License-Identifier: Apache-2.0
//
// What a client and a server of LMCache do together: the same tests for the stand-in, by `npm test`,
// and for LMCache itself, by `npm run test:lmcache`.

import assert from "node:assert/strict";
import { test } from "node:test";
import {
  type KvEvent,
  LmcacheClient,
  type LmcacheOptions,
  type Tokens,
} from "../../src/lmcache/mod.ts";
import { ShmSegment } from "../../src/memory/segment.ts";
import { shmError } from "./assertions.ts";
import { eventually, sleep } from "./worker.ts";

/** A server that is started with these, its other settings being alike. */
export interface LmcacheSettings {
  /** --kv-event-log-size. */
  readonly logSize?: number;
  /** Without --shm-name. */
  readonly withoutPool?: boolean;
  /** --supported-transfer-mode lmcache_driven. */
  readonly lmcacheDriven?: boolean;
}

/** A server with chunks of TOKENS_A_CHUNK tokens. */
export interface LmcacheServer extends AsyncDisposable {
  readonly address: string;
  /** By SIGKILL. */
  kill(): Promise<void>;
  /** At the same address, empty. */
  restart(): Promise<void>;
  /** Evicts what is not locked. */
  clear(): Promise<void>;
}

export type StartLmcache = (settings: LmcacheSettings) => Promise<LmcacheServer>;

export const TOKENS_A_CHUNK = 16;

/** Chunks of 4 KiB. */
export const KV_SHAPE = { layers: 2, hiddenSize: 32, dtype: "bfloat16" } as const;
const CHUNK_BYTES = 4096;

const timeout = 120_000;

/** A model for each test, so that they may share a server. */
let models = 0;

/** A client of a server, as most tests need it. */
export function connect(
  server: { readonly address: string },
  options: Partial<LmcacheOptions> = {},
): Promise<LmcacheClient> {
  return LmcacheClient.connect({
    address: server.address,
    model: `model-${models}`,
    kvShape: KV_SHAPE,
    ...options,
  });
}

/** Tokens of so many whole chunks and a bit of another. */
export function prompt(chunks: number, first = 1000): number[] {
  return Array.from({ length: chunks * TOKENS_A_CHUNK + 3 }, (_, at) => first + at);
}

/** Stores chunks that are full of `first`, `first + 1`... */
export function fill(client: LmcacheClient, tokens: Tokens, first = 1): Promise<number> {
  return client.store(tokens, (chunk) => void chunk.bytes.fill(first + chunk.index));
}

async function firstBytes(client: LmcacheClient, tokens: Tokens): Promise<number[] | null> {
  await using lease = await client.retrieve(tokens);
  return lease?.chunks.map(({ bytes }) => {
    assert.ok(bytes.every((byte) => byte === bytes[0]));
    return bytes[0]!;
  }) ?? null;
}

async function inTheEnd(what: string, test: () => Promise<boolean>): Promise<void> {
  const end = performance.now() + 40_000;
  while (!await test()) {
    assert.ok(performance.now() < end, what);
    await sleep(20);
  }
}

/**
 * Defines the tests. They share a server where they can.
 * @param skip why there is no server
 */
export function lmcacheTests(
  what: string,
  start: StartLmcache,
  skip: string | false = false,
): void {
  let shared: Promise<LmcacheServer> | undefined;
  const name = (text: string) => `${what}: ${text}`;
  const define = (text: string, body: (server: LmcacheServer) => Promise<void>) =>
    test(name(text), { skip, timeout }, async () => {
      models++;
      await body(await (shared ??= start({})));
    });
  const defineWith = (
    text: string,
    settings: LmcacheSettings,
    body: (server: LmcacheServer) => Promise<void>,
  ) =>
    test(name(text), { skip, timeout }, async () => {
      models++;
      await using server = await start(settings);
      await body(server);
    });

  define("what is stored is found, and retrieved where it is", async (server) => {
    await using client = await connect(server);
    assert.equal(client.chunkTokens, TOKENS_A_CHUNK);
    const tokens = prompt(3);
    assert.equal(await client.lookup(tokens), 0);
    assert.equal(await client.retrieve(tokens), null);
    assert.equal(await fill(client, tokens), 3);
    assert.equal(await client.lookup(tokens), 3);
    assert.equal(await client.lookup(Uint32Array.from(tokens)), 3);
    assert.equal(await client.lookup(tokens.with(40, 7)), 2);
    assert.equal(await client.lookup(tokens.slice(0, TOKENS_A_CHUNK - 1)), 0);
    assert.equal(await client.lookup([]), 0);

    await using lease = await client.retrieve(tokens);
    const facts = lease!.chunks.map(({ index, firstToken, byteLength, dtype }) => ({
      ...{ index, firstToken, byteLength, dtype },
    }));
    assert.deepEqual(
      facts,
      [0, 1, 2].map((index) => ({
        ...{ index, firstToken: index * TOKENS_A_CHUNK, byteLength: CHUNK_BYTES },
        dtype: "bfloat16",
      })),
    );
    assert.deepEqual([...lease!.chunks[0]!.shape], [2, 2, TOKENS_A_CHUNK, 32]);
    // The same memory, as another process would see it.
    await using pool = await ShmSegment.attach({ name: client.segment!.name!, pin: "none" });
    for (const { offset, byteLength, index, bytes } of lease!.chunks) {
      assert.deepEqual(bytes, new Uint8Array(byteLength).fill(index + 1));
      assert.deepEqual(bytes, pool.bytes(offset, byteLength));
    }
  });

  define("only what is missing is filled", async (server) => {
    await using client = await connect(server);
    await fill(client, prompt(2));
    assert.equal(await client.store(prompt(2), () => assert.fail("it is there")), 0);
    const filled: number[] = [];
    const stored = await client.store(prompt(4), (chunk) => {
      filled.push(chunk.index);
      chunk.bytes.fill(9);
    });
    assert.deepEqual([stored, filled], [2, [2, 3]]);
    assert.deepEqual(await firstBytes(client, prompt(4)), [1, 2, 9, 9]);
  });

  define("views end with their lease", async (server) => {
    await using client = await connect(server);
    await fill(client, prompt(2));
    const kept: Uint8Array[] = [];
    let late;
    {
      using lease = await client.retrieve(prompt(2));
      kept.push(...lease!.chunks.map(({ bytes }) => bytes));
      late = lease!;
      assert.ok(lease!.valid);
    }
    assert.ok(!late.valid);
    assert.deepEqual(kept.map(({ length }) => length), [0, 0]);
    assert.throws(() => late.chunks[0]!.bytes, shmError("EFREED", /it was released/));
    assert.throws(() => late.chunks[0]!.hold("x"), shmError("EFREED"));
    await late.release();
    let slot: Uint8Array | undefined;
    await client.store(prompt(1, 5), ({ bytes }) => {
      slot = bytes.fill(1);
    });
    assert.equal(slot!.length, 0);
  });

  define("what is held is not given back", async (server) => {
    await using client = await connect(server);
    await fill(client, prompt(1));
    const lease = await client.retrieve(prompt(1));
    const release = lease!.chunks[0]!.hold("put somewhere");
    await assert.rejects(lease!.release(), shmError("EBUSY", /put somewhere/));
    await assert.rejects(client.close(), shmError("EBUSY", /put somewhere/));
    assert.equal(lease!.chunks[0]!.bytes[0], 1);
    assert.throws(() => lease![Symbol.dispose](), shmError("EBUSY"));
    release();
    await lease!.release();
  });

  define("a lease keeps its chunks, and two of the same chunks end one by one", async (server) => {
    await using client = await connect(server);
    await fill(client, prompt(2));
    const [one, two] = await Promise.all([client.retrieve(prompt(2)), client.retrieve(prompt(2))]);
    await one!.release();
    await server.clear();
    assert.equal(await client.lookup(prompt(2)), 2);
    assert.deepEqual(two!.chunks.map(({ bytes }) => bytes[7]), [1, 2]);
    await two!.release();
    // What lookups lock is given back in the background.
    await inTheEnd("the chunks are evicted", async () => {
      await server.clear();
      return await client.lookup(prompt(2)) === 0;
    });
  });

  define("chunks of another salt are other chunks", async (server) => {
    await using client = await connect(server, { salt: "tenant-1" });
    await fill(client, prompt(1));
    assert.equal(await client.lookup(prompt(1)), 1);
    assert.equal(await client.lookup(prompt(1), { salt: "tenant-2" }), 0);
    assert.equal(await client.lookup(prompt(1), { salt: "" }), 0);
  });

  define("each worker has its part, and all parts make a chunk", async (server) => {
    await using client = await connect(server, { worldSize: 2 });
    const parts = (worker: number) =>
      client.store(prompt(2), (chunk) => void chunk.bytes.fill(10 * worker + chunk.index), {
        worker,
      });
    assert.equal(await parts(0), 2);
    assert.equal(await client.lookup(prompt(2)), 0);
    assert.equal(await parts(1), 2);
    assert.equal(await client.lookup(prompt(2)), 2);
    for (const worker of [0, 1]) {
      await using lease = await client.retrieve(prompt(2), { worker });
      assert.deepEqual(lease!.chunks.map(({ bytes }) => bytes[0]), [10 * worker, 10 * worker + 1]);
    }
    await inTheEnd("no lock is left of either worker", async () => {
      await server.clear();
      return await client.lookup(prompt(2)) === 0;
    });
  });

  define("chunks of latent attention have one plane", async (server) => {
    const kvShape = { layers: 2, hiddenSize: 64, dtype: "uint8", mla: true } as const;
    await using client = await connect(server, { kvShape });
    await fill(client, prompt(1));
    await using lease = await client.retrieve(prompt(1));
    assert.deepEqual([...lease!.chunks[0]!.shape], [2, TOKENS_A_CHUNK, 64]);
    assert.equal(lease!.chunks[0]!.byteLength, 2 * TOKENS_A_CHUNK * 64);
  });

  define("a shape that is not the engine's is refused", async (server) => {
    await using client = await connect(server);
    await fill(client, prompt(1));
    await using other = await connect(server, { kvShape: { ...KV_SHAPE, hiddenSize: 16 } });
    await assert.rejects(
      other.retrieve(prompt(1)),
      shmError("EINVAL", /kvShape says \[2,2,16,16\] of bfloat16.*engine with another shape/),
    );
  });

  define("a client without a shape looks up only", async (server) => {
    await using client = await connect(server);
    await fill(client, prompt(2));
    await using router = await connect(server, { kvShape: undefined });
    assert.equal(router.segment, null);
    assert.equal(await router.lookup(prompt(3)), 2);
    assert.ok(await router.ping() > 0);
    await assert.rejects(router.retrieve(prompt(1)), shmError("EINVAL", /Give .* a kvShape/));
    await assert.rejects(router.store(prompt(1), () => {}), shmError("EINVAL"));
  });

  define("a store that fails shows nothing, and the next one does it", async (server) => {
    await using client = await connect(server);
    await using other = await connect(server);
    const broken = new Error("broken");
    const failing = client.store(prompt(2), (chunk) => {
      chunk.bytes.fill(77);
      if (chunk.index === 1) throw broken;
    });
    await assert.rejects(failing, (error) => error === broken);
    assert.equal(await other.lookup(prompt(2)), 0);
    // Reserved still, and nobody else's.
    assert.equal(await fill(other, prompt(2)), 0);
    assert.equal(await fill(client, prompt(2), 5), 2);
    assert.deepEqual(await firstBytes(other, prompt(2)), [5, 6]);
  });

  define("what a client reserved and did not fill is never shown", async (server) => {
    await using other = await connect(server);
    {
      await using client = await connect(server);
      await assert.rejects(client.store(prompt(1), () => Promise.reject(new Error("broken"))));
    }
    assert.equal(await other.lookup(prompt(1)), 0);
  });

  define("a pool that is attached already is used, and stays", async (server) => {
    await using first = await connect(server);
    await fill(first, prompt(1));
    await using segment = await ShmSegment.attach({ name: first.segment!.name!, pin: "none" });
    {
      await using client = await connect(server, { segment });
      assert.equal(client.segment, segment);
      await using lease = await client.retrieve(prompt(1));
      assert.equal(lease!.chunks[0]!.segment, segment);
    }
    assert.ok(!segment.closed);
    await using other = await ShmSegment.create({ sizeBytes: 4096, pin: "none" });
    await assert.rejects(
      connect(server, { segment: other }),
      shmError("ESTALE", /not the server's/),
    );
  });

  define("many calls at once", async (server) => {
    await using client = await connect(server);
    const prompts = Array.from({ length: 12 }, (_, at) => prompt(2, at * 1000));
    const stored = await Promise.all(prompts.map((tokens, at) => fill(client, tokens, at)));
    assert.deepEqual(stored, prompts.map(() => 2));
    const bytes = await Promise.all(prompts.map((tokens) => firstBytes(client, tokens)));
    assert.deepEqual(bytes, prompts.map((_, at) => [at, at + 1]));
  });

  defineWith("a server that is killed and restarted", {}, async (server) => {
    await using client = await connect(server);
    await fill(client, prompt(2));
    const lease = await client.retrieve(prompt(2));
    const pool = client.segment;
    await server.kill();
    const gone = /^E(CONN(REFUSED|RESET)|PIPE)$/;
    const failed = (error: { code?: string }) => gone.test(error.code ?? `${error}`);
    await assert.rejects(client.lookup(prompt(2)), failed);
    await assert.rejects(client.retrieve(prompt(2)), failed);
    await assert.rejects(fill(client, prompt(1)), failed);
    await assert.rejects(client.ping(), failed);
    // Nobody else has this memory.
    assert.deepEqual(lease!.chunks.map(({ bytes }) => bytes[0]), [1, 2]);
    await server.restart();
    assert.equal(await client.lookup(prompt(2)), 0);
    assert.deepEqual(lease!.chunks.map(({ bytes }) => bytes[0]), [1, 2]);
    assert.notEqual(client.segment, pool);
    assert.ok(!pool!.closed);
    await lease!.release();
    await eventually("the old pool is unmapped", () => pool!.closed);
    assert.equal(await fill(client, prompt(2), 3), 2);
    assert.deepEqual(await firstBytes(client, prompt(2)), [3, 4]);
  });

  defineWith("a server that is restarted in the middle of a store", {}, async (server) => {
    await using client = await connect(server);
    const store = client.store(prompt(1), async (chunk) => {
      await server.restart();
      chunk.bytes.fill(1);
    });
    await assert.rejects(store, shmError("ESTALE"));
    assert.equal(await client.lookup(prompt(1)), 0);
    assert.equal(await fill(client, prompt(1)), 1);
  });

  defineWith(
    "what is evicted is told to those who read events",
    { logSize: 100 },
    async (server) => {
      await using client = await connect(server);
      await fill(client, prompt(2));
      await inTheEnd("the chunks are evicted", async () => {
        await server.clear();
        return await client.lookup(prompt(2)) === 0;
      });
      const removed: KvEvent[] = [];
      const hashes = () => removed.flatMap((event) => event.kind === "removed" ? event.hashes : []);
      for await (const event of client.events()) {
        assert.equal(event.kind, "removed");
        removed.push(event);
        if (hashes().length >= 2) break;
      }
      assert.equal(new Set(hashes()).size, 2);
      assert.match(hashes()[0]!, /^[0-9a-f]{64}$/);
      // Behind the last one there is nothing yet; what comes next is read from there.
      const rest = client.events({ cursor: removed.at(-1)!.cursor });
      const next = rest.next();
      await fill(client, prompt(1, 50));
      await inTheEnd("another is evicted", async () => {
        await server.clear();
        return await client.lookup(prompt(1, 50)) === 0;
      });
      const { value } = await next;
      assert.equal(value?.kind, "removed");
      await rest.return(undefined as never);

      const stale = client.events({ cursor: removed.at(-1)!.cursor });
      await server.restart();
      const { value: lost } = await stale.next();
      assert.equal(lost?.kind, "lost");
      await stale.return(undefined as never);
    },
  );

  define("a server without a log of events says so", async (server) => {
    await using client = await connect(server);
    await assert.rejects(client.events().next(), shmError("ENOTSUP", /--kv-event-log-size/));
  });

  defineWith("a server without a pool is refused", { withoutPool: true }, async (server) => {
    await assert.rejects(connect(server), shmError("ENOTSUP", /Start it with --shm-name/));
    await using router = await connect(server, { kvShape: undefined });
    assert.equal(await router.lookup(prompt(1)), 0);
  });

  defineWith("a server of another transfer mode is refused", {
    lmcacheDriven: true,
  }, async (server) => {
    await assert.rejects(
      connect(server),
      shmError("ENOTSUP", /--supported-transfer-mode engine_driven/),
    );
  });

  test(name("the server ends"), { skip, timeout }, async () => {
    await (await shared)?.[Symbol.asyncDispose]();
  });
}
