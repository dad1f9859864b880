// SPDX-License-Identifier: Apache-2.0
//
// How one sample of one mover is taken: memory and caches put into a known state, the objects moved,
// all CPU counted, every byte compared, the space given back. A sample has one measurement for each
// number of objects under way; the keys of its numbers end in that number.

import { mustEqual } from "../support/data.ts";
import type { Contender } from "../support/interleave.ts";
import { residentShare, syncFileSystem } from "../support/page_cache.ts";
import type { Sample } from "../support/results.ts";
import {
  type Arena,
  checkFiles,
  emptyFiles,
  type Load,
  makeCold,
  type Place,
  type Slot,
  totalBytes,
} from "./arena.ts";
import type { Cost, Lanes, Mover } from "./movers.ts";

const GB = 1e9;
/** From here on it takes a while until the space of removed files is free again. */
const LARGE_BYTES = 64 * 2 ** 20;

/** A mover and the numbers of objects under way that it is measured with. */
export interface Entry {
  readonly mover: Mover;
  readonly lanes: readonly Lanes[];
}

/** MB/s, objects a second, CPU seconds a GB and CPU microseconds an object. */
export function measures(
  { wallMs, scriptMs, otherMs }: Cost,
  lanes: Lanes,
  slots: readonly Slot[],
) {
  const bytes = totalBytes(slots);
  const perGb = (ms: number) => ms / 1e3 / (bytes / GB);
  const perObject = (ms: number) => ms * 1e3 / slots.length;
  const allMs = (scriptMs ?? 0) + otherMs;
  const measured: Record<string, number> = {
    [`rate${lanes}`]: bytes / 1e3 / wallMs,
    [`ops${lanes}`]: slots.length * 1e3 / wallMs,
    [`other${lanes}`]: perGb(otherMs),
    [`cpu${lanes}`]: perGb(allMs),
    [`objectCpu${lanes}`]: perObject(allMs),
  };
  if (scriptMs !== null) {
    measured[`script${lanes}`] = perGb(scriptMs);
    measured[`objectScript${lanes}`] = perObject(scriptMs);
  }
  return measured;
}

/**
 * Of what was measured with several numbers of objects under way, the fastest: `bestOps`, and what
 * CPU an object took there, `bestScript` and `bestOther`.
 */
function fastest(measured: Readonly<Record<string, number>>, lanes: readonly Lanes[]): Sample {
  const rate = (each: Lanes) => measured[`ops${each}`]!;
  const [first] = [...lanes].sort((a, b) => rate(b) - rate(a));
  const script = measured[`objectScript${first}`] ?? 0;
  const all = measured[`objectCpu${first}`]!;
  return { bestOps: rate(first!), bestScript: script, bestOther: all - script };
}

/**
 * Puts new objects, and measures until the last answer.
 * @param untilOnDisk measures also until all bytes are on the disk, those of other programs included
 */
export function writer(
  { mover, lanes }: Entry,
  arena: Arena,
  load: Load,
  place: Place,
  untilOnDisk: boolean,
): Contender {
  const sample = async () => {
    const measured: Record<string, number> = {};
    for (const each of lanes) {
      const slots = arena.fresh(load, place);
      arena.fillPool(slots);
      await arena.warmMemory(totalBytes(slots));
      const cost = await mover.put(slots, each);
      const { [`rate${each}`]: rate, ...others } = measures(cost, each, slots);
      Object.assign(measured, others);
      if (!mover.putsOnDisk) measured[`rate${each}`] = rate!;
      if (untilOnDisk) {
        const started = performance.now();
        syncFileSystem(place.directory);
        const onDiskMs = cost.wallMs + performance.now() - started;
        measured[`durable${each}`] = mover.putsOnDisk ? rate! : totalBytes(slots) / 1e3 / onDiskMs;
      }
      if (mover.verifiable) checkFiles(mover.name, slots);
      emptyFiles(slots, place);
      // Freeing blocks goes on behind the back of whoever comes next, unless it is waited for.
      if (totalBytes(slots) >= LARGE_BYTES) syncFileSystem(place.directory);
    }
    return { ...measured, ...fastest(measured, lanes) };
  };
  return { name: mover.name, note: mover.note, sample };
}

/**
 * Gets objects that are there.
 * @param cold they are thrown out of the page cache before each measurement; `resident` tells which
 *   share stayed
 */
export function reader({ mover, lanes }: Entry, arena: Arena, slots: Slot[], cold: boolean) {
  const sample = async () => {
    const measured: Record<string, number> = {};
    for (const each of lanes) {
      arena.clearPool(slots);
      if (cold) {
        makeCold(slots);
        measured[`resident${each}`] = residentShare(slots.map(({ path }) => path));
      }
      await arena.warmMemory(totalBytes(slots));
      const got: Uint8Array[] = [];
      const cost = await mover.get(slots, each, got);
      Object.assign(measured, measures(cost, each, slots));
      if (!mover.verifiable) continue;
      for (const { index, wanted } of slots) {
        mustEqual(`${mover.name} ${index}`, got[index]!, wanted);
      }
    }
    return { ...measured, ...fastest(measured, lanes) };
  };
  return { name: mover.name, note: mover.note, sample } satisfies Contender;
}
