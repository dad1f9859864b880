// SPDX-License-Identifier: Apache-2.0
//
// A segment as a file in /dev/shm, and beside it a copy of what must be in it. It is read and
// written with file calls and never mapped, so that it can be cut while a worker uses it. Room in it
// is given out in whole pages, with a page between that nobody may touch.

import { Buffer } from "node:buffer";
import {
  closeSync,
  ftruncateSync,
  openSync,
  readSync,
  rmSync,
  unlinkSync,
  writeSync,
} from "node:fs";
import process from "node:process";
import { differenceOf } from "./versioned_values.ts";

const PAGE = 4096;
let serial = 0;

/** Room in a segment, for one object. */
export interface Room {
  /** In whole pages; one page before and one behind it are untouched. */
  readonly offset: number;
  readonly byteLength: number;
}

export class ShadowedSegment {
  /** Without a slash. */
  readonly name: string;
  readonly sizeBytes: number;
  readonly fd: number;
  /** How much of it there still is. */
  cutAt: number;
  /** Whether its name leads to it. */
  named = true;
  readonly #shadow: Buffer;
  readonly #free: { offset: number; byteLength: number }[];
  /** Rooms that were let go, but may still be written to. */
  readonly #quarantine: Room[] = [];

  constructor(sizeBytes: number) {
    this.name = `lmshm-test-raw-${process.pid}-${serial++}`;
    this.sizeBytes = sizeBytes;
    this.cutAt = sizeBytes;
    this.fd = openSync(`/dev/shm/${this.name}`, "wx+", 0o600);
    ftruncateSync(this.fd, sizeBytes);
    this.#shadow = Buffer.alloc(sizeBytes);
    this.#free = [{ offset: PAGE, byteLength: sizeBytes - 2 * PAGE }];
  }

  /** Null: there is none at the moment. */
  take(byteLength: number): Room | null {
    const needed = Math.ceil(Math.max(byteLength, 1) / PAGE) * PAGE + PAGE;
    const at = this.#free.findIndex((one) => one.byteLength >= needed);
    if (at < 0) return null;
    const hole = this.#free[at]!;
    // What was let go last is used again last, so that a late write is more likely to be seen.
    const room = { offset: hole.offset, byteLength: needed - PAGE };
    hole.offset += needed;
    hole.byteLength -= needed;
    if (hole.byteLength === 0) this.#free.splice(at, 1);
    return room;
  }

  give(room: Room): void {
    const byteLength = room.byteLength + PAGE;
    const list = this.#free;
    let at = list.findIndex((one) => one.offset > room.offset);
    if (at < 0) at = list.length;
    list.splice(at, 0, { offset: room.offset, byteLength });
    for (let one = Math.max(at, 1); one < list.length && one <= at + 1;) {
      const before = list[one - 1]!;
      if (before.offset + before.byteLength === list[one]!.offset) {
        before.byteLength += list[one]!.byteLength;
        list.splice(one, 1);
        at--;
      } else one++;
    }
  }

  /** As give(), once nothing can be in flight any more: see settle(). */
  giveLater(room: Room): void {
    this.#quarantine.push(room);
  }

  /** Nothing is in flight: what was written late into such rooms is what was to be expected. */
  settle(): void {
    for (const room of this.#quarantine.splice(0)) {
      this.accept(room.offset, room.byteLength);
      this.give(room);
    }
  }

  write(offset: number, bytes: Buffer): void {
    bytes.copy(this.#shadow, offset);
    const length = Math.min(bytes.length, this.cutAt - offset);
    if (length > 0) writeSync(this.fd, bytes, 0, length, offset);
  }

  read(offset: number, byteLength: number): Buffer {
    const bytes = Buffer.alloc(byteLength);
    readSync(this.fd, bytes, 0, byteLength, offset);
    return bytes;
  }

  /** What is there now is right. */
  accept(offset: number, byteLength: number): void {
    this.read(offset, byteLength).copy(this.#shadow, offset);
  }

  /** What is not as it should be in a part; null when all is well. */
  fault(offset = 0, byteLength = this.sizeBytes): string | null {
    const length = Math.min(byteLength, this.cutAt - offset);
    if (length <= 0) return null;
    const found = this.read(offset, length);
    const expected = this.#shadow.subarray(offset, offset + length);
    if (expected.equals(found)) return null;
    return `${this.name} from ${offset} on: ${differenceOf(expected, found)}`;
  }

  /** From now on it ends at `byteLength`, a multiple of a page. */
  cut(byteLength: number): void {
    this.cutAt = byteLength;
    ftruncateSync(this.fd, byteLength);
  }

  /** Whether a client could attach all of it. */
  get attachable(): boolean {
    return this.named && this.cutAt === this.sizeBytes;
  }

  unlink(): void {
    this.named = false;
    try {
      unlinkSync(`/dev/shm/${this.name}`);
    } catch {
      // It has been.
    }
  }

  [Symbol.dispose](): void {
    rmSync(`/dev/shm/${this.name}`, { force: true });
    closeSync(this.fd);
  }
}
