// SPDX-License-Identifier: Apache-2.0
//
// lmshm-worker as a program that has never heard of version 2: it answers HELLO as LMCache's worker
// answers what it does not know, and serves version 1 from then on. For tests of the client of
// version 1 that need a worker which really moves data. (plain_worker.ts has more of LMCache's
// manners, and is reached by a socket.)

import { locateWorker } from "../../src/native/locate.ts";
import type { TempDir } from "./worker.ts";

/** The path of the program, for workerBinary. The shell reads no more than the line. */
export function version1Worker(dir: TempDir): string {
  return dir.script(
    "version1_worker.sh",
    `worker='${locateWorker()}'
IFS= read -r line || exit 0
case "$line" in
  HELLO*) echo "ERROR unknown command: HELLO"; exec "$worker" "$@" ;;
  *) { printf '%s\\n' "$line"; cat; } | "$worker" "$@" ;;
esac`,
  );
}

/** A worker that is spoken to in that version, for workerBinary. */
export function workerOf(protocol: 1 | 2, dir: TempDir): string | undefined {
  return protocol === 1 ? version1Worker(dir) : undefined;
}
