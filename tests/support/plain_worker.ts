// SPDX-License-Identifier: Apache-2.0
//
// A worker that speaks version 1 and nothing more, with the manners of LMCache's: words end at any
// space, files are written in place, errors end with the C library's text. It runs in the test's
// own process, so it reaches the segment's bytes directly.

import { readFileSync, writeFileSync } from "node:fs";
import type { ShmSegment } from "../../src/memory/segment.ts";
import type { Script } from "./worker.ts";

const TEXTS: Readonly<Record<string, string>> = {
  ENOENT: "No such file or directory",
  EACCES: "Permission denied",
  EISDIR: "Is a directory",
  ENOTDIR: "Not a directory",
};

/** For ScriptedWorker.listen(). `segment` is what clients will attach. */
export function plainWorker(segment: ShmSegment): Script {
  let base: bigint | null = null;

  /** The bytes that a request names, or the reason why there are none. */
  function memory(words: readonly string[]): Uint8Array | string {
    if (base === null) return "ERROR not attached";
    const address = /^\d+$/.test(words[2] ?? "") ? BigInt(words[2]!) : 0n;
    if (address < base) return "ERROR data_ptr is before shm base address";
    const offset = Number(address - base);
    const byteLength = Number(words[3]);
    if (offset >= segment.sizeBytes || byteLength > segment.sizeBytes - offset) {
      return "ERROR offset+length exceeds shm size";
    }
    return segment.bytes(offset, byteLength);
  }

  return (line) => {
    const words = line.split(/\s+/);
    switch (words[0]) {
      case "ATTACH":
        if (words[1] !== segment.name) return `ERROR shm_open failed: ${TEXTS["ENOENT"]}`;
        base = BigInt(words[3]!);
        return "OK";
      case "QUIT":
        return "OK";
      case "READ":
      case "WRITE":
        break;
      default:
        return `ERROR unknown command: ${words[0]}`;
    }
    const bytes = memory(words);
    if (typeof bytes === "string") return bytes;
    try {
      if (words[0] === "WRITE") {
        writeFileSync(words[1]!, bytes);
        return `OK ${bytes.length}`;
      }
      const file = readFileSync(words[1]!).subarray(0, bytes.length);
      bytes.set(file);
      return `OK ${file.length}`;
    } catch (error) {
      const { code = "" } = error as { code?: string };
      return `ERROR open failed: ${TEXTS[code] ?? "Input/output error"}`;
    }
  };
}
