// SPDX-License-Identifier: Apache-2.0
//
// How one sample of one client of a server is taken: objects of the pool are put, the pool is
// cleared, they are got, and every byte is compared. The keys of an object are the same in every
// round, so that the server's memory does not grow. Numbers of both directions have a prefix; the
// rows of a table take those of one.

import { mustEqual } from "../support/data.ts";
import { interleave } from "../support/interleave.ts";
import { watched } from "../support/loop_gap.ts";
import { type Row, rowOf, type Sample } from "../support/results.ts";
import { type Arena, type Load, type Slot, totalBytes } from "../data_plane/arena.ts";
import type { Mover } from "../data_plane/movers.ts";
import { type Entry, measures } from "../data_plane/sampling.ts";

export type Direction = "put" | "get";

/** Objects that a group of rows moves. */
export interface Group extends Load {
  readonly rounds: number;
  /** Also the gaps of the event loop, with so many under way. */
  readonly gapsWith?: number;
}

function compare({ name }: Mover, slots: readonly Slot[], got: readonly Uint8Array[]): void {
  for (const { index, wanted } of slots) mustEqual(`${name} ${index}`, got[index]!, wanted);
}

async function sampleOf(
  { mover, lanes }: Entry,
  arena: Arena,
  slots: readonly Slot[],
  gapsWith: number | undefined,
): Promise<Sample> {
  const sample: Record<string, number> = {};
  const note = (direction: Direction, measured: Readonly<Record<string, number>>) => {
    for (const [key, value] of Object.entries(measured)) sample[`${direction}:${key}`] = value;
  };
  for (const each of lanes) {
    arena.fillPool(slots);
    await arena.warmMemory(totalBytes(slots));
    note("put", measures(await mover.put(slots, each), each, slots));
    arena.clearPool(slots);
    const got: Uint8Array[] = [];
    note("get", measures(await mover.get(slots, each, got), each, slots));
    if (mover.verifiable) compare(mover, slots, got);
  }
  // The timer that looks for gaps costs CPU, so that they are looked for apart.
  if (gapsWith !== undefined && sample[`put:script${gapsWith}`] !== undefined) {
    arena.fillPool(slots);
    const put = await watched(() => mover.put(slots, gapsWith));
    note("put", { gap: put.gaps.max });
    const got: Uint8Array[] = [];
    const get = await watched(() => mover.get(slots, gapsWith, got));
    note("get", { gap: get.gaps.max });
  }
  return sample;
}

function only(sample: Sample, direction: Direction): Sample {
  const prefix = `${direction}:`;
  return Object.fromEntries(
    Object.entries(sample).filter(([key]) => key.startsWith(prefix))
      .map(([key, value]) => [key.slice(prefix.length), value]),
  );
}

/** Takes turns. @returns the rows of both directions */
export async function exchange(
  entries: readonly Entry[],
  arena: Arena,
  group: Group,
  onStep: (text: string) => void,
): Promise<Record<Direction, Row[]>> {
  const contenders = entries.map((entry) => {
    const slots = arena.fresh(group, arena.disk);
    const { name, note } = entry.mover;
    return { name, note, sample: () => sampleOf(entry, arena, slots, group.gapsWith) };
  });
  const samples = await interleave(contenders, group.rounds, onStep, group.rounds > 1);
  const rows = (direction: Direction) =>
    contenders.map(({ name, note }, i) =>
      rowOf(name, note, samples[i]!.map((sample) => only(sample, direction)), group.label)
    );
  return { put: rows("put"), get: rows("get") };
}
