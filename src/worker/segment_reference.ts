// SPDX-License-Identifier: Apache-2.0
//
// The memory that a worker is to share, and how it is told so that it gets this memory and no other.
// A name is not enough: it leads to another file once its owner has been replaced, and in every
// container with a /dev/shm of its own. So the worker inherits a descriptor, where it is started
// here, and is told in any case which file it must find. Of a worker that cannot be told (LMCache's)
// the name is looked at here, before and after it attaches.

import { ShmError } from "../errors.ts";
import { errnoNumber } from "./errno_text.ts";

export interface SegmentReference {
  /** "/kv"; null: it has none. */
  readonly name: string | null;
  /** "fd:3": what the worker inherits; null: nothing. One of the two is there. */
  readonly descriptor: string | null;
  readonly sizeBytes: bigint;
  /** Where it is mapped here. */
  readonly baseAddress: bigint;
  /** "<boot>:<device>:<inode>" of the file that is mapped here; "-": not known. */
  readonly identity: string;
  /** The identity of what the name leads to here, now; null: nothing. */
  readonly lookUpName?: (() => string | null) | undefined;
}

type Found = "segment" | "another" | "nothing" | "unknown";

/** What a worker of ours is told to attach. */
export function bestName({ name, descriptor }: SegmentReference): string {
  return descriptor ?? name ?? "";
}

function find({ name, identity, lookUpName }: SegmentReference): Found {
  if (name === null || lookUpName === undefined) return "unknown";
  const found = lookUpName();
  return found === identity ? "segment" : found === null ? "nothing" : "another";
}

const AGAIN = "free the segment here, create or attach it again, and open a new connector";

/** find() for a hint, which must not hide the error that it is for. */
function tryToFind(segment: SegmentReference): Found {
  try {
    return find(segment);
  } catch {
    return "unknown";
  }
}

/** What to do when a worker has not found the segment, or has found another, by its name. */
export function lostNameHint(segment: SegmentReference): string {
  switch (tryToFind(segment)) {
    case "segment":
      return "The name leads to the segment here, so the worker sees another /dev/shm: run both on " +
        "one machine, and share it between their containers";
    case "another":
      return "Its owner was replaced, or another program has taken the name. This program still " +
        `has the memory that it mapped: ${AGAIN}`;
    case "nothing":
      return "The name was removed while the segment was in use: by its owner's end, by hand, or " +
        `by Python before 3.13, which unlinks at its exit what it merely opened: ${AGAIN}`;
    case "unknown":
      return "The worker must see the same /dev/shm: share it between the containers, and create " +
        "the segment before the connection";
  }
}

/**
 * For a worker that cannot be told which file to attach.
 * @throws {ShmError} ESTALE unless the name leads to the segment here.
 */
export function mustLeadToSegment(segment: SegmentReference, peer: string): void {
  const found = find(segment);
  if (found === "segment" || found === "unknown") return;
  const errno = errnoNumber("ESTALE");
  throw new ShmError(
    `${segment.name} ` +
      (found === "another" ? "now leads to another segment" : "leads to nothing any more"),
    {
      code: "ESTALE",
      operation: `attach segment ${segment.name} in the ${peer}`,
      ...(errno === undefined ? {} : { errno }),
      hint: lostNameHint(segment),
      details: { name: segment.name, identity: segment.identity },
    },
  );
}
