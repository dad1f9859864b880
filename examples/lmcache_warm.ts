// SPDX-License-Identifier: Apache-2.0
//
// Keeps the chunks of some prompts (system prompts, say) of a server of LMCache in files, and warms
// another server, or the same one after a restart, from them. A worker of lmshm moves the bytes between the
// server's own pool and the files; none of them passes through this program.
//
//   bun examples/lmcache_warm.ts save ADDRESS MODEL SHAPE DIRECTORY PROMPTS
//   bun examples/lmcache_warm.ts load ADDRESS MODEL SHAPE DIRECTORY PROMPTS
//   bun examples/lmcache_warm.ts save 127.0.0.1:5555 gpt2 12,768,bfloat16 /var/tmp/warm prompts.jsonl
//
// SHAPE is layers, hidden size and dtype of the engine; PROMPTS a file with a list of token ids a line.

import console from "node:console";
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import process from "node:process";
import { type DTypeName, ShmFileConnector } from "lmshm";
import { type KvChunk, LmcacheClient } from "lmshm/lmcache";

/** By the model, and all tokens up to the end of the chunk: what the chunk depends on. */
function keyOf(model: string, tokens: readonly number[], end: number): string {
  const hash = createHash("sha256").update(`${model}\n`);
  return `warm-${hash.update(Uint32Array.from(tokens.slice(0, end))).digest("hex")}`;
}

async function main(args: string[]): Promise<void> {
  const [what, address, model, shape, storageDir, prompts] = args;
  if ((what !== "save" && what !== "load") || prompts === undefined) {
    throw new Error("usage: lmcache_warm.ts save|load ADDRESS MODEL SHAPE DIRECTORY PROMPTS");
  }
  const [layers, hiddenSize, dtype] = shape!.split(",");
  await using client = await LmcacheClient.connect({
    address: address!,
    model: model!,
    kvShape: {
      layers: Number(layers),
      hiddenSize: Number(hiddenSize),
      dtype: dtype as DTypeName,
    },
  });
  await using store = await ShmFileConnector.open({
    segment: client.segment!,
    storageDir: storageDir!,
  });
  const lists = readFileSync(prompts, "utf8").split("\n").filter((line) => line !== "");
  let chunks = 0;
  for (const line of lists) {
    const tokens: number[] = JSON.parse(line);
    const key = (chunk: KvChunk) => keyOf(model!, tokens, chunk.firstToken + client.chunkTokens);
    if (what === "save") {
      await using lease = await client.retrieve(tokens);
      for (const chunk of lease?.chunks ?? []) {
        if (await store.put(key(chunk), chunk, { ifAbsent: true })) chunks++;
      }
    } else {
      // As far as the files go: a chunk is of use only with all before it.
      const keys = Array.from(
        { length: Math.floor(tokens.length / client.chunkTokens) },
        (_, at) => keyOf(model!, tokens, (at + 1) * client.chunkTokens),
      );
      const there = await store.batchedContains(keys);
      chunks += await client.store(tokens.slice(0, there * client.chunkTokens), async (chunk) => {
        const loaded = await store.get(key(chunk), chunk);
        if (loaded?.byteLength !== chunk.byteLength) throw new Error(`${key(chunk)} is gone`);
      });
    }
  }
  console.log(
    `OK: ${chunks} chunks of ${lists.length} prompts ${what === "save" ? "saved" : "loaded"}`,
  );
}

main(process.argv.slice(2)).catch((error) => {
  console.error(error instanceof Error ? error.message : error);
  process.exitCode = 1;
});
