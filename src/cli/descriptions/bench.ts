// SPDX-License-Identifier: Apache-2.0

import { type CommandDescription, JSON_OPTION } from "../description.ts";

/** lmshm bench. */
export const BENCH = {
  name: "bench",
  summary: "measure this machine in a minute, against its own limits",
  usage: "[OPTION]... [DIR]",
  operands: "file",
  about: [
    "Measures in a directory how fast segments are made, objects are put and got (cold and cached, " +
    "large and small) and a request is answered, alone and beside as many busy processes as there " +
    "are CPUs. In turns with each it measures the limit: what one thread of a plain program gets " +
    "from the same system calls, memory or pipe at that time. So the share of the limit says what " +
    "lmshm costs on this machine, and the rates what this machine can do.",
    "DIR is where the files are, in a new directory that is removed again (default: below /var/tmp). " +
    "Name the disk that is going to be used. What does not fit into memory or onto the disk is " +
    "refused at once. All that was made is removed, also when it is interrupted.",
  ],
  options: [
    { name: "quick", text: "a quarter of the time, and less to be relied on" },
    {
      name: "chunk-size",
      value: "SIZE",
      text:
        "bytes of a large object, whole pages of 4096 (default 33554432); 16 of them must fit " +
        "into memory and onto the disk",
    },
    { name: "svg", value: "FILE", completes: "file", text: "write the chart to this file, too" },
    JSON_OPTION,
  ],
  examples: [
    { run: "lmshm bench /data", does: "What can this disk, and what does lmshm make of it?" },
    {
      run: "lmshm bench --quick --chunk-size 4MiB",
      does: "In a hurry, or where there is little room:",
    },
    {
      run: "lmshm bench /data --svg bench.svg --json > bench.json",
      does: "To be kept, and compared with the next machine:",
    },
  ],
  status: { 0: "measured, whatever the numbers are", 1: "it could not be measured" },
  json: {
    form: "object",
    members: {
      ok: "it was measured",
      version: "of this command",
      runtime: "name and version",
      machine: "cpus, cpu, kernel, memoryBytes",
      directory: "where the files were",
      fileSystem: "its kind, as the worker tells",
      pinnedBy: "what pinned the segment: none, cuda, cuda-driver, hip or mlock",
      chunkBytes: "bytes of a large object",
      quick: "whether --quick was said",
      seconds: "how long it took",
      measures:
        "of each: name, beside (busy processes), unit (MB/s, objects/s or us), median, min, max, " +
        "samples, skipped (why it was not measured, or null) and limits: of each name, median, min, " +
        "max, samples, share (median, min, max; 1: as fast as the limit) and verdict",
      notes: "what is worth knowing, as sentences",
    },
  },
} as const satisfies CommandDescription;
