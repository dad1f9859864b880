// SPDX-License-Identifier: Apache-2.0

import { type CommandDescription, JSON_OPTION } from "../description.ts";

/** lmshm metrics. */
export const METRICS = {
  name: "metrics",
  summary: "what a running worker counts, as OpenMetrics, once or for Prometheus",
  usage: "[OPTION]... WORKER",
  operands: "any",
  about: [
    "Prints what the worker and its directory count, as OpenMetrics text, or serves it on a port of " +
    "this machine, asking the worker at each scrape. A worker that is away then is lmshm_up 0, and is " +
    "used again when it is back.",
    "WORKER is an address (host:port, unix:/path or /path), or DIR@ADDRESS for the numbers of one " +
    "directory of the worker.",
  ],
  options: [
    {
      name: "listen",
      value: "PORT",
      text: "serve them at http://127.0.0.1:PORT/metrics (0: any free port), on loopback only: " +
        "HOST:PORT may be 127.0.0.1, ::1 in brackets or localhost. What it listens at is printed",
    },
    {
      name: "secret-file",
      value: "FILE",
      completes: "file",
      text: "the secret of a TCP worker (default $LMSHM_SECRET)",
    },
    JSON_OPTION,
  ],
  examples: [
    { run: "lmshm metrics unix:/run/lmshm.sock | grep -v '^#'", does: "Once, to be read:" },
    {
      run: "lmshm metrics kv@unix:/run/lmshm.sock --listen 9808",
      does: "For Prometheus, with the numbers of the directory kv:",
    },
  ],
  status: { 0: "printed, or ended by a signal", 1: "the worker does not answer, or cannot tell" },
  json: {
    form: "object",
    members: {
      worker: "name and version",
      verbs: "of each verb: requests, errors, bytes, latency (leUs, count) and latencySumUs",
      uptimeMs: "milliseconds since the worker started",
      clients: "connections now",
      usedBytes:
        "what all objects take; with a quota only. All other members of INFO likewise, in " +
        "camel case: see docs/protocol_v2.md",
    },
  },
} as const satisfies CommandDescription;
