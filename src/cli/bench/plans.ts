// SPDX-License-Identifier: Apache-2.0
//
// What is measured, against what, and for how long.

import type { Plan } from "./sampler.ts";
import { allocation, CHUNKS, plainAllocation, type Scene } from "./scene.ts";

/** Before there is a scene, so that there is memory for it. */
export function allocationPlan(sizeBytes: number, signal: AbortSignal): Plan {
  return {
    ...{ name: "allocation", unit: "MB/s", budget: 4, most: 1, least: 1 } as const,
    ours: { name: "a segment, pinned", sample: () => allocation(sizeBytes, signal) },
    limits: [{
      name: "populating by one thread",
      sample: () => Promise.resolve(plainAllocation(sizeBytes)),
    }],
  };
}

const LARGE = { unit: "MB/s", most: CHUNKS, least: 4 } as const;
const SMALL = { unit: "objects/s", most: 1, least: 1 } as const;

function putPlan(scene: Scene, budget: number): Plan {
  return {
    ...{ ...LARGE, name: "put", budget },
    ours: { name: "4 in flight, page cache", sample: (n) => scene.put("cached", n) },
    limits: [{ name: "page-cache write", sample: (n) => scene.plainPut("cached", n) }],
  };
}

function cachedGetPlan(scene: Scene, budget: number): Plan {
  return {
    ...{ ...LARGE, name: "cached get", budget },
    ours: { name: "4 in flight, page cache", sample: (n) => scene.get("cached", false, n) },
    limits: [
      { name: "page-cache read", sample: (n) => scene.plainGet("cached", false, n) },
      { name: "memory copy", sample: (n) => scene.copy(n) },
    ],
  };
}

function roundTripPlan(scene: Scene, budget: number): Plan {
  return {
    ...{ name: "round trip", unit: "us", budget, most: 1, least: 1 } as const,
    ours: { name: "one question at a time", sample: () => scene.ping() },
    limits: [{ name: "a bare pipe", sample: () => scene.barePing() }],
  };
}

/** @param direct whether the directory has I/O past the page cache */
export function alonePlans(scene: Scene, direct: boolean): Plan[] {
  const past: Plan[] = direct
    ? [{
      ...{ ...LARGE, name: "direct put", budget: 7 },
      ours: { name: "4 in flight, O_DIRECT", sample: (n) => scene.put("direct", n) },
      limits: [{ name: "O_DIRECT write", sample: (n) => scene.plainPut("direct", n) }],
    }, {
      ...{ ...LARGE, name: "direct get", budget: 5 },
      ours: { name: "4 in flight, O_DIRECT", sample: (n) => scene.get("direct", true, n) },
      limits: [{ name: "O_DIRECT read", sample: (n) => scene.plainGet("direct", true, n) }],
    }]
    : [];
  return [
    putPlan(scene, 7),
    ...past.slice(0, 1),
    {
      ...{ ...LARGE, name: "cold get", budget: 6 },
      ours: { name: "4 in flight, page cache", sample: (n) => scene.get("cached", true, n) },
      limits: [{ name: "cold read", sample: (n) => scene.plainGet("cached", true, n) }],
    },
    ...past.slice(1),
    cachedGetPlan(scene, 4),
    roundTripPlan(scene, 2),
    {
      ...{ ...SMALL, name: "4 KiB puts", budget: 3 },
      ours: { name: "batches", sample: () => scene.smallPut() },
      limits: [{ name: "open+write+close", sample: () => scene.plainSmallPut() }],
    },
    {
      ...{ ...SMALL, name: "4 KiB gets", budget: 3 },
      ours: { name: "batches", sample: () => scene.smallGet() },
      limits: [{ name: "open+read+close", sample: () => scene.plainSmallGet() }],
    },
  ];
}

/** What is worth asking beside busy neighbours. */
export function busyPlans(scene: Scene): Plan[] {
  return [putPlan(scene, 5), cachedGetPlan(scene, 5), roundTripPlan(scene, 2)];
}
