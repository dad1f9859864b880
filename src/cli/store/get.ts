// SPDX-License-Identifier: Apache-2.0
//
// lmshm get: objects become files, or go to stdout. A key is not trusted with where its file goes: it
// stays below the output directory, or is refused.

import { type FileHandle, mkdir, open, realpath, rename, rm, stat } from "node:fs/promises";
import { randomBytes } from "node:crypto";
import { dirname, join } from "node:path";
import type { ShmRange } from "../../mod.ts";
import { ShmError } from "../../errors.ts";
import { readArguments } from "../arguments.ts";
import { type Command, integerOption, sizeOption, UsageError } from "../command.ts";
import { GET } from "../descriptions/store.ts";
import { inLanes } from "../lanes.ts";
import { mustExist, parseStore } from "./address.ts";
import { keysOf, patternsOf } from "./keys.ts";
import { type Done, Missing, reportedCommand } from "./report.ts";
import { withLogin } from "./login.ts";
import { StoreSession } from "./session.ts";
import { outputHasFailed, writeBytes } from "../terminal.ts";

const PIECE_BYTES = 16 * 2 ** 20;
/** How often an object may have become longer between the look at it and its reading. */
const ATTEMPTS = 3;

/** Where the file of a key is, below a directory. @throws {ShmError} for a key that leads out of it. */
export function fileBelow(directory: string, key: string): string {
  const parts = key.split("/");
  const fault = parts.find((part) => part === "" || part === "." || part === "..");
  if (fault === undefined) return join(directory, ...parts);
  throw new ShmError(`the key has ${JSON.stringify(fault)} as a directory`, {
    code: "EINVAL",
    operation: "name file",
    hint: "Get it alone, with --output FILE",
  });
}

async function writeAll(session: StoreSession, file: FileHandle, range: ShmRange): Promise<void> {
  for (let done = 0; done < range.byteLength;) {
    const length = Math.min(PIECE_BYTES, range.byteLength - done);
    const bytes = session.bytesOf(range, done, length);
    done += (await file.write(bytes, 0, length, null)).bytesWritten;
  }
}

/** What the system says where a file is needed and a directory is there, or the other way round. */
const OF_ANOTHER_KIND: ReadonlySet<unknown> = new Set(["EISDIR", "ENOTDIR", "EEXIST"]);

/** Does a step of writing the file of a key; keys such as "a" and "a/b" cannot both be files. */
async function place(path: string, step: () => Promise<unknown>): Promise<void> {
  try {
    await step();
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (!OF_ANOTHER_KIND.has(code)) throw error;
    throw new ShmError(`${path} cannot be written: a file or a directory is in its way`, {
      code: "EEXIST",
      operation: "write object",
      hint: "Get it alone, with --output FILE, or into another directory",
      cause: error,
    });
  }
}

/** Writes a range to a file, which has its name when it is complete. */
async function writeFile(session: StoreSession, path: string, range: ShmRange): Promise<void> {
  await place(path, () => mkdir(dirname(path), { recursive: true }));
  // Not longer than a name may be, however long that of the file is.
  const temporary = join(dirname(path), `.lmshm-${randomBytes(8).toString("hex")}.part`);
  const file = await open(temporary, "wx");
  try {
    try {
      await writeAll(session, file, range);
    } finally {
      await file.close();
    }
    await place(path, () => rename(temporary, path));
  } catch (error) {
    await rm(temporary, { force: true });
    throw error;
  }
}

/**
 * Writes a range to what --output FILE names. A file takes its place; but a symbolic link stays and
 * leads to it, and a device such as /dev/null gets the bytes.
 */
async function writeNamed(session: StoreSession, path: string, range: ShmRange): Promise<void> {
  const found = await stat(path).catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return null;
    throw error;
  });
  if (found === null) return await writeFile(session, path, range);
  if (found.isFile()) return await writeFile(session, await realpath(path), range);
  if (!found.isCharacterDevice()) {
    throw new ShmError(`${path} is no file`, {
      code: "EINVAL",
      operation: "write object",
      hint: "Name a file, or write to stdout with --output -, and lead it there",
    });
  }
  await using device = await open(path, "w");
  await writeAll(session, device, range);
}

async function writeStdout(session: StoreSession, range: ShmRange): Promise<void> {
  for (let done = 0; done < range.byteLength && !outputHasFailed();) {
    const length = Math.min(PIECE_BYTES, range.byteLength - done);
    await writeBytes(session.bytesOf(range, done, length));
    done += length;
  }
}

async function getObject(
  session: StoreSession,
  key: string,
  signal: AbortSignal,
  write: (range: ShmRange) => Promise<void>,
): Promise<Done> {
  for (let attempt = 1;; attempt++) {
    const found = await session.ask[0]!.stat(key, { signal });
    if (found === null) throw new Missing("there is no such object");
    try {
      return await session.withRange(found.byteLength, async (range, [store]) => {
        const loaded = await store!.load(key, range, { signal });
        if (loaded === null) throw new Missing("it is gone, or is not what was stored");
        await write(loaded.range);
        return { byteLength: loaded.range.byteLength };
      });
    } catch (error) {
      const longer = error instanceof ShmError && error.code === "EMSGSIZE";
      if (!longer || attempt >= ATTEMPTS) throw error;
    }
  }
}

export const get: Command = {
  run(args) {
    const { values, operands: [where, ...keys] } = readArguments(GET, args);
    const store = withLogin(parseStore(where), values["store-secret-file"]);
    const { output = ".", literal, json } = values;
    if (keys.length === 0) throw new UsageError("get needs a KEY, or a pattern such as '*'");
    if (output === "") throw new UsageError("--output is empty");
    const stdout = output === "-";
    if (stdout && json) throw new UsageError("--output - and --json both want stdout: choose");
    const patterns = patternsOf(keys, literal);
    const inFlight = integerOption("in-flight", values["in-flight"] ?? "4", 1, 64);
    const memoryBytes = sizeOption("memory", values.memory);
    return reportedCommand(json, stdout ? null : "wrote", async (report, signal) => {
      await mustExist(store);
      await using session = await StoreSession.open([store], {
        secretFile: values["secret-file"],
        ...(memoryBytes === undefined ? {} : { memoryBytes }),
        signal,
      });
      const single = patterns.length === 1 && patterns[0]!.key !== null;
      const isDirectory = output.endsWith("/") || await stat(output).then(
        (found) => found.isDirectory(),
        () => !single,
      );
      if (!isDirectory && !single && !stdout) {
        throw new ShmError(`${output} is no directory`, {
          code: "ENOTDIR",
          operation: "write objects",
          hint: "Several objects go into a directory, each as a file",
        });
      }
      const nothing: string[] = [];
      const found = keysOf(session.ask[0]!, patterns, signal, ({ text }) => nothing.push(text));
      await inLanes(found, stdout ? 1 : inFlight, async ({ key }) => {
        if (stdout && outputHasFailed()) return;
        if (stdout) {
          await report.object(
            key,
            signal,
            () => getObject(session, key, signal, (range) => writeStdout(session, range)),
          );
          return;
        }
        let file = output;
        await report.object(key, signal, async () => {
          if (isDirectory) file = fileBelow(output, key);
          const done = await getObject(
            session,
            key,
            signal,
            (range) => (isDirectory ? writeFile : writeNamed)(session, file, range),
          );
          return { file, ...done };
        });
      });
      for (const text of nothing) await report.fail(text, new Missing("nothing matches"));
    });
  },
};
