// SPDX-License-Identifier: Apache-2.0
//
// ClientV2 with the real worker, as a child process and over a socket: real bytes, real files,
// real signals.

import assert from "node:assert/strict";
import { readdirSync, truncateSync } from "node:fs";
import process from "node:process";
import { test } from "node:test";
import { ShmSegment } from "../src/memory/segment.ts";
import { locateWorker } from "../src/native/locate.ts";
import { parseWorkerAddress } from "../src/worker/address.ts";
import { ClientV2 } from "../src/worker/v2/client.ts";
import { SocketTransport } from "../src/worker/socket_transport.ts";
import { SpawnTransport } from "../src/worker/spawn_transport.ts";
import type { OpenTransport } from "../src/worker/transport.ts";
import { send } from "./support/object_worker.ts";
import { uniqueName } from "./support/leaks.ts";
import { shmError } from "./support/assertions.ts";
import {
  eventually,
  processExists,
  startWorker,
  TempDir,
  withoutWorkers,
} from "./support/worker.ts";

const MIB = 1 << 20;
const SIZE = 64 * MIB;

const numbers = (count: number) => Array.from({ length: count }, (_, index) => index);

function open(
  transport: OpenTransport,
  segment: ShmSegment,
  secret: string | null = null,
): Promise<ClientV2> {
  return ClientV2.open({
    open: transport,
    handshake: {
      segment: {
        name: segment.name,
        descriptor: segment.name === null ? "fd:3" : null,
        sizeBytes: BigInt(segment.sizeBytes),
        baseAddress: segment.address,
        identity: segment.identity,
      },
      secret,
      directory: "",
    },
    limits: {
      maxInFlight: 64,
      maxInFlightBytes: 256 * MIB,
      controlTimeoutMs: 20_000,
      ioTimeoutMs: 30_000,
      closeTimeoutMs: 20_000,
      restarts: { max: 5, windowMs: 60_000, pauseMs: 10 },
    },
  });
}

function spawned(segment: ShmSegment, args: readonly string[]): OpenTransport {
  const options = {
    binary: locateWorker(),
    args: [...args, "--segment-fd", "3"],
    passFd: segment.fd,
  };
  return (handlers) => new SpawnTransport(options, handlers);
}

interface Scene {
  readonly dir: TempDir;
  readonly segment: ShmSegment;
  readonly client: ClientV2;
}

function scene(name: string, body: (scene: Scene) => Promise<void>): void {
  test(name, { timeout: 120_000 }, () =>
    withoutWorkers(async () => {
      using dir = new TempDir();
      const segment = await ShmSegment.create({ sizeBytes: SIZE, pin: "none" });
      try {
        await using client = await open(spawned(segment, ["--root", dir.path]), segment);
        await body({ dir, segment, client });
      } finally {
        await segment.free();
      }
    }));
}

const release = () => {};

scene(
  "objects of many sizes come back byte for byte, with what was stored with them",
  async (s) => {
    const { client, segment, dir } = s;
    const sizes = [0, 1, 4_095, 4_096, 4_097, 65_536, MIB - 1, MIB, MIB + 1, 5 * MIB + 13];
    let seed = 1;
    let offset = 0;
    const objects = sizes.map((byteLength, index) => {
      const view = segment.bytes(offset, Math.max(byteLength, 1)).subarray(0, byteLength);
      for (let at = 0; at < byteLength; at++) view[at] = seed = (seed * 75 + 74) % 65_537;
      const object = { key: `size/${index} \u20ac;%`, offset, byteLength, copy: view.slice() };
      offset += Math.ceil((byteLength + 1) / 4_096) * 4_096;
      return object;
    });
    const stored = await Promise.all(
      objects.map(({ key, offset, byteLength }, index) =>
        client.put({
          key,
          offset,
          byteLength,
          release,
          attributes: { shape: `${index},2`, note: "a b" },
        })
      ),
    );
    assert.deepEqual(stored.map((one) => one!.byteLength), sizes);
    segment.bytes(0, offset).fill(0);
    const loaded = await Promise.all(
      objects.map(({ key, offset, byteLength }) =>
        client.get({ key, offset, byteLength: byteLength + 1, release })
      ),
    );
    loaded.forEach((one, index) => {
      const { byteLength, copy, offset } = objects[index]!;
      assert.equal(one!.byteLength, byteLength);
      assert.equal(one!.crc32c, stored[index]!.crc32c);
      if (client.keepsMetadata) {
        assert.deepEqual(one!.attributes, { shape: `${index},2`, note: "a b" });
      }
      const view = segment.bytes(offset, byteLength + 1).subarray(0, byteLength);
      assert.ok(view.every((byte, at) => byte === copy[at]), `${byteLength} bytes`);
    });
    const keys = objects.map(({ key }) => key);
    const listed: string[] = [];
    for await (const page of client.list({ prefix: "size/", limit: 3 })) listed.push(...page);
    assert.deepEqual(listed.sort(), keys.toSorted());
    assert.deepEqual(await client.exists([...keys, "no"]), [...keys.map(() => true), false]);
    assert.equal(await client.contains([...keys.slice(0, 4), "no", ...keys]), 4);
    const stat = await client.stat(keys[5]!);
    assert.equal(stat!.byteLength, 65_536);
    assert.ok(stat!.diskBytes >= 65_536 && Math.abs(stat!.mtimeMs - Date.now()) < 60_000);
    assert.equal(await client.stat("no"), null);
    assert.deepEqual(await client.remove([...keys, "no"]), [...keys.map(() => true), false]);
    assert.deepEqual(readdirSync(dir.path).filter((name) => name.endsWith(".data")), []);
  },
);

scene("a thousand small objects of one turn, hits, misses and objects too long", async (s) => {
  const { client, segment } = s;
  segment.bytes(0, SIZE / 4).fill(7);
  await Promise.all(
    numbers(1_000).map((index) =>
      client.put({
        key: `k${index}`,
        offset: index * 4_096,
        byteLength: index,
        release,
        priority: "low",
      })
    ),
  );
  const results = await Promise.allSettled(
    numbers(1_500).map((index) =>
      client.get({
        key: `k${index}`,
        offset: index * 4_096,
        byteLength: index % 10 === 9 ? index - 1 : index,
        release,
        priority: index % 2 ? "high" : "normal",
      })
    ),
  );
  results.forEach((result, index) => {
    if (index >= 1_000) {
      assert.equal(result.status === "fulfilled" && result.value, null);
    } else if (index % 10 === 9) {
      assert.ok(result.status === "rejected");
      assert.ok(shmError("EMSGSIZE")(result.reason));
      assert.equal(result.reason.details.objectBytes, index);
    } else {
      assert.ok(result.status === "fulfilled");
      assert.equal(result.value!.byteLength, index);
    }
  });
});

scene("objects with long attributes outgrow a line and still all come", async ({ client }) => {
  if (!client.keepsMetadata) return;
  // Coded they are three times as long: 64 of them do not fit into one answer.
  const attributes = { a: "\u20ac".repeat(500) };
  const all = numbers(64);
  await Promise.all(
    all.map((index) =>
      client.put({ key: `k${index}`, offset: 0, byteLength: 100, release, attributes })
    ),
  );
  const loaded = await Promise.all(
    all.map((index) =>
      client.get({ key: `k${index}`, offset: index * 128, byteLength: 100, release })
    ),
  );
  for (const one of loaded) assert.deepEqual(one!.attributes, attributes);
});

scene("a file that was changed is told from what was stored", async ({ client, dir }) => {
  await client.put({ key: "k", offset: 0, byteLength: 5_000, release });
  if (!client.keepsMetadata) return;
  truncateSync(dir.file("k.data"), 4_000);
  await assert.rejects(
    client.get({ key: "k", offset: 0, byteLength: 5_000, release }),
    shmError("EBADMSG", /get k/),
  );
  await assert.rejects(
    client.put({ key: "k", offset: SIZE - 10, byteLength: 11, release }),
    shmError("ERANGE"),
  );
});

scene("a worker that is killed in mid-flight is replaced, and nothing is lost", async (s) => {
  const { client, segment } = s;
  segment.bytes(0, 32 * MIB).fill(9);
  for (let round = 0; round < 3; round++) {
    const pid = client.pid!;
    const all = [
      ...numbers(6).map((index) =>
        send((free) =>
          client.put({ key: `big${index}`, offset: 0, byteLength: 32 * MIB, release: free })
        )
      ),
      ...numbers(300).map((index) =>
        send((free) =>
          client.put({ key: `k${index}`, offset: 0, byteLength: 4_096, release: free })
        )
      ),
    ];
    setTimeout(() => process.kill(pid, "SIGKILL"), 3 + round * 5);
    const stored = await Promise.all(all.map((sent) => sent.reply));
    assert.ok(stored.slice(6).every((one) => one!.byteLength === 4_096));
    assert.ok(all.every((sent) => sent.released === 1));
    await eventually("the worker has gone", () => !processExists(pid));
    // It may have died after its last answer: then the next call finds out.
    await client.ping();
  }
  assert.equal(client.restarts, 3);
  assert.equal(client.outstanding, 0);
});

scene(
  "an aborted call frees its memory and leaves the worker well",
  async ({ client, segment }) => {
    segment.bytes(0, 32 * MIB).fill(5);
    for (let round = 0; round < 20; round++) {
      const abort = new AbortController();
      const sent = send((free) =>
        client.put({
          key: `big${round}`,
          offset: 0,
          byteLength: 32 * MIB,
          release: free,
          signal: abort.signal,
        })
      );
      setTimeout(() => abort.abort(), round / 4);
      await sent.reply.catch(() => {});
      await eventually("the memory is let go", () => sent.released === 1);
    }
    assert.equal(client.restarts, 0);
    assert.ok(await client.ping() >= 0);
    assert.equal(client.outstanding, 0);
  },
);

test(
  "a worker without --root has no version 2",
  { timeout: 60_000 },
  () =>
    withoutWorkers(async () => {
      const segment = await ShmSegment.create({ sizeBytes: MIB, pin: "none" });
      try {
        await assert.rejects(
          open(spawned(segment, []), segment),
          shmError("EINVAL", /start it with --root/),
        );
      } finally {
        await segment.free();
      }
    }),
);

for (const listen of ["unix", "tcp"] as const) {
  test(
    `a worker at a ${listen} socket serves several clients`,
    { timeout: 60_000 },
    () =>
      withoutWorkers(async () => {
        using dir = new TempDir();
        using root = new TempDir();
        const secret = listen === "tcp" ? "0123456789abcdef" : null;
        const name = uniqueName("object");
        const segment = await ShmSegment.create({ sizeBytes: MIB, pin: "none", name });
        try {
          await using worker = await startWorker(
            listen === "unix" ? dir.file("w.sock") : "127.0.0.1:0",
            root.path,
            [],
            secret === null ? {} : { LMSHM_SECRET: secret },
          );
          const address = parseWorkerAddress(worker.address);
          const transport: OpenTransport = (handlers) =>
            new SocketTransport({ address, connectTimeoutMs: 10_000 }, handlers);
          await using one = await open(transport, segment, secret);
          await using two = await open(transport, segment, secret);
          segment.bytes(0, 10).fill(3);
          await one.put({ key: "k", offset: 0, byteLength: 10, release });
          assert.equal(
            (await two.get({ key: "k", offset: 20, byteLength: 10, release }))!.byteLength,
            10,
          );
          assert.deepEqual([...segment.bytes(20, 10)], numbers(10).map(() => 3));
          if (secret !== null) {
            await assert.rejects(open(transport, segment, "0123456789abcdeX"), shmError("EACCES"));
            await assert.rejects(open(transport, segment), shmError("EACCES", /secret/));
          }
        } finally {
          await segment.free();
        }
      }),
  );
}
