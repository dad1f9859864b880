// SPDX-License-Identifier: Apache-2.0

import { type CommandDescription, JSON_OPTION } from "../description.ts";

/** lmshm verify. */
export const VERIFY = {
  name: "verify",
  summary: "send data through memory, worker and files and back, and compare every byte",
  usage: "[OPTION]...",
  about: [
    "Creates a shared memory segment, starts a worker or connects to a running one, stores data " +
    "through it, checks the files, wipes the memory, loads the data back and compares every byte. " +
    "Removes all that it made, and refuses at once what cannot fit into memory or onto the disk.",
  ],
  options: [
    {
      heading: "What goes through",
      name: "input",
      value: "FILE",
      repeat: true,
      completes: "file",
      text: "this file, cut into chunks; may be repeated (default: generated data)",
    },
    {
      name: "size",
      value: "SIZE",
      text: "how much to generate (default 2GiB, less where memory or disk is small)",
    },
    {
      name: "chunk-size",
      value: "SIZE",
      text: "bytes of a chunk (default 33554432, LMCache's usual 2 x 32 x 256 x 1024 bf16)",
    },
    {
      heading: "Where it goes",
      name: "storage-dir",
      value: "DIR",
      completes: "directory",
      text: "directory for the files (default: a new one below /var/tmp)",
    },
    {
      name: "store",
      value: "URL",
      text:
        "an engine instead of files: redis://host:6379, s3://bucket?endpoint=http://host:9000 " +
        "(256MiB are generated then)",
    },
    {
      name: "store-secret-file",
      value: "FILE",
      completes: "file",
      text:
        "what it is logged in to with (default $LMSHM_STORE_SECRET, or $AWS_ACCESS_KEY_ID and " +
        "$AWS_SECRET_ACCESS_KEY); none: without a login",
    },
    {
      name: "worker-address",
      value: "A",
      text: "a running worker: host:port, unix:/path or /path (default: start one)",
    },
    {
      name: "secret-file",
      value: "FILE",
      completes: "file",
      text: "the secret of a TCP worker",
    },
    { name: "worker-binary", value: "FILE", completes: "file", text: "the worker to start" },
    {
      name: "shm-name",
      value: "NAME",
      text: "name of the segment (default: anonymous, or lmshm-verify-PID with an address)",
    },
    { name: "pool-size", value: "SIZE", text: "size of the segment (default 2GiB at most)" },
    {
      name: "pin",
      value: "MODE",
      choices: ["auto", "require", "none"],
      text: "auto, require or none (default auto)",
    },
    {
      heading: "How",
      name: "in-flight",
      value: "N",
      text: "requests at a time, 1 to 64 (default 4)",
    },
    JSON_OPTION,
  ],
  examples: [
    { run: "lmshm verify", does: "Is this machine all right?" },
    {
      run: "lmshm verify --storage-dir /data/kv --size 20GiB --pool-size 4GiB",
      does: "More data than memory, onto the disk that is going to be used:",
    },
    { run: "lmshm verify --store redis://10.0.0.7", does: "Through a Redis server:" },
    {
      run: "lmshm verify --worker-address unix:/run/lmshm.sock --storage-dir /data/kv",
      does: "From inside a container, through the worker of the host:",
    },
  ],
  status: { 0: "everything matched", 1: "something differed, or could not be done" },
  json: {
    form: "object",
    members: {
      ok: "everything matched",
      chunks: "how many went through",
      bytes: "how many those have together",
      mismatches: "what differed, as sentences",
      steps: "name, milliseconds and bytes of each step, over all rounds",
      notes: "what is worth knowing, as sentences",
      version: "of this command",
      runtime: "bun or deno",
      library: "path of liblmshm.so",
      segment: "name (null: anonymous), sizeBytes, pinnedBy and message of the segment",
      worker: "the address, or spawned",
      storageDir: "where the files were; null: nowhere",
      store: "the URL of an engine; null: none",
    },
  },
} as const satisfies CommandDescription;
