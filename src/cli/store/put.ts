// SPDX-License-Identifier: Apache-2.0
//
// lmshm put: files, or what comes on stdin, become objects.

import { type FileHandle, open, readdir, stat } from "node:fs/promises";
import { basename, join } from "node:path";
import process from "node:process";
import type { Metadata, ShmRange } from "../../mod.ts";
import { ShmError } from "../../errors.ts";
import { readArguments } from "../arguments.ts";
import { type Command, integerOption, sizeOption, UsageError } from "../command.ts";
import { PUT } from "../descriptions/store.ts";
import { inLanes } from "../lanes.ts";
import { parseStore } from "./address.ts";
import { type Done, reportedCommand } from "./report.ts";
import { withLogin } from "./login.ts";
import { StoreSession } from "./session.ts";

const PIECE_BYTES = 16 * 2 ** 20;
const STDIN = "-";

interface Source {
  readonly key: string;
  /** "-": stdin. */
  readonly file: string;
}

function metadataOf(given: readonly string[] | undefined): Metadata | undefined {
  if (given === undefined) return undefined;
  return Object.fromEntries(given.map((text) => {
    const [, name, value] = /^([a-z0-9_]{1,32})=(.*)$/s.exec(text) ?? [];
    if (name === undefined || value === undefined) {
      throw new UsageError(
        `--metadata takes NAME=TEXT, the name 1 to 32 of a-z, 0-9 and _, got "${text}"`,
      );
    }
    return [name, value];
  }));
}

/** The files below a directory, as paths relative to it. */
async function* filesBelow(directory: string): AsyncGenerator<string, void, undefined> {
  for (const entry of await readdir(directory, { withFileTypes: true })) {
    if (entry.isFile()) yield entry.name;
    if (!entry.isDirectory()) continue;
    for await (const below of filesBelow(join(directory, entry.name))) {
      yield `${entry.name}/${below}`;
    }
  }
}

async function* sourcesOf(
  files: readonly string[],
  recursive: boolean,
  key: string | undefined,
  prefix: string,
): AsyncGenerator<Source, void, undefined> {
  for (const file of files) {
    const found = file === STDIN ? null : await stat(file).catch(() => null);
    if (recursive && found?.isDirectory()) {
      for await (const below of filesBelow(file)) {
        yield { key: prefix + below, file: join(file, below) };
      }
    } else yield { key: prefix + (key ?? basename(file)), file };
  }
}

/** Reads a file into the range. @returns how many bytes there were, no more than it has room for. */
async function fill(session: StoreSession, file: FileHandle, range: ShmRange): Promise<number> {
  let done = 0;
  while (done < range.byteLength) {
    const length = Math.min(PIECE_BYTES, range.byteLength - done);
    const { bytesRead } = await file.read(session.bytesOf(range, done, length), 0, length, null);
    if (bytesRead === 0) break;
    done += bytesRead;
  }
  return done;
}

/** All of stdin, which says nowhere how long it is. Who ends the command does not wait for its end. */
async function readStdin(session: StoreSession, signal: AbortSignal): Promise<Uint8Array[]> {
  signal.throwIfAborted();
  const interrupted = new Promise<never>((_, reject) => {
    signal.addEventListener("abort", () => {
      process.stdin.destroy();
      reject(signal.reason);
    }, { once: true });
  });
  return await Promise.race([piecesOfStdin(session), interrupted]);
}

async function piecesOfStdin(session: StoreSession): Promise<Uint8Array[]> {
  const pieces: Uint8Array[] = [];
  let length = 0;
  for await (const piece of process.stdin) {
    pieces.push(piece as Uint8Array);
    length += (piece as Uint8Array).byteLength;
    if (length <= session.limitBytes) continue;
    throw new ShmError(`stdin has more than ${session.limitBytes} bytes`, {
      code: "EFBIG",
      operation: "read stdin",
      hint: "Allow more memory with --memory",
    });
  }
  return pieces;
}

async function putStdin(
  session: StoreSession,
  put: PutRange,
  signal: AbortSignal,
): Promise<Done> {
  const pieces = await readStdin(session, signal);
  const byteLength = pieces.reduce((sum, piece) => sum + piece.byteLength, 0);
  return await session.withRange(byteLength, async (range, [store]) => {
    let at = 0;
    for (const piece of pieces) {
      session.bytesOf(range, at, piece.byteLength).set(piece);
      at += piece.byteLength;
    }
    return doneBy(await put(range, store!), byteLength);
  });
}

/** False: there was an object, and it stayed. */
type PutRange = (
  range: ShmRange,
  store: StoreSession["ask"][number],
) => Promise<boolean>;

/** Nobody has asked how long the object is that was there. */
const SKIPPED: Done = { skipped: true };

function doneBy(stored: boolean, byteLength: number): Done {
  return stored ? { byteLength, skipped: false } : SKIPPED;
}

/** @param isThere whether there is an object, so that the file need not be read */
async function putFile(
  session: StoreSession,
  path: string,
  isThere: () => Promise<boolean>,
  put: PutRange,
): Promise<Done> {
  // Before it is opened: opening a pipe waits until somebody writes to it.
  const kind = await stat(path);
  if (!kind.isFile()) {
    throw new ShmError(`${path} is no regular file`, {
      code: kind.isDirectory() ? "EISDIR" : "EINVAL",
      operation: "read file",
      hint: kind.isDirectory()
        ? "Take what is in it with --recursive"
        : "What a pipe gives comes in by stdin: put - --key KEY",
    });
  }
  if (await isThere()) return SKIPPED;
  await using file = await open(path, "r");
  const found = await file.stat();
  return await session.withRange(found.size, async (range, [store]) => {
    const byteLength = await fill(session, file, range);
    if (byteLength !== found.size) {
      throw new ShmError(`${path} became shorter while it was read`, {
        code: "EAGAIN",
        operation: "read file",
      });
    }
    return doneBy(await put(range, store!), byteLength);
  });
}

export const put: Command = {
  run(args) {
    const { values, operands: [where, ...files] } = readArguments(PUT, args);
    const store = withLogin(parseStore(where), values["store-secret-file"]);
    const { key, prefix = "", recursive, json } = values;
    if (files.length === 0) throw new UsageError("put needs a FILE, or - for stdin");
    if (key !== undefined && (files.length > 1 || recursive)) {
      throw new UsageError("--key names one object; several files go by their names");
    }
    if (files.includes(STDIN) && (key === undefined || files.length > 1)) {
      throw new UsageError("stdin (-) has no name: give it one with --key, and put it alone");
    }
    const metadata = metadataOf(values.metadata);
    const ifAbsent = values["if-absent"];
    const inFlight = integerOption("in-flight", values["in-flight"] ?? "4", 1, 64);
    const memoryBytes = sizeOption("memory", values.memory);
    return reportedCommand(json, "stored", async (report, signal) => {
      await using session = await StoreSession.open([store], {
        secretFile: values["secret-file"],
        ...(memoryBytes === undefined ? {} : { memoryBytes }),
        signal,
      });
      const sources = sourcesOf(files, recursive, key, prefix);
      await inLanes(sources, inFlight, async ({ key, file }) => {
        const put: PutRange = (range, store) =>
          store.put(key, range, { signal, metadata, ifAbsent });
        const isThere = async () => ifAbsent && await session.ask[0]!.exists(key, { signal });
        await report.object(
          key,
          signal,
          () =>
            file === STDIN ? putStdin(session, put, signal) : putFile(session, file, isThere, put),
          { file },
        );
      });
    });
  },
};
