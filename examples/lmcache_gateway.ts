// SPDX-License-Identifier: Apache-2.0
//
// A gateway before several engines, each with a server of LMCache beside it: a request goes to the engine
// whose server has the longest beginning of its prompt; where several have as much, to the one that has
// the fewest requests. A server that does not answer soon has nothing, and its engine still serves.
//
//   bun examples/lmcache_gateway.ts PORT MODEL ENGINE=LMCACHE...
//   bun examples/lmcache_gateway.ts 8000 meta-llama/Llama-3.1-8B \
//       http://127.0.0.1:8001=127.0.0.1:5555 http://127.0.0.1:8002=127.0.0.1:5556
//
// Prompts are token ids, which OpenAI's API takes in place of text: POST /v1/completions
// {"prompt": [1, 2, 3...]}. For text, the gateway needs the model's tokenizer.

import { Buffer } from "node:buffer";
import console from "node:console";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import process from "node:process";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { LmcacheClient } from "lmshm/lmcache";

/** Longer than a lookup takes, and shorter than computing what is cached would. */
const LOOKUP_MS = Number(process.env.LOOKUP_MS ?? 200);
const RECONNECT_MS = 1_000;
const MAX_REQUEST_BYTES = 16 * 2 ** 20;

class Engine {
  readonly url: string;
  readonly #address: string;
  readonly #model: string;
  #cache: LmcacheClient | null = null;
  #triedAtMs = -Infinity;
  inFlight = 0;

  constructor(pair: string, model: string) {
    const [url, address] = pair.split("=");
    if (!url || !address) throw new Error(`${pair} is not ENGINE=LMCACHE`);
    [this.url, this.#address, this.#model] = [url, address, model];
  }

  /** How many tokens of the prompt its server has. */
  async cached(tokens: readonly number[]): Promise<number> {
    try {
      await this.#connect();
      if (this.#cache === null) return 0;
      return await this.#cache.lookup(tokens, { timeoutMs: LOOKUP_MS }) * this.#cache.chunkTokens;
    } catch {
      return 0; // It is down, or slow. A client that is connected comes back by itself.
    }
  }

  async close(): Promise<void> {
    await this.#cache?.close();
  }

  async #connect(): Promise<void> {
    const now = performance.now();
    if (this.#cache !== null || now - this.#triedAtMs < RECONNECT_MS) return;
    this.#triedAtMs = now;
    this.#cache = await LmcacheClient.connect({
      address: this.#address,
      model: this.#model,
      timeoutMs: LOOKUP_MS,
    });
  }
}

async function choose(
  engines: readonly Engine[],
  tokens: readonly number[],
): Promise<{ engine: Engine; cached: number }> {
  const found = await Promise.all(
    engines.map(async (engine) => ({ engine, cached: await engine.cached(tokens) })),
  );
  return found.reduce((best, one) => {
    if (one.cached !== best.cached) return one.cached > best.cached ? one : best;
    return one.engine.inFlight < best.engine.inFlight ? one : best;
  });
}

async function bodyOf(request: IncomingMessage): Promise<string> {
  const pieces: Uint8Array[] = [];
  let length = 0;
  for await (const piece of request) {
    length += piece.length;
    if (length > MAX_REQUEST_BYTES) throw new RangeError("the request is too long");
    pieces.push(piece);
  }
  return Buffer.concat(pieces).toString();
}

async function serve(
  engines: readonly Engine[],
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  const text = await bodyOf(request);
  const { prompt } = JSON.parse(text) as { prompt: unknown };
  const tokens = Array.isArray(prompt) && prompt.every(Number.isInteger) ? prompt : [];
  const { engine, cached } = await choose(engines, tokens);
  engine.inFlight++;
  try {
    const gone = new AbortController();
    response.on("close", () => gone.abort());
    const answer = await fetch(`${engine.url}${request.url}`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: text,
      signal: gone.signal,
    });
    response.writeHead(answer.status, {
      "content-type": answer.headers.get("content-type") ?? "application/json",
      "x-cached-tokens": cached,
    });
    await pipeline(Readable.from(answer.body ?? []), response);
  } finally {
    engine.inFlight--;
  }
}

const [port, model, ...pairs] = process.argv.slice(2);
if (port === undefined || model === undefined || pairs.length === 0) {
  console.error("usage: lmcache_gateway.ts PORT MODEL ENGINE=LMCACHE...");
  process.exit(2);
}
const engines = pairs.map((pair) => new Engine(pair, model));
const server = createServer((request, response) => {
  serve(engines, request, response).catch((error) => {
    if (!response.headersSent) response.writeHead(error instanceof RangeError ? 413 : 502);
    response.end(`${error instanceof Error ? error.message : error}\n`);
  });
}).listen(Number(port), "127.0.0.1", () => {
  console.log(`http://127.0.0.1:${(server.address() as AddressInfo).port}/v1/completions`);
});
process.once("SIGTERM", async () => {
  server.close();
  server.closeAllConnections();
  await Promise.all(engines.map((engine) => engine.close()));
  console.log("closed");
  process.exit(0);
});
