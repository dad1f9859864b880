// SPDX-License-Identifier: Apache-2.0

import { type CommandDescription, JSON_OPTION } from "../description.ts";

/** lmshm dashboard. */
export const DASHBOARD = {
  name: "dashboard",
  summary: "a page for the browser: a worker over time, and pools as maps",
  usage: "[OPTION]... [WORKER]",
  operands: "any",
  about: [
    "Serves one page on this machine: rates, latencies and hit ratio of a worker over time, fill and " +
    "evictions of its directory, and a map of each pool that a program of this user shows with " +
    "publishPool(). It asks the worker once a second and keeps 15 minutes of that, and six hours more " +
    "coarsely, so that a page that is opened later shows what was. A worker that is away is shown as " +
    "that, and is asked again until it is back. Without a WORKER there are the maps alone.",
    "WORKER is an address (host:port, unix:/path or /path), or DIR@ADDRESS for the numbers of one " +
    "directory of the worker.",
    "It listens on loopback, where every user of this machine can read it, unless there is a token. " +
    "On any other address there always is one, and it is printed with the page's address unless it " +
    "comes from a file. What is sent is not encrypted: an SSH tunnel to the loopback address, or a " +
    "proxy with TLS before it, is the way across a network that others use.",
  ],
  options: [
    {
      name: "listen",
      value: "PORT",
      text: "serve at PORT of 127.0.0.1, or at HOST:PORT (default 9809; 0: any free port)",
    },
    {
      name: "token-file",
      value: "FILE",
      completes: "file",
      text: "who reads must know what is in this file: 16 to 1024 printable characters, mode 0600",
    },
    {
      name: "allow-host",
      value: "NAME",
      repeat: true,
      text:
        "a name by which browsers reach it, beside localhost, this machine's own and addresses; " +
        "may be repeated",
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
    { run: "lmshm dashboard kv@unix:/run/lmshm.sock", does: "At http://127.0.0.1:9809/:" },
    {
      run: "ssh -L 9809:localhost:9809 gpu-host lmshm dashboard unix:/run/lmshm.sock",
      does: "Of another machine, in the browser of this one:",
    },
    {
      run:
        "lmshm dashboard unix:/run/lmshm.sock --listen 0.0.0.0:9809 --token-file /etc/lmshm.token",
      does: "For whoever has the token (openssl rand -hex 32 makes one):",
    },
  ],
  status: { 0: "ended by a signal", 1: "the address or the token cannot be had" },
  json: {
    form: "object",
    members: {
      url: "of the page, once it is served",
      token:
        "that was made for it, which the page asks for; null: it is in the file, or none is needed",
    },
  },
} as const satisfies CommandDescription;
