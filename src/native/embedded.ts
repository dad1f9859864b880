// SPDX-License-Identifier: Apache-2.0
//
// The native parts that a single executable carries in itself. Loaded only by the entry point that
// scripts/compile.mjs writes, which runs in Bun. An embedded file can neither be executed nor be
// loaded without leaving a copy in the temporary directory, so each is copied into memory (a memfd)
// that lives as long as the process, and is located there. Nothing is written to disk.

import { readFileSync, writeFileSync } from "node:fs";
import process from "node:process";
import { ShmError } from "../errors.ts";
import { cLibrary } from "./c_library.ts";
import { type Part, registerEmbedded } from "./locate.ts";

const MFD_CLOEXEC = 1;

/**
 * Makes a part that is embedded in this executable available to locate().
 * @param embeddedPath what `import path from "..." with { type: "file" }` gave
 * @throws {ShmError} ENOMEM when the kernel refuses the memory
 */
export function carryPart(part: Part, embeddedPath: string): void {
  const name = new TextEncoder().encode(`lmshm-${part}\0`);
  const fd = cLibrary().memfd_create(name, MFD_CLOEXEC);
  if (fd < 0) {
    throw new ShmError(`memfd_create for the embedded ${part} failed`, {
      code: "ENOMEM",
      operation: `unpack ${part}`,
      hint: "Allow memfd_create, or set LMSHM_LIBRARY and LMSHM_WORKER to files on disk",
    });
  }
  // By process id, not "self": the worker's path is opened by a child, whose descriptors differ.
  const path = `/proc/${process.pid}/fd/${fd}`;
  writeFileSync(path, readFileSync(embeddedPath));
  registerEmbedded(part, path);
}
