// SPDX-License-Identifier: Apache-2.0

import { type CommandDescription, JSON_OPTION } from "../description.ts";

/** lmshm top. */
export const TOP = {
  name: "top",
  summary: "watch a running worker: rates, latencies, hits, queue, quota",
  usage: "[OPTION]... WORKER",
  operands: "any",
  about: [
    "Shows what a running worker does: requests and bytes a second and the latency of each verb, " +
    "clients, hits, errors, what waits, how full the disk's limit is. All rates and percentiles are of " +
    "the time since the look before; the first look shows the time since the worker's start. This " +
    "command is one of the clients, and asks by info.",
    "A worker that goes is shown as gone, and since when; one that comes back is shown again. Keys: q " +
    "quits, s sorts by the next column, + and - change the interval.",
    "Without a terminal it prints a line for each sample, in columns that stay as they are; put and get " +
    "have columns of their own, other/s are all other verbs together, and - is what is not known.",
    "WORKER is an address (host:port, unix:/path or /path), or DIR@ADDRESS.",
  ],
  options: [
    {
      name: "interval",
      short: "i",
      value: "SECONDS",
      text: "how often it looks, from 0.1 on (default 2)",
    },
    {
      name: "count",
      short: "n",
      value: "N",
      text: "ends after so many samples (default: goes on)",
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
    { run: "lmshm top unix:/run/lmshm.sock", does: "Watch a worker:" },
    {
      run: "lmshm top unix:/run/lmshm.sock -i 60 >> lmshm.log",
      does: "A line a minute into a file:",
    },
    {
      run: "lmshm top unix:/run/lmshm.sock -i 10 -n 1 --json | jq .verbs.get.p99Ms",
      does: "The 99th percentile of the next ten seconds' gets:",
    },
  ],
  status: {
    0: "ended by q, or after --count samples, or nobody reads any more",
    1: "the worker refuses, or answered none of the samples",
  },
  json: {
    form: "lines",
    members: {
      time: "of the sample, ISO 8601",
      up: "whether the worker answered",
      since: "not up: the time of the first sample at which it did not answer",
      code: "not up: the error code",
      error: "not up: why; likewise, with ok (false), when the command fails",
      ok: "false: the command fails",
      worker: "up, as all that follows: name and version",
      seconds: "the time that rates and percentiles are of",
      sinceStart: "whether that is the time since the worker's start",
      uptimeMs: "milliseconds since the worker started",
      clients: "connections",
      threads: "that carry out requests",
      queued: "requests that wait for their turn",
      running: "requests that a thread is at",
      bytesInFlight: "that those move",
      maxBytesInFlight: "that requests may move at one time",
      maxBytes: "the limit of the disk; with a quota only, as the next two; 0: none",
      usedBytes: "what all objects take of the disk",
      objects: "their number",
      hitRatio: "0 to 1; null: nothing was to be got",
      errorsPerSecond: "objects and requests that failed; a miss is none",
      cancelledPerSecond: "of these, those that were cancelled",
      evictionsPerSecond: "objects that were removed to make room; null: not counted",
      verbs: "of each verb: requestsPerSecond, bytesPerSecond, errorsPerSecond, p50Ms and p99Ms " +
        "(null: no request)",
    },
  },
} as const satisfies CommandDescription;
