// SPDX-License-Identifier: Apache-2.0
//
// ClientV2 at moments when there is no connection to go on with: an object that must be asked
// once more on a connection that was given up already, and a first connection that ends as soon as
// it is made.

import assert from "node:assert/strict";
import { test } from "node:test";
import type { ClientV2 } from "../src/worker/v2/client.ts";
import {
  asked,
  get as getOf,
  isTransfer,
  objectScene,
  openObjectClient,
  scripted,
} from "./support/object_worker.ts";
import { shmError } from "./support/assertions.ts";
import { ScriptedWorker, sleep, TempDir, withoutWorkers } from "./support/worker.ts";

const get = (client: ClientV2, key: string) => getOf(client, key, 10, { timeoutMs: 20_000 });

objectScene(
  "an object that must be asked alone is asked, although its connection was given up meanwhile",
  scripted((line, peer) => {
    if (!isTransfer(line) || peer.index > 0) return undefined;
    const { id, objects } = asked(line);
    // The other request is too late by then.
    if (objects.length > 1) setTimeout(() => peer.send(`${id} OK 10 ; -EOVERFLOW\n`), 800);
    return "";
  }),
  { ioTimeoutMs: 400 },
  async ({ client, worker }) => {
    const late = get(client, "late");
    await sleep(200);
    const [fits, alone] = [get(client, "fits"), get(client, "alone")];
    await assert.rejects(late.reply, shmError("ETIMEDOUT", /within/));
    assert.equal((await fits.reply)!.byteLength, 10);
    assert.equal((await alone.reply)!.byteLength, 10);
    assert.equal(worker.connections, 2);
    worker.dropClients();
  },
  { stubborn: true },
);

test("a worker that is distrusted right after the handshake is replaced when it is needed", {
  timeout: 60_000,
}, () =>
  withoutWorkers(async () => {
    using dir = new TempDir();
    await using worker = await ScriptedWorker.listen(
      dir,
      scripted((line, peer) => {
        if (!line.includes(" ATTACH ") || peer.index > 0) return undefined;
        return `${asked(line).id} OK\n99 OK nobody asked`;
      }),
    );
    const client = await openObjectClient(worker.path);
    assert.equal((await get(client, "k").reply)!.byteLength, 10);
    assert.equal(worker.connections, 2);
    await client.close();
  }));

objectScene(
  "timeoutMs of contains() is for all of its lines together",
  scripted((line, peer) => {
    if (!line.includes(" CONTAINS ")) return undefined;
    const { id, text } = asked(line);
    setTimeout(() => peer.send(`${id} OK ${text.split(" ").length}\n`), 150);
    return "";
  }),
  {},
  async ({ client }) => {
    const keys = Array.from({ length: 2_000 }, (_, index) => `k${index}`);
    await assert.rejects(client.contains(keys, { timeoutMs: 250 }), shmError("ETIMEDOUT"));
    assert.equal(await client.contains(keys), 2_000);
  },
);
