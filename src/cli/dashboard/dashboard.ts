// SPDX-License-Identifier: Apache-2.0
//
// lmshm dashboard: a page of what a worker does and of what fills the pools. watch.ts asks the worker,
// history.ts keeps what it said, server.ts serves it, and page/ shows it.

import { hostname } from "node:os";
import process from "node:process";
import { setTimeout as pause } from "node:timers/promises";
import { readArguments } from "../arguments.ts";
import { type Command, interruptible, UsageError } from "../command.ts";
import { DASHBOARD } from "../descriptions/dashboard.ts";
import { complain, print, printed } from "../terminal.ts";
import { parseWorker, WorkerSource } from "../worker_source.ts";
import { accessTo, parseListen, shownHost } from "./listen.ts";
import { serveDashboard } from "./server.ts";
import { WorkerWatch } from "./watch.ts";

const CLOSE_MS = 1_000;

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

/** Whether it is closed within a second: a worker that does not answer keeps nobody from leaving. */
async function closes(source: WorkerSource): Promise<boolean> {
  const closed = source[Symbol.asyncDispose]().then(() => true, () => true);
  return await Promise.race([closed, pause(CLOSE_MS, false, { ref: false })]);
}

export const dashboard: Command = {
  async run(args) {
    const { values, operands: [text, ...more] } = readArguments(DASHBOARD, args);
    const named = text === undefined ? null : parseWorker(text);
    if (more.length > 0) {
      throw new UsageError(`dashboard takes one WORKER, and got "${more[0]}" too`);
    }
    const listen = parseListen(values.listen);
    const { token, made } = accessTo(listen, values["token-file"]);
    const names = [hostname(), ...values["allow-host"] ?? []].map((name) => name.toLowerCase());
    let closed = true;
    const status = await interruptible(values.json, async (interrupted) => {
      const ended = new AbortController();
      const signal = AbortSignal.any([interrupted, ended.signal]);
      const source = named && new WorkerSource(named.store, values["secret-file"], signal);
      const watch = source && new WorkerWatch(() => source.info(), named.directory !== null);
      const watching = watch?.run(signal, (message) => complain(`lmshm: ${message}`));
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
            // Nobody would know where it is, or its token.
            void printed().then((unwritten) => unwritten && ended.abort(unwritten));
          },
        }).catch((error) => {
          throw signal.aborted ? error : listenError(error as Error, listen.host, listen.port);
        });
      } finally {
        ended.abort();
        await watching;
        if (source !== null) closed = await closes(source);
      }
      return true;
    }, "it serves no more");
    if (!closed) {
      await printed();
      process.exit(status);
    }
    return status;
  },
};
