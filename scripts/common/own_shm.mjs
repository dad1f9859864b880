// SPDX-License-Identifier: Apache-2.0
//
// A /dev/shm of its own for a command. Tests look at all that is there, and collect what the dead
// left: two suites can only run at the same time when each has one. It takes the right to mount;
// without it, or in little memory, there are none, and suites run one after the other.

import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { freemem, tmpdir } from "node:os";
import { join } from "node:path";
import { capture, which } from "./system.mjs";

const FOLDER = "/dev/shm";
const GIB = 2 ** 30;
/** More than any test asks for. */
const SHM_BYTES = 10 * GIB;
/** What a suite may need at one time. */
const SUITE_BYTES = 2 * GIB;
/** Mounts, runs the rest of its arguments, and notes the names that are left. */
const SCRIPT = `mount -t tmpfs -o "size=$1,mode=1777" lmshm-test ${FOLDER} || exit 125
left=$2
shift 2
"$@"
status=$?
ls -A ${FOLDER} >"$left"
exit $status`;

/** Whether there can be so many at once. @param {number} count */
export function canHaveOwnShm(count) {
  if (!which("unshare") || availableBytes() < count * SUITE_BYTES) return false;
  const own = new OwnShm();
  const [command, args] = own.command("true", []);
  const works = capture(command, args) !== null;
  own.names();
  return works;
}

/** Memory that programs can have, what caches would give up included. */
function availableBytes() {
  try {
    const found = /^MemAvailable:\s+(\d+) kB$/m.exec(readFileSync("/proc/meminfo", "utf8"));
    return found ? Number(found[1]) * 1024 : freemem();
  } catch {
    return freemem();
  }
}

export class OwnShm {
  #folder = mkdtempSync(join(tmpdir(), "lmshm-own-shm-"));

  /**
   * The command line that runs a command with it.
   * @param {string} command
   * @param {string[]} args
   * @returns {[string, string[]]}
   */
  command(command, args) {
    const script = ["sh", "-c", SCRIPT, "sh", String(SHM_BYTES), join(this.#folder, "left")];
    return ["unshare", ["--mount", "--propagation", "private", ...script, command, ...args]];
  }

  /** What was there when the command had ended. Once. */
  names() {
    try {
      return readFileSync(join(this.#folder, "left"), "utf8").split("\n").filter((name) => name);
    } catch {
      return []; // it was killed
    } finally {
      rmSync(this.#folder, { recursive: true, force: true });
    }
  }
}
