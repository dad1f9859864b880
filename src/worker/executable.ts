// SPDX-License-Identifier: Apache-2.0
//
// Why a file cannot be run here, from its first bytes. Asked only after starting it has failed, for
// the error message: the runtimes report a program of another machine as "unknown error", or hand
// it to the shell, which then reports nonsense.

import { closeSync, openSync, readSync } from "node:fs";
import process from "node:process";

/** e_machine of elf(5), by Node's name of the architecture. */
const MACHINES: Readonly<Record<string, number>> = { x64: 62, arm64: 183, riscv64: 243 };
const EM_OFFSET = 18;

function head(path: string): Uint8Array | null {
  const bytes = new Uint8Array(20);
  try {
    const fd = openSync(path, "r");
    try {
      return bytes.subarray(0, readSync(fd, bytes, 0, bytes.length, 0));
    } finally {
      closeSync(fd);
    }
  } catch {
    return null;
  }
}

/** What is wrong with the program, or null when nothing can be seen to be. */
export function executableFault(path: string): string | null {
  const bytes = head(path);
  if (bytes === null) return null;
  if (bytes[0] === 0x23 && bytes[1] === 0x21) return null; // "#!"
  const elf = bytes.length === 20 && bytes[0] === 0x7f && bytes[1] === 0x45 &&
    bytes[2] === 0x4c && bytes[3] === 0x46;
  if (!elf) return `${path} is not a program (neither ELF nor a script)`;
  const machine = bytes[EM_OFFSET]! | (bytes[EM_OFFSET + 1]! << 8);
  const own = MACHINES[process.arch];
  if (own === undefined || machine === own) return null;
  const name = Object.entries(MACHINES).find(([, number]) => number === machine)?.[0] ??
    `ELF machine ${machine}`;
  return `${path} is built for ${name}, and this machine is ${process.arch}`;
}
