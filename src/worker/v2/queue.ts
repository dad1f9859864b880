// SPDX-License-Identifier: Apache-2.0
//
// Calls that wait for their turn, and whose turn it is: high priority before normal before low, and
// in one priority the oldest first. Small objects next to each other that want the same go together
// in one line.

import type { ObjectCall } from "./object_call.ts";
import type { Priority } from "../object_client.ts";

/** Objects of one line. More would make the first wait for the last, and gain little. */
export const MAX_LINE_OBJECTS = 64;
/**
 * The same where each has a caller of its own. Callers that ask again after each answer would
 * otherwise all wait for the same line, and the worker would have nothing to do in between.
 */
const MAX_SHARED_OBJECTS = 32;
/** Length of their words. */
const MAX_LINE_CHARS = 16_384;
/** Bytes that one line moves; a worker carries out several lines at a time. */
const MAX_LINE_MOVED_BYTES = 1 << 20;
/** Of so many lines one is taken from the lowest priority that waits. */
const LOWEST_TURN = 16;

/**
 * A function that tells, for one object after the other, whether it still fits into the line. The
 * first one always does.
 * @param maxObjects of one line
 */
export function lineLot(maxObjects: number): (chars: number, bytes: number) => boolean {
  let objects = 0;
  let chars = 0;
  let bytes = 0;
  return (moreChars, moreBytes) => {
    chars += (objects === 0 ? 0 : 3) + moreChars;
    bytes += moreBytes;
    if (objects++ === 0) return true;
    return objects <= maxObjects && chars <= MAX_LINE_CHARS && bytes <= MAX_LINE_MOVED_BYTES;
  };
}

/** What may be sent now. */
export interface Room {
  /** Whether a line of that priority may be sent that moves so many bytes. */
  fits(priority: Priority, bytes: number): boolean;
  /** Whether any line may be sent, whatever it moves. */
  place(): boolean;
}

const ORDER: readonly Priority[] = ["high", "normal", "low"];
const REVERSE: readonly Priority[] = ["low", "normal", "high"];

/** So many calls that have left are forgotten together. */
const SHIFTED = 1024;

/** Calls of one priority. Array.shift() moves all that is left; this moves it now and then. */
class Row {
  #calls: ObjectCall[] = [];
  #head = 0;

  get first(): ObjectCall | undefined {
    return this.#calls[this.#head];
  }

  push(call: ObjectCall): void {
    this.#calls.push(call);
  }

  shift(): ObjectCall | undefined {
    const call = this.#calls[this.#head];
    if (call === undefined) return undefined;
    this.#head++;
    if (this.#head >= SHIFTED || this.#head === this.#calls.length) this.#calls = this.takeAll();
    return call;
  }

  prepend(calls: readonly ObjectCall[]): void {
    this.#calls = [...calls, ...this.takeAll()];
  }

  /** Empties it. */
  takeAll(): ObjectCall[] {
    const calls = this.#calls.slice(this.#head);
    this.#calls = [];
    this.#head = 0;
    return calls;
  }
}

export class ObjectQueue {
  readonly #waiting: Readonly<Record<Priority, Row>> = {
    high: new Row(),
    normal: new Row(),
    low: new Row(),
  };
  #turns = 0;

  push(call: ObjectCall): void {
    this.#waiting[call.priority].push(call);
  }

  /** Before all others of their priority, in their order. */
  prepend(calls: readonly ObjectCall[]): void {
    for (const priority of ORDER) {
      const these = calls.filter((call) => call.priority === priority);
      if (these.length > 0) this.#waiting[priority].prepend(these);
    }
  }

  /** Whether a caller waits. Forgets those who have gone, as take() does. */
  get empty(): boolean {
    return ORDER.every((priority) => this.#first(priority) === undefined);
  }

  /** The calls of the next line; null when there is none, or no room. */
  take(room: Room): ObjectCall[] | null {
    const highest = ORDER.find((priority) => this.#first(priority) !== undefined);
    if (highest === undefined) return null;
    const lowest = REVERSE.find((priority) => this.#first(priority) !== undefined)!;
    if (lowest !== highest && this.#turns % LOWEST_TURN === LOWEST_TURN - 1) {
      // What the others leave free would never be enough for a large one.
      return room.place() ? this.#takeFrom(lowest, room) : null;
    }
    // If there is no room for it, there is none for others: they would keep it waiting.
    const { bytes } = this.#first(highest)!;
    return room.fits(highest, bytes) ? this.#takeFrom(highest, room) : null;
  }

  /** Empties the queue. */
  takeAll(): ObjectCall[] {
    return ORDER.flatMap((priority) => this.#waiting[priority].takeAll());
  }

  #takeFrom(priority: Priority, room: Room): ObjectCall[] {
    this.#turns++;
    const first = this.#waiting[priority].shift()!;
    return first.alone ? [first] : this.#batch(first, room);
  }

  #first(priority: Priority): ObjectCall | undefined {
    const row = this.#waiting[priority];
    for (;;) {
      const call = row.first;
      if (call === undefined || !call.settled) return call;
      row.shift();
      call.free();
    }
  }

  #batch(first: ObjectCall, room: Room): ObjectCall[] {
    const { priority, verb } = first;
    const calls = [first];
    let { bytes } = first;
    const lot = lineLot(MAX_SHARED_OBJECTS);
    lot(lengthOf(first), bytes);
    for (;;) {
      const next = this.#first(priority);
      if (next === undefined || next.alone || next.verb !== verb) break;
      bytes += next.bytes;
      if (!lot(lengthOf(next), next.bytes) || !room.fits(priority, bytes)) break;
      this.#waiting[priority].shift();
      calls.push(next);
    }
    return calls;
  }
}

function lengthOf(call: ObjectCall): number {
  return call.words.length + call.tail.length;
}
