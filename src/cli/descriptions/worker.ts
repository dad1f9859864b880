// SPDX-License-Identifier: Apache-2.0

import type { CommandDescription } from "../description.ts";

/** lmshm worker. Its options are those of lmshm-worker, which reads them itself. */
export const WORKER = {
  name: "worker",
  summary: "be a worker: serve a directory to programs on this machine",
  usage: "[OPTION]...",
  about: [
    "Becomes lmshm-worker, the one that this command carries or that LMSHM_WORKER names: the same " +
    "process goes on as the worker, so that signals, exit status, stdin and the log on stderr are its " +
    "own, and nothing of this command stays in memory.",
    "With --listen it serves any number of programs, such as containers that share /dev/shm with the " +
    "host, and prints LISTENING and the address once it does; without, one on stdin and stdout.",
  ],
  options: [
    {
      heading: "Whom it serves",
      name: "listen",
      value: "ADDRESS",
      repeat: true,
      text:
        "HOST:PORT (no HOST: 127.0.0.1; PORT 0: any), [IPV6]:PORT, unix:PATH, or a path; may be " +
        "repeated. Needs --root or --store",
    },
    {
      name: "root",
      value: "DIR",
      completes: "directory",
      text: "serve only files below DIR; without --listen the default is all that its user may use",
    },
    {
      name: "store",
      value: "URL",
      text: "keep objects there: redis://[USER@]HOST[:PORT][/DB], redis+unix:///PATH, " +
        "redis+cluster://HOST[:PORT],..., s3://BUCKET[/PREFIX]?endpoint=http://HOST:PORT",
    },
    {
      name: "store-secret-file",
      value: "FILE",
      completes: "file",
      text: "what it is logged in to with, mode 0600 (default $LMSHM_STORE_SECRET, or " +
        "$AWS_ACCESS_KEY_ID and $AWS_SECRET_ACCESS_KEY)",
    },
    {
      name: "segment-fd",
      value: "N",
      repeat: true,
      text: 'clients may attach the inherited descriptor N as "fd:N"; may be repeated',
    },
    {
      name: "secret-file",
      value: "FILE",
      completes: "file",
      text: "TCP clients must prove that they know this file's content: 16 to 1024 printable " +
        "characters, mode 0600 (default $LMSHM_SECRET)",
    },
    { name: "no-auth", text: "TCP clients need not authenticate; loopback only" },
    {
      name: "plain-auth",
      text: "TCP clients may also send the secret itself, which whoever listens can read",
    },
    {
      name: "max-clients",
      value: "N",
      text: "clients at one time, of which each address keeps a share (default 64, at most 4096)",
    },
    {
      name: "idle-timeout",
      value: "S",
      text: "drop a socket client that sends nothing for S seconds (default 0: never)",
    },
    {
      heading: "How it works",
      name: "io",
      value: "MODE",
      choices: ["auto", "direct", "cached"],
      text: "past the page cache (direct), through it (cached), or as it seems best (auto)",
    },
    {
      name: "sync",
      value: "WHAT",
      choices: ["none", "data", "full"],
      text:
        "what is on the disk before a put is answered: none (default), data, or full (the name " +
        "too)",
    },
    { name: "io-threads", value: "N", text: "threads that carry out requests (default 4)" },
    { name: "nice", value: "N", text: "nice value of these threads, 0 to 19 (default 0)" },
    {
      name: "max-bytes-in-flight",
      value: "N",
      text: "bytes that requests move at one time (default 1073741824)",
    },
    {
      name: "max-bytes",
      value: "N",
      text:
        "bytes of the disk that all objects below the root may take; what was used longest ago " +
        "is removed to make room. 0: counted, without a limit. Needs --root",
    },
    {
      name: "keep-open",
      value: "N",
      text: "small objects that are got again and again stay open, at most N (default 8192)",
    },
    {
      heading: "Beside that",
      name: "no-sandbox",
      text: "do not fence this process in with Landlock",
    },
    {
      name: "log-level",
      value: "LEVEL",
      choices: ["error", "warn", "info", "debug"],
      text: "on stderr (default warn, or $LMSHM_LOG)",
    },
  ],
  examples: [
    {
      run: "lmshm worker --listen unix:/run/lmshm.sock --root /data/kv --max-bytes 500000000000",
      does: "The host's half of a container set-up, with 500 GB of the disk:",
    },
    {
      run: "lmshm worker --listen 127.0.0.1:9800 --root /data/kv --secret-file /etc/lmshm.secret",
      does: "Over TCP, with a secret (openssl rand -hex 32 makes one):",
    },
  ],
  status: {
    0: "ended by SIGTERM, SIGINT or SIGHUP, or by the end of its input",
    1: "failed while serving, or the worker is not there",
    3: "could not start: the root, the secret or an address could not be had",
  },
} as const satisfies CommandDescription;
