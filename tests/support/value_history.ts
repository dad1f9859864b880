// SPDX-License-Identifier: Apache-2.0
//
// What happened to one key, and whether any order of it explains what was read. Each write has a
// version of its own, so a read says which write it saw. Times are those of one clock, as the
// clients see them: a request takes effect somewhere between being sent and being answered.
//
// The check is that of Gibbons and Korach (Testing Shared Memories, 1997) for values that are
// written once: the write and the reads of a value make a zone in time. Where all of them overlap
// (a backward zone) the value needs to have been there for a moment only. Otherwise (a forward zone)
// it was there from the first answer to the last question, so no other forward zone may overlap
// with that, and no other value, nor an absence, fit into it.

/** A put, or a removal (version null). */
export interface Write {
  readonly version: number | null;
  readonly byteLength: number;
  readonly sentAt: number;
  /** Infinity: it is not known whether it took effect, and if so when. */
  answeredAt: number;
  /** It was answered that it failed: it never took effect. */
  failed: boolean;
  /** As the worker said, where it did. */
  crc: string | null;
  firstSeen: number;
  lastAsked: number;
}

interface Span {
  readonly sentAt: number;
  readonly answeredAt: number;
}

export class ValueHistory {
  readonly key: string;
  /** By version. */
  readonly #puts = new Map<number, Write>();
  readonly #removals: Write[] = [];
  #misses: Span[] = [];
  /** Reads that found something, but not which version of those that have this length. */
  #hits: (Span & { byteLength: number | null })[] = [];

  constructor(key: string) {
    this.key = key;
    this.remove(-2).answeredAt = -1;
  }

  #add(version: number | null, byteLength: number, sentAt: number): Write {
    const write: Write = {
      version,
      byteLength,
      sentAt,
      answeredAt: Infinity,
      failed: false,
      crc: null,
      firstSeen: Infinity,
      lastAsked: -Infinity,
    };
    if (version === null) this.#removals.push(write);
    else this.#puts.set(version, write);
    return write;
  }

  put(version: number, byteLength: number, sentAt: number): Write {
    return this.#add(version, byteLength, sentAt);
  }

  remove(sentAt: number): Write {
    return this.#add(null, 0, sentAt);
  }

  /** Nothing was there at some moment between the two. */
  missed(sentAt: number, answeredAt: number): void {
    this.#misses.push({ sentAt, answeredAt });
  }

  /** Something was there, of that length if that is known. */
  present(sentAt: number, answeredAt: number, byteLength: number | null = null): void {
    this.#hits.push({ sentAt, answeredAt, byteLength });
  }

  /** That version was there. What is wrong with that at first sight, or null. */
  saw(version: number, byteLength: number, sentAt: number, answeredAt: number): string | null {
    const write = this.#puts.get(version);
    if (write === undefined) return `version ${version}, which is not of this time`;
    if (write.failed) return `version ${version}, whose put was answered with an error`;
    if (write.byteLength !== byteLength) {
      return `${byteLength} bytes of version ${version}, which has ${write.byteLength}`;
    }
    if (write.sentAt > answeredAt) return `version ${version} before it was put`;
    write.firstSeen = Math.min(write.firstSeen, answeredAt);
    write.lastAsked = Math.max(write.lastAsked, sentAt);
    return null;
  }

  /** The first thing that no order explains; null when all is well. */
  check(): string | null {
    const forward: { from: number; to: number; version: number }[] = [];
    const backward: { from: number; to: number; what: string }[] = [];
    const writes = [...this.#puts.values(), ...this.#removals];
    for (const write of writes) {
      if (write.failed) continue;
      const end = Math.min(write.answeredAt, write.firstSeen);
      const start = Math.max(write.sentAt, write.lastAsked);
      if (end === Infinity) continue; // nobody knows that it happened
      const { version } = write;
      if (end < start && version !== null) forward.push({ from: end, to: start, version });
      else {
        const what = version === null ? "a removal" : `version ${version}`;
        backward.push({ from: start, to: end, what });
      }
    }
    for (const { sentAt, answeredAt } of this.#misses) {
      backward.push({ from: sentAt, to: answeredAt, what: "a miss" });
    }
    forward.sort((one, other) => one.from - other.from);
    for (let at = 1; at < forward.length; at++) {
      const one = forward[at - 1]!;
      const other = forward[at]!;
      if (other.from < one.to) {
        return `version ${one.version} was there from ${one.from} to ${one.to}, and version ` +
          `${other.version} from ${other.from} to ${other.to}`;
      }
    }
    for (const zone of forward) {
      for (const other of backward) {
        if (zone.from < other.from && other.to < zone.to) {
          return `version ${zone.version} was there from ${zone.from} to ${zone.to}, and in ` +
            `between, from ${other.from} to ${other.to}, ${other.what}`;
        }
      }
    }
    return this.#checkMisses() ?? this.#checkHits();
  }

  #checkMisses(): string | null {
    for (const miss of this.#misses) {
      let settled = -Infinity;
      for (const write of this.#puts.values()) {
        const end = Math.min(write.answeredAt, write.firstSeen);
        if (!write.failed && end < miss.sentAt) settled = Math.max(settled, write.sentAt);
      }
      const explained = this.#removals.some((one) =>
        !one.failed && one.sentAt < miss.answeredAt && one.answeredAt > settled
      );
      if (!explained) {
        return `a miss from ${miss.sentAt} to ${miss.answeredAt}, though it was put from ` +
          `${settled} on and not removed since`;
      }
    }
    return null;
  }

  #checkHits(): string | null {
    for (const hit of this.#hits) {
      let settled = -Infinity;
      for (const removal of this.#removals) {
        if (!removal.failed && removal.answeredAt < hit.sentAt) {
          settled = Math.max(settled, removal.sentAt);
        }
      }
      const explained = [...this.#puts.values()].some((one) =>
        !one.failed && one.sentAt < hit.answeredAt && one.answeredAt > settled &&
        (hit.byteLength === null || hit.byteLength === one.byteLength)
      );
      if (!explained) {
        const what = hit.byteLength === null ? "something" : `${hit.byteLength} bytes`;
        return `${what} from ${hit.sentAt} to ${hit.answeredAt}, though it was removed from ` +
          `${settled} on and not put since`;
      }
    }
    return null;
  }

  /** Nothing is in flight, and this is what is there: the past is not needed any more. */
  settle(version: number | null, byteLength: number, now: number): void {
    this.#puts.clear();
    this.#removals.length = 0;
    this.#misses = [];
    this.#hits = [];
    this.#add(version, byteLength, now - 0.5).answeredAt = now - 0.25;
  }

  /** For a report: what was written lately. */
  describe(): string {
    const lately = [...this.#puts.values(), ...this.#removals]
      .toSorted((one, other) => one.sentAt - other.sentAt).slice(-12);
    return lately.map((one) =>
      `${one.version === null ? "remove" : `put ${one.version} (${one.byteLength})`} ` +
      `${one.sentAt}..${one.answeredAt}${one.failed ? " failed" : ""}`
    ).join("; ");
  }
}
