// SPDX-License-Identifier: Apache-2.0
//
// Who moves objects between the pool and a server, beside this project: the C program, and what a
// TypeScript program has without this project. Bun's own clients are the reason that this file asks
// where it runs.

import { spawn, spawnSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { Buffer } from "node:buffer";
import type { Slot } from "../data_plane/arena.ts";
import {
  type Cost,
  inLanes,
  type Lanes,
  type Mover,
  numberOf,
  timed,
} from "../data_plane/movers.ts";
import { CProgram } from "../support/c_program.ts";

export const C_CLIENT = "C";
export const BUN = "Bun's client";
export const IOREDIS = "ioredis";
export const CURL = "curl";

/** As many connections as the C program opens for so many objects under way; each has a thread. */
const C_CONNECTIONS = 4;
const LARGE_BYTES = 2 ** 20;

/** The C program. Its objects are its own, and it compares them itself. */
export class CClient implements Mover {
  readonly name = C_CLIENT;
  readonly note = "ordinary memory, no checksum; 4 connections, of small objects 1";
  readonly ours = false;
  readonly verifiable = false;
  readonly #program = CProgram.build("redis_client");
  readonly #port: number;

  constructor(port: number) {
    this.#port = port;
  }

  async #run(operation: "put" | "get", slots: readonly Slot[], lanes: Lanes): Promise<Cost> {
    const { byteLength } = slots[0]!.range;
    const [connections, batch] = typeof lanes === "string"
      ? [lanes === "batch" ? 1 : C_CONNECTIONS, 256]
      : byteLength < LARGE_BYTES
      ? [1, lanes]
      : [Math.min(lanes, C_CONNECTIONS), Math.ceil(lanes / C_CONNECTIONS)];
    const numbers = [this.#port, byteLength, slots.length, connections, batch];
    const { wallNs, cpuNs } = await this.#program.run([operation, ...numbers.map(String)]);
    return { wallMs: wallNs! / 1e6, scriptMs: null, otherMs: cpuNs! / 1e6 };
  }

  put(slots: readonly Slot[], lanes: Lanes): Promise<Cost> {
    return this.#run("put", slots, lanes);
  }

  get(slots: readonly Slot[], lanes: Lanes): Promise<Cost> {
    return this.#run("get", slots, lanes);
  }
}

/** A client that runs in this process. What it receives is copied into the pool. */
export class ScriptClient implements Mover {
  readonly ours = false;
  readonly verifiable = true;

  readonly name: string;
  readonly note: string;
  readonly close: () => void;
  readonly #put: (key: string, bytes: Uint8Array<ArrayBuffer>) => Promise<unknown>;
  readonly #get: (key: string) => Promise<Uint8Array | null>;

  constructor(
    name: string,
    note: string,
    calls: {
      readonly put: (key: string, bytes: Uint8Array<ArrayBuffer>) => Promise<unknown>;
      readonly get: (key: string) => Promise<Uint8Array | null>;
      readonly close?: () => void;
    },
  ) {
    this.name = name;
    this.note = note;
    this.close = calls.close ?? (() => {});
    this.#put = calls.put;
    this.#get = calls.get;
  }

  put(slots: readonly Slot[], lanes: Lanes): Promise<Cost> {
    return timed([], () =>
      inLanes(slots, numberOf(lanes), async ({ key, bytes }) => {
        await this.#put(`${this.name}:${key}`, bytes);
      }));
  }

  get(slots: readonly Slot[], lanes: Lanes, got: Uint8Array[]): Promise<Cost> {
    return timed([], () =>
      inLanes(slots, numberOf(lanes), async ({ index, key, bytes }) => {
        const found = await this.#get(`${this.name}:${key}`);
        if (found === null) throw new Error(`${this.name}: ${key} is missing`);
        bytes.set(found);
        got[index] = bytes;
      }));
  }
}

/** @returns the clients of Redis that there are, and why others are not */
export async function redisClients(port: number): Promise<[ScriptClient[], string[]]> {
  const clients: ScriptClient[] = [];
  const notes: string[] = [];
  if (process.versions.bun !== undefined) {
    const { RedisClient } = await import("bun");
    const client = new RedisClient(`redis://127.0.0.1:${port}`);
    await client.connect();
    clients.push(
      new ScriptClient(
        BUN,
        "one connection, pipelined",
        {
          put: (key, bytes) => client.set(key, bytes),
          get: (key) => client.getBuffer(key),
          close: () => client.close(),
        },
      ),
    );
  }
  const folder = process.env.LMSHM_BENCH_IOREDIS;
  if (folder === undefined) {
    notes.push("ioredis does not take part: LMSHM_BENCH_IOREDIS names no folder of the package.");
    return [clients, notes];
  }
  const { version } = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
  const { default: Redis } = await import(join(folder, "built", "index.js"));
  const redis = new Redis({ port, host: "127.0.0.1" });
  clients.push(
    new ScriptClient(
      IOREDIS,
      `${version}, one connection, pipelined`,
      {
        put: (key, { buffer, byteOffset, byteLength }) =>
          redis.set(key, Buffer.from(buffer, byteOffset, byteLength)),
        get: (key) => redis.getBuffer(key),
        close: () => redis.disconnect(),
      },
    ),
  );
  return [clients, notes];
}

export interface Bucket {
  readonly name: string;
  /** http://host:port */
  readonly endpoint: string;
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
}

/** Bun's client of S3; none in Deno. */
export async function s3Clients(bucket: Bucket): Promise<ScriptClient[]> {
  if (process.versions.bun === undefined) return [];
  const { S3Client } = await import("bun");
  const { name, ...login } = bucket;
  const client = new S3Client({ bucket: name, region: "us-east-1", ...login });
  const wholeInOne = { partSize: 64 * 2 ** 20 };
  return [
    new ScriptClient(
      BUN,
      "as many connections as are under way",
      {
        put: (key, bytes) => client.file(key).write(bytes, wholeInOne),
        get: async (key) => new Uint8Array(await client.file(key).arrayBuffer()),
      },
    ),
  ];
}

/** The command, once for all objects. It moves files in memory: it can do no more with a pool. */
export class Curl implements Mover {
  readonly name = CURL;
  readonly note = "the command, between the server and files in /dev/shm; its start counts";
  readonly ours = false;
  readonly verifiable = true;
  readonly #bucket: Bucket;
  readonly #folder: string;

  constructor(bucket: Bucket, folder: string) {
    this.#bucket = bucket;
    this.#folder = folder;
  }

  /** @returns why it cannot take part; null: it can */
  static whyNone(): string | null {
    const { status } = spawnSync("curl", ["--version"]);
    return status === 0 ? null : "curl is not installed, so it does not take part.";
  }

  /** What curl reads or writes for an object. */
  #file(index: number): string {
    return join(this.#folder, `${index}`);
  }

  async #run(slots: readonly Slot[], lanes: Lanes, option: "-T" | "-o"): Promise<Cost> {
    const { name, endpoint, accessKeyId, secretAccessKey } = this.#bucket;
    const quote = (text: string) => `"${text}"`;
    // Its signature is of the path as it stands, so that a name has nothing to encode.
    const lines = slots.flatMap(({ index, bytes }, at) => [
      ...at > 0 ? ["next"] : [],
      `user = ${quote(`${accessKeyId}:${secretAccessKey}`)}`,
      'aws-sigv4 = "aws:amz:us-east-1:s3"',
      ...["silent", "show-error", "fail"],
      `${option === "-T" ? "upload-file" : "output"} = ${quote(this.#file(index))}`,
      `url = ${quote(`${endpoint}/${name}/${CURL}/${bytes.length}/${index}`)}`,
    ]);
    const config = join(this.#folder, "config");
    writeFileSync(config, lines.join("\n"));
    const words = ["-q", "-K", config];
    if (numberOf(lanes) > 1) words.push("-Z", "--parallel-max", `${lanes}`);
    const script = 'TIMEFORMAT="%R %U %S"; time curl "$@" >/dev/null';
    const child = spawn("/bin/bash", ["-c", script, "curl", ...words], {
      stdio: ["ignore", "ignore", "pipe"],
      env: { ...process.env, LC_ALL: "C" },
    });
    let said = "";
    child.stderr!.on("data", (part) => said += part);
    const status = await new Promise((resolve, reject) => {
      child.on("error", reject);
      child.on("close", resolve);
    });
    if (status !== 0) throw new Error(`curl: ${said.split("\n")[0]}`);
    const [wall, user, system] = said.trim().split(/\s+/).slice(-3).map(Number);
    return { wallMs: wall! * 1e3, scriptMs: null, otherMs: (user! + system!) * 1e3 };
  }

  put(slots: readonly Slot[], lanes: Lanes): Promise<Cost> {
    for (const { index, bytes } of slots) writeFileSync(this.#file(index), bytes);
    return this.#run(slots, lanes, "-T");
  }

  async get(slots: readonly Slot[], lanes: Lanes, got: Uint8Array[]): Promise<Cost> {
    const cost = await this.#run(slots, lanes, "-o");
    for (const { index } of slots) got[index] = readFileSync(this.#file(index));
    return cost;
  }
}
