// SPDX-License-Identifier: Apache-2.0
//
// lmshm dashboard: a page of what a worker does and of what fills the pools. watch.ts asks the worker,
// history.ts keeps what it said, server.ts serves it, and page/ shows it.

import { hostname } from "node:os";
import { readArguments } from "../arguments.ts";
import { type Command, interruptible, UsageError } from "../command.ts";
import { DASHBOARD } from "../descriptions/dashboard.ts";
import { complain, print } from "../terminal.ts";
import { parseWorker, WorkerSource } from "../worker_source.ts";
import { accessTo, parseListen, shownHost } from "./listen.ts";
import { serveDashboard } from "./server.ts";
import { WorkerWatch } from "./watch.ts";

/** What listening fails with, in words that help. */
function listenError(error: Error, host: string, port: number): Error {
  const { code } = error as NodeJS.ErrnoException;
  const [why, hint] = code === "EADDRINUSE"
    ? ["something else listens there", "choose another port with --listen, or 0 for any free one"]
    : code === "EACCES"
    ? ["this user may not", "choose a port from 1024 on with --listen"]
    // Deno says EINVAL for it.
    : code === "EADDRNOTAVAIL" || code === "EINVAL"
    ? ["this machine has no such address", "ip address shows what it has"]
    : [error.message, "see lmshm dashboard --help"];
  return new Error(`cannot listen at ${host}:${port}: ${why}; ${hint}`);
}

export const dashboard: Command = {
  run(args) {
    const { values, operands: [text, ...more] } = readArguments(DASHBOARD, args);
    const named = text === undefined ? null : parseWorker(text);
    if (more.length > 0) {
      throw new UsageError(`dashboard takes one WORKER, and got "${more[0]}" too`);
    }
    const listen = parseListen(values.listen);
    const { token, made } = accessTo(listen, values["token-file"]);
    const names = [hostname(), ...values["allow-host"] ?? []].map((name) => name.toLowerCase());
    return interruptible(values.json, async (signal) => {
      await using source = named && new WorkerSource(named.store, values["secret-file"], signal);
      const watch = source && new WorkerWatch(() => source.info(), named.directory !== null);
      const ended = new AbortController();
      const watching = watch?.run(
        AbortSignal.any([signal, ended.signal]),
        (message) => complain(`lmshm: ${message}`),
      );
      try {
        await serveDashboard({
          listen,
          policy: { loopback: listen.loopback, names, token },
          worker: watch && { text: text!, watch },
          signal,
          listening: (address, port) => {
            const url = `http://${shownHost(address)}:${port}/`;
            if (values.json) print(JSON.stringify({ url, token: made ? token : null }));
            else print(`LISTENING ${url}${made ? `#token=${token}` : ""}`);
          },
        }).catch((error) => {
          throw signal.aborted ? error : listenError(error as Error, listen.host, listen.port);
        });
      } finally {
        ended.abort();
        await watching;
      }
      return true;
    }, "it serves no more");
  },
};
