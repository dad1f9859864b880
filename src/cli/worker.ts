// SPDX-License-Identifier: Apache-2.0
//
// lmshm worker: this process becomes lmshm-worker. The worker reads the options itself, so that there
// is one reader of them; descriptions/worker.ts describes them for help, completion and the man page.

import { locateWorker } from "../native/locate.ts";
import { replaceProcess } from "../native/exec.ts";
import type { Command } from "./command.ts";

export const worker: Command = {
  run(args) {
    replaceProcess(locateWorker(), "lmshm-worker", args);
  },
};
