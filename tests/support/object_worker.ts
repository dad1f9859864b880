// SPDX-License-Identifier: Apache-2.0
//
// ClientV2 with a stand-in that speaks protocol version 2 as a script tells it.

import { test } from "node:test";
import type { ShmError } from "../../src/errors.ts";
import { ClientV2 } from "../../src/worker/v2/client.ts";
import type {
  ClientOptions,
  GetTransfer,
  PutTransfer,
  WorkerLimits,
} from "../../src/worker/object_client.ts";
import { SocketTransport } from "../../src/worker/socket_transport.ts";
import type { Users } from "../../src/worker/stranger.ts";
import { type Script, ScriptedWorker, TempDir, withoutWorkers } from "./worker.ts";

export const BOOT = "00000000000000aa";

export interface Hello {
  readonly boot?: string;
  readonly xattr?: 0 | 1;
  readonly window?: number;
}

export function helloAnswer(
  { boot = BOOT, xattr = 1, window = 1024 }: Hello = {},
): string {
  return `OK 2 boot=${boot} worker=scripted/1 xattr=${xattr} window=${window}`;
}

/** "7 GET a 0 5 ; b 5 5" taken apart. */
export interface Asked {
  readonly id: number;
  readonly verb: string;
  /** What follows the verb. */
  readonly text: string;
  /** The words of each object. */
  readonly objects: readonly (readonly string[])[];
}

export function asked(line: string): Asked {
  const [id, verb = "", ...words] = line.split(" ");
  const text = words.join(" ");
  return { id: Number(id), verb, text, objects: text.split(" ; ").map((one) => one.split(" ")) };
}

/** Whether the line is a PUT or GET. */
export function isTransfer(line: string): boolean {
  return /^[0-9]+ (PUT|GET) /.test(line);
}

/** What a willing worker answers: every transfer moves all its bytes, every key exists. */
export function willing(line: string, hello: Hello = {}): string {
  if (line.startsWith("HELLO")) return helloAnswer(hello);
  const { id, verb, text, objects } = asked(line);
  switch (verb) {
    case "PUT":
    case "GET":
      return `${id} OK ${objects.map((words) => words[2]).join(" ; ")}`;
    case "STAT":
      return `${id} OK 10 mtime_ms=1 disk=4096`;
    case "EXISTS":
    case "REMOVE":
      return `${id} OK ${"1".repeat(text.split(" ").length)}`;
    case "CONTAINS":
      return `${id} OK ${text.split(" ").length}`;
    case "CANCEL":
      return `${id} OK 1`;
    case "PING":
      return `${id} OK boot=${hello.boot ?? BOOT}`;
    default:
      return `${id} OK`;
  }
}

/** A worker that does all it is asked. */
export const obliging: Script = (line) => willing(line);

/** A script whose own part answers what concerns it, and leaves the rest to willing(). */
export function scripted(part: Script, hello: Hello = {}): Script {
  return (line, peer) => {
    const answer = part(line, peer);
    return typeof answer === "string" ? answer : willing(line, hello);
  };
}

export interface OpenOptions {
  readonly limits?: Partial<WorkerLimits>;
  readonly secret?: string | null;
  readonly directory?: string;
  readonly users?: Users | undefined;
  readonly onLost?: (error: ShmError) => void;
  readonly transport?: typeof SocketTransport;
}

/** What a client of the worker at that Unix socket is opened with. */
export function clientOptions(path: string, options: OpenOptions): ClientOptions {
  const { limits = {}, secret = null, directory = "", users, onLost } = options;
  const { transport = SocketTransport } = options;
  const address = { kind: "unix", path } as const;
  return {
    open: (handlers) => new transport({ address, connectTimeoutMs: 5_000, users }, handlers),
    handshake: {
      segment: {
        name: "/kv",
        descriptor: null,
        sizeBytes: 1n << 40n,
        baseAddress: 4096n,
        identity: "-",
      },
      secret,
      directory,
    },
    limits: {
      maxInFlight: 64,
      maxInFlightBytes: 1 << 30,
      controlTimeoutMs: 5_000,
      ioTimeoutMs: 5_000,
      closeTimeoutMs: 5_000,
      restarts: { max: 5, windowMs: 60_000, pauseMs: 10 },
      ...limits,
    },
    onLost,
  };
}

export function openObjectClient(path: string, options: OpenOptions = {}): Promise<ClientV2> {
  return ClientV2.open(clientOptions(path, options));
}

export interface ObjectScene {
  readonly worker: ScriptedWorker;
  readonly client: ClientV2;
  /** Losses that the client reported. */
  readonly lost: Error[];
}

/** One test with a scripted worker and a client of it, and a check that nothing is left. */
export function objectScene(
  name: string,
  script: Script,
  limits: Partial<WorkerLimits>,
  body: (scene: ObjectScene) => Promise<void>,
  options: { stubborn?: boolean } = {},
): void {
  test(name, { timeout: 60_000 }, () =>
    withoutWorkers(async () => {
      using dir = new TempDir();
      await using worker = await ScriptedWorker.listen(dir, script, options);
      const lost: Error[] = [];
      const client = await openObjectClient(worker.path, {
        limits,
        onLost: (error) => lost.push(error),
      });
      try {
        await body({ worker, client, lost });
      } finally {
        await client.close();
      }
    }));
}

/** One call, and how often its memory was let go. */
export interface Sent<T> {
  readonly reply: Promise<T>;
  readonly released: number;
}

/** `start` gets a release function; its rejection may be looked at late. */
export function send<T>(start: (release: () => void) => Promise<T>): Sent<T> {
  let released = 0;
  const reply = start(() => void released++);
  reply.catch(() => {});
  return {
    reply,
    get released() {
      return released;
    },
  };
}

export function put(
  client: ClientV2,
  key: string,
  byteLength = 10,
  more: Partial<PutTransfer> = {},
) {
  return send((release) => client.put({ key, offset: 0, byteLength, release, ...more }));
}

export function get(
  client: ClientV2,
  key: string,
  byteLength = 10,
  more: Partial<GetTransfer> = {},
) {
  return send((release) => client.get({ key, offset: 0, byteLength, release, ...more }));
}

/** 0, 1, ... */
export const numbers = (count: number) => Array.from({ length: count }, (_, index) => index);
