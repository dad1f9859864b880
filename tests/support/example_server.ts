// SPDX-License-Identifier: Apache-2.0
//
// Examples that serve HTTP, as processes, and the gateway before engines that are made up: they say which
// of them was asked.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createServer } from "node:http";
import process from "node:process";
import { fixtureCommand } from "./process.ts";

export interface ExampleServer extends AsyncDisposable {
  readonly url: string;
}

/** Starts an example that says its address, which has `path` in it, and ends by SIGTERM. */
export async function startExample(
  path: string,
  example: string,
  words: readonly string[],
  env: Record<string, string> = {},
): Promise<ExampleServer> {
  const [command, args] = fixtureCommand(`../../examples/${example}`, ...words);
  const child = spawn(command, args, {
    stdio: ["ignore", "pipe", "inherit"],
    env: { ...process.env, ...env },
  });
  const exited = once(child, "close");
  let said = "";
  const url = await new Promise<string>((resolve, reject) => {
    child.stdout.on("data", (data) => {
      said += data;
      const found = said.match(/^http:\S+/m)?.[0].split(path);
      if (found && found.length > 1) resolve(found[0]!);
    });
    void exited.then(([code]) => reject(new Error(`the server ended with status ${code}`)));
  });
  return {
    url,
    [Symbol.asyncDispose]: async () => {
      child.kill("SIGTERM");
      await exited;
      // Its status is no proof: Deno reports the signal that was sent, however the child ended.
      assert.match(said, /^closed$/m);
    },
  };
}

export interface Answer {
  readonly status: number;
  readonly headers: Headers;
  readonly bytes: Uint8Array;
}

export async function ask(url: string, request: RequestInit = {}): Promise<Answer> {
  const response = await fetch(url, { ...request, signal: AbortSignal.timeout(60_000) });
  const { status, headers } = response;
  return { status, headers, bytes: new Uint8Array(await response.arrayBuffer()) };
}

export interface Gateway extends AsyncDisposable {
  /** Which engine a prompt goes to, by number, and how many tokens of it are said to be cached: "1 32". */
  routed(prompt: unknown): Promise<string>;
}

/** examples/lmcache_gateway.ts before an engine beside each of the servers. */
export async function startGateway(
  model: string,
  servers: readonly { readonly address: string }[],
): Promise<Gateway> {
  const stack = new AsyncDisposableStack();
  const pairs: string[] = [];
  for (const [at, { address }] of servers.entries()) {
    const engine = createServer((_, response) => {
      response.writeHead(200, { "content-type": "application/json" });
      response.end(JSON.stringify({ engine: at }));
    }).listen(0, "127.0.0.1");
    await once(engine, "listening");
    stack.defer(() => {
      engine.close();
      engine.closeAllConnections();
    });
    pairs.push(`http://127.0.0.1:${(engine.address() as { port: number }).port}=${address}`);
  }
  const path = "/v1/completions";
  // A busy machine answers later than a gateway that serves would wait for.
  const env = { LOOKUP_MS: "20000" };
  const { url } = stack.use(
    await startExample(path, "lmcache_gateway.ts", ["0", model, ...pairs], env),
  );
  return {
    async routed(prompt) {
      const answer = await ask(`${url}${path}`, {
        method: "POST",
        body: JSON.stringify({ prompt }),
      });
      assert.equal(answer.status, 200);
      const { engine } = JSON.parse(new TextDecoder().decode(answer.bytes));
      return `${engine} ${answer.headers.get("x-cached-tokens")}`;
    },
    [Symbol.asyncDispose]: () => stack.disposeAsync(),
  };
}
