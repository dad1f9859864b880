// SPDX-License-Identifier: Apache-2.0
//
// The dashboard's HTTP server: the files of the page, and /data, which the page asks for once a second
// with what it has already. Who may read is decided in guard.ts.

import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import { URL, type URLSearchParams } from "node:url";
import { publishedPools, type SeenPool } from "../../memory/published_pools.ts";
import { ASSETS } from "./assets.ts";
import { type Policy, refusalOf } from "./guard.ts";
import { COLUMNS } from "./history.ts";
import type { Listen } from "./listen.ts";
import type { WorkerWatch } from "./watch.ts";

const CLOSE_MS = 1_000;
const REQUEST_MS = 10_000;
/** A browser opens six; who is on a phone, and who forgot a tab. */
const MAX_CONNECTIONS = 100;
/** How old the maps that are shown may be. */
const POOLS_MS = 500;
/** A map has up to a hundred kilobytes. */
const MAX_POOLS = 24;

/** The page uses nothing but what this server serves, and nobody frames it. */
const HEADERS = {
  "content-security-policy": [
    "default-src 'none'",
    ...["script-src", "style-src", "img-src", "connect-src"].map((what) => `${what} 'self'`),
    ...["base-uri", "form-action", "frame-ancestors"].map((what) => `${what} 'none'`),
    "require-trusted-types-for 'script'",
  ].join("; "),
  "cross-origin-resource-policy": "same-origin",
  "cross-origin-opener-policy": "same-origin",
  "x-content-type-options": "nosniff",
  "x-frame-options": "DENY",
  "referrer-policy": "no-referrer",
  "permissions-policy": "camera=(), geolocation=(), microphone=()",
  "cache-control": "no-store",
} as const;

/** The pools, looked for at most every POOLS_MS, and numbered so that a page need not get them again. */
class Pools {
  readonly #look: () => readonly SeenPool[];
  #seen: readonly SeenPool[] = [];
  #text = "";
  #version = 0;
  #lookedMs = -Infinity;

  constructor(look: () => readonly SeenPool[]) {
    this.#look = look;
  }

  since(version: number): { version: number; list?: readonly unknown[]; more?: number } {
    if (performance.now() - this.#lookedMs > POOLS_MS) {
      this.#seen = this.#look();
      this.#lookedMs = performance.now();
      const text = JSON.stringify(this.#seen);
      if (text !== this.#text) this.#version++;
      this.#text = text;
    }
    if (version === this.#version) return { version };
    return {
      version: this.#version,
      list: this.#seen.slice(0, MAX_POOLS).map(compact),
      more: Math.max(0, this.#seen.length - MAX_POOLS),
    };
  }
}

/** Ranges as numbers alone: state, bytes, objects. */
function compact({ map, ...pool }: SeenPool): unknown {
  const { totalBytes, cellBytes, ranges } = map;
  return {
    ...pool,
    totalBytes,
    cellBytes,
    ranges: ranges.map(({ state, sizeBytes, objects }) => [state, sizeBytes, objects]),
  };
}

export interface DashboardOptions {
  readonly listen: Listen;
  readonly policy: Policy;
  /** As it was named; null: none was. */
  readonly worker: { readonly text: string; readonly watch: WorkerWatch } | null;
  readonly signal: AbortSignal;
  /** Called with the address and port, once it listens. */
  readonly listening: (address: string, port: number) => void;
}

/** Serves until the signal aborts. @throws {Error} when the address cannot be had. */
export async function serveDashboard(options: DashboardOptions): Promise<void> {
  const { listen: { host, port }, policy, worker, signal, listening } = options;
  const pools = new Pools(publishedPools);
  const run = randomBytes(8).toString("hex");

  const data = (query: URLSearchParams): string => {
    const number = (name: string) => query.get("run") === run ? Number(query.get(name) ?? -1) : -1;
    return JSON.stringify({
      run,
      nowMs: Date.now(),
      columns: COLUMNS,
      worker: worker && {
        text: worker.text,
        ...worker.watch.state,
        fine: worker.watch.fine.from(number("fine")),
        coarse: worker.watch.coarse.from(number("coarse")),
      },
      pools: pools.since(number("pools")),
    });
  };

  const answer = (request: IncomingMessage, response: ServerResponse) => {
    const { pathname, searchParams } = new URL(request.url ?? "/", "http://localhost");
    const { method, headers } = request;
    const send = (status: number, type: string, text: string, more = {}) => {
      const body = new TextEncoder().encode(text);
      const length = { "content-length": body.length };
      response.writeHead(status, { ...HEADERS, "content-type": type, ...length, ...more });
      response.end(method === "HEAD" ? undefined : body);
    };
    const refusal = refusalOf({ method, headers, data: pathname === "/data" }, policy);
    if (refusal !== null) {
      const { status, text } = refusal;
      const challenge = status === 401 ? { "www-authenticate": 'Bearer realm="lmshm"' } : {};
      return send(status, "text/plain; charset=utf-8", `${text}\n`, challenge);
    }
    if (pathname === "/data") return send(200, "application/json", data(searchParams));
    const asset = Object.hasOwn(ASSETS, pathname) ? ASSETS[pathname]! : null;
    if (asset !== null) return send(200, asset.type, asset.text);
    send(404, "text/plain; charset=utf-8", "the page is at /\n");
  };

  const server = createServer((request, response) => {
    try {
      answer(request, response);
    } catch {
      // A URL that is none.
      if (!response.headersSent) response.writeHead(400, HEADERS);
      response.end();
    }
  });
  server.maxConnections = MAX_CONNECTIONS;
  server.requestTimeout = REQUEST_MS;
  server.headersTimeout = REQUEST_MS;
  server.listen(port, host);
  await once(server, "listening", { signal });
  const bound = server.address() as { address: string; port: number };
  listening(bound.address, bound.port);
  await new Promise<void>((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener("abort", () => resolve());
  });
  const closed = new Promise<void>((resolve) => server.close(() => resolve()));
  server.closeAllConnections();
  await Promise.race([closed, new Promise((resolve) => setTimeout(resolve, CLOSE_MS))]);
}
