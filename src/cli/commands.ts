// SPDX-License-Identifier: Apache-2.0
//
// All subcommands: their descriptions, and where each is loaded from when it is used.

import type { Command } from "./command.ts";
import type { CommandGroup } from "./description.ts";
import { BENCH } from "./descriptions/bench.ts";
import { CHECK } from "./descriptions/check.ts";
import { DASHBOARD } from "./descriptions/dashboard.ts";
import { DOCTOR } from "./descriptions/doctor.ts";
import { GPU } from "./descriptions/gpu.ts";
import { METRICS } from "./descriptions/metrics.ts";
import { COMPLETION, MAN } from "./descriptions/own.ts";
import { SHM_GC, SHM_LS, SHM_RM } from "./descriptions/shm.ts";
import { CP, GET, LS, PUT, RM, STAT } from "./descriptions/store.ts";
import { TOP } from "./descriptions/top.ts";
import { VERIFY } from "./descriptions/verify.ts";
import { WORKER } from "./descriptions/worker.ts";

/** In the order of the help. */
export const GROUPS: readonly CommandGroup[] = [
  { heading: "A worker", commands: [WORKER, TOP, METRICS, DASHBOARD] },
  { heading: "Objects of a store", commands: [PUT, GET, LS, STAT, RM, CP] },
  { heading: "Shared memory", commands: [SHM_LS, SHM_RM, SHM_GC] },
  { heading: "Try out", commands: [DOCTOR, VERIFY, CHECK, GPU, BENCH] },
  { heading: "This command", commands: [COMPLETION, MAN] },
];

export const DESCRIPTIONS = GROUPS.flatMap(({ commands }) => commands);

/** By the command's name. Literal imports, so that a single executable has them all. */
export const LOADERS: Readonly<Record<string, () => Promise<Command>>> = {
  worker: async () => (await import("./worker.ts")).worker,
  put: async () => (await import("./store/put.ts")).put,
  get: async () => (await import("./store/get.ts")).get,
  ls: async () => (await import("./store/ls.ts")).ls,
  stat: async () => (await import("./store/stat.ts")).stat,
  rm: async () => (await import("./store/rm.ts")).rm,
  cp: async () => (await import("./store/cp.ts")).cp,
  "shm ls": async () => (await import("./shm.ts")).shmLs,
  "shm rm": async () => (await import("./shm.ts")).shmRm,
  "shm gc": async () => (await import("./shm.ts")).shmGc,
  doctor: async () => (await import("./doctor/doctor.ts")).doctor,
  top: async () => (await import("./top/top.ts")).top,
  metrics: async () => (await import("./metrics.ts")).metrics,
  dashboard: async () => (await import("./dashboard/dashboard.ts")).dashboard,
  verify: async () => (await import("./verify/verify.ts")).verify,
  check: async () => (await import("./verify/check.ts")).check,
  gpu: async () => (await import("./gpu.ts")).gpu,
  bench: async () => (await import("./bench/bench.ts")).bench,
  completion: async () => (await import("./completion.ts")).completion,
  man: async () => (await import("./man.ts")).man,
};
