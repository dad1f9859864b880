// SPDX-License-Identifier: Apache-2.0

import { type CommandDescription, JSON_OPTION } from "../description.ts";

/** lmshm check. */
export const CHECK = {
  name: "check",
  summary: "make what a configuration describes, and try out every operation",
  usage: "--config FILE [OPTION]...",
  about: [
    "Makes what the configuration describes (the pool, its worker, the storage directory), sends a " +
    "few chunks of the configured number of tokens through it, the last one half full, and compares " +
    "every byte: put, exists, list, get from the store and from the pool, metadata, remove. Says how " +
    "the worker really does it (I/O, durability). Removes what it made, also when it is interrupted.",
    "The pool is as large as the configuration says, and is pinned; where that is only LMCache's " +
    "default of 5 GiB, because the file does not say, it is said. A full storage directory with " +
    "lmshm.max_storage_size gives up its oldest objects for the chunks.",
  ],
  options: [
    {
      name: "config",
      value: "FILE",
      completes: "file",
      text: "a YAML or JSON file in LMCache's spelling (default: $LMCACHE_CONFIG_FILE)",
    },
    {
      name: "pool-size",
      value: "SIZE",
      text: "a pool of this size instead of max_local_cpu_size",
    },
    JSON_OPTION,
  ],
  examples: [
    { run: "lmshm check --config lmcache.yaml", does: "Does what I configured work here?" },
    {
      run: "lmshm check --config lmcache.yaml --pool-size 64MiB",
      does: "The same beside a running service, with little memory:",
    },
  ],
  status: { 0: "everything held", 1: "something did not, or could not be made" },
  json: {
    form: "object",
    members: {
      ok: "every step that was tried held",
      steps: "name, ok (null: could not be tried), objects, bytes, milliseconds, detail of each",
      notes: "what is worth knowing, as sentences",
      notices: "what the configuration says without effect here",
      file: "the configuration",
      library: "path of liblmshm.so; null: there is no pool",
      version: "of this command",
      runtime: "name and version",
    },
  },
} as const satisfies CommandDescription;
