// SPDX-License-Identifier: Apache-2.0

import { type CommandDescription, JSON_OPTION } from "../description.ts";

/** lmshm doctor. */
export const DOCTOR = {
  name: "doctor",
  summary: "find out what is wrong with this machine, and how it is repaired",
  usage: "[OPTION]...",
  about: [
    "Looks at what lmshm needs: /dev/shm, limits, huge pages, the container, kernel, GPU, the parts of " +
    "lmshm itself, what dead processes left; of directories what they can, and of a running worker " +
    "whether it fits. Says of each what is, and where that is not good what follows from it and the " +
    "command that repairs it. Repairs nothing, and leaves nothing behind.",
  ],
  options: [
    {
      name: "storage-dir",
      value: "DIR",
      repeat: true,
      completes: "directory",
      text: "look at this directory, too; may be repeated",
    },
    {
      name: "worker-address",
      value: "A",
      text: "look at this running worker, too: host:port, unix:/path or /path",
    },
    {
      name: "secret-file",
      value: "FILE",
      completes: "file",
      text: "its secret (default $LMSHM_SECRET)",
    },
    {
      name: "pool-size",
      value: "SIZE",
      text: "judge whether a segment of this size can be had and pinned (default 1GiB)",
    },
    JSON_OPTION,
  ],
  examples: [
    { run: "lmshm doctor", does: "Is this machine set up well?" },
    {
      run: "lmshm doctor --storage-dir /data/kv --pool-size 64GiB",
      does: "Is it for this service?",
    },
    {
      run: "lmshm doctor --worker-address unix:/run/lmshm.sock",
      does: "Inside a container: does the worker of the host fit?",
    },
  ],
  status: {
    0: "nothing is wrong",
    1: "there is an error: something does not work",
    3: "there are warnings: something works less well than it could",
  },
  json: {
    form: "object",
    members: {
      ok: "there is neither an error nor a warning",
      version: "of this command",
      runtime: "name and version",
      findings:
        "id, level (ok, note, warning, error), what, follows and fix of each; the last two " +
        "are null where nothing is to be done",
    },
  },
} as const satisfies CommandDescription;
