// SPDX-License-Identifier: Apache-2.0
//
// lmshm metrics: what a running worker counts, printed once, or served on loopback to whoever scrapes.

import { createServer, type Server } from "node:http";
import { once } from "node:events";
import { ShmError } from "../mod.ts";
import { readArguments } from "./arguments.ts";
import { type Command, interruptible, UsageError } from "./command.ts";
import { METRICS } from "./descriptions/metrics.ts";
import { CONTENT_TYPE, openMetrics } from "./open_metrics.ts";
import { complain, print, printAndWait, printed } from "./terminal.ts";
import { parseWorker, WorkerSource } from "./worker_source.ts";

const CLOSE_MS = 1_000;

interface Listen {
  readonly host: string;
  readonly port: number;
}

/** @throws {UsageError} */
function parseListen(text: string): Listen {
  const [, host = "127.0.0.1", digits] = /^(?:(.*):)?(\d{1,5})$/.exec(text) ?? [];
  const port = Number(digits);
  if (digits === undefined || port > 65_535) {
    throw new UsageError(`--listen takes PORT or HOST:PORT, got "${text}"`);
  }
  const plain = host.replace(/^\[(.*)\]$/, "$1");
  if (plain !== "localhost" && plain !== "::1" && !/^127(\.\d{1,3}){3}$/.test(plain)) {
    throw new UsageError(
      `--listen serves on loopback only (127.0.0.1, [::1] or localhost), got "${text}"; what reaches ` +
        "further, such as an SSH tunnel or a proxy, goes before it",
    );
  }
  return { host: plain, port };
}

async function serve(
  { host, port }: Listen,
  text: () => Promise<string>,
  signal: AbortSignal,
): Promise<void> {
  const server: Server = createServer((request, response) => {
    const path = (request.url ?? "/").split("?")[0];
    const plain = { "content-type": "text/plain; charset=utf-8" };
    if (request.method !== "GET" && request.method !== "HEAD") {
      response.writeHead(405, plain).end("GET only\n");
    } else if (path !== "/metrics") {
      response.writeHead(404, plain).end("the metrics are at /metrics\n");
    } else {
      void text().then(
        (body) => response.writeHead(200, { "content-type": CONTENT_TYPE }).end(body),
        (error) => response.writeHead(500, plain).end(`${error}\n`),
      );
    }
  });
  server.listen(port, host);
  await once(server, "listening", { signal });
  const bound = server.address() as { address: string; port: number };
  const shown = bound.address.includes(":") ? `[${bound.address}]` : bound.address;
  print(`LISTENING http://${shown}:${bound.port}/metrics`);
  // Where that cannot be written, nobody would know where it is.
  if (await printed() === null && !signal.aborted) {
    await new Promise<void>((resolve) => signal.addEventListener("abort", () => resolve()));
  }
  const closed = new Promise<void>((resolve) => server.close(() => resolve()));
  server.closeAllConnections();
  await Promise.race([closed, new Promise((resolve) => setTimeout(resolve, CLOSE_MS))]);
}

export const metrics: Command = {
  run(args) {
    const { values, operands: [worker, ...more] } = readArguments(METRICS, args);
    const { store, directory } = parseWorker(worker);
    if (more.length > 0) throw new UsageError(`metrics takes one WORKER, and got "${more[0]}" too`);
    const listen = values.listen === undefined ? null : parseListen(values.listen);
    if (listen !== null && values.json) throw new UsageError("--json prints once: no --listen");
    return interruptible(values.json, async (signal) => {
      await using source = new WorkerSource(store, values["secret-file"], signal);
      if (listen === null) {
        const info = await source.info();
        if (values.json) print(JSON.stringify(info));
        else await printAndWait([openMetrics(info, directory, Date.now()).trimEnd()]);
        return true;
      }
      let told = "";
      await serve(listen, async () => {
        try {
          const info = await source.info();
          told = "";
          return openMetrics(info, directory, Date.now());
        } catch (error) {
          // Once, and not at every scrape.
          const code = error instanceof ShmError ? error.code : "";
          if (code !== told) complain(`lmshm: ${(error as Error).message}`);
          told = code;
          return openMetrics(null, directory, Date.now());
        }
      }, signal);
      return true;
    }, "it serves no more");
  },
};
