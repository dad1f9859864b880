// SPDX-License-Identifier: Apache-2.0
//
// The pools that programs of this user publish (publish_pool.ts), for those who look.

import { closeSync, constants, fstatSync, openSync, readdirSync, readSync } from "node:fs";
import { lmshm } from "../native/lmshm.ts";
import { SHM_DIRECTORY } from "../native/shm_directory.ts";
import { ownUser } from "../native/users.ts";
import { BOARD_BYTES, BOARD_PREFIX, decodeBoard, type PoolBoard } from "./pool_board.ts";

export type { PoolBoard };

/** Of a text that is being written: so often it is read. Writing takes well below a millisecond. */
const ATTEMPTS = 5;

/** One pool, as it was drawn last. */
export interface SeenPool extends PoolBoard {
  /** The segment that the map is in, with its leading slash. */
  readonly board: string;
  /** False: its program was killed. `lmshm shm gc` removes what it left. */
  readonly live: boolean;
}

function isLive(name: string): boolean {
  try {
    return lmshm().nameState(name) === "live";
  } catch {
    return false;
  }
}

function readBoard(path: string, user: number): PoolBoard | null {
  const fd = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  try {
    const found = fstatSync(fd);
    if (!found.isFile() || found.uid !== user || found.size > 2 * BOARD_BYTES) return null;
    const bytes = new Uint8Array(found.size);
    for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
      const length = readSync(fd, bytes, 0, bytes.length, 0);
      const board = decodeBoard(bytes.subarray(0, length));
      if (board !== null) return board;
    }
    return null;
  } finally {
    closeSync(fd);
  }
}

/** All of them, in the order of their names and then their programs. */
export function publishedPools(): SeenPool[] {
  const pools: SeenPool[] = [];
  const user = ownUser();
  let names: string[] = [];
  try {
    names = readdirSync(SHM_DIRECTORY);
  } catch {
    // Without /dev/shm there are none.
  }
  for (const name of names.filter((one) => one.startsWith(BOARD_PREFIX))) {
    try {
      const board = readBoard(`${SHM_DIRECTORY}/${name}`, user);
      if (board !== null) pools.push({ ...board, board: `/${name}`, live: isLive(name) });
    } catch {
      // Gone by now, or another user's.
    }
  }
  return pools.sort((a, b) => a.name.localeCompare(b.name) || a.pid - b.pid);
}
