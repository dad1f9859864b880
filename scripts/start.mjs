// SPDX-License-Identifier: Apache-2.0
//
// `npm start`: set-up, then `lmshm verify` on the project's own real input, by the pinned Bun.
// Arguments after `--` go to `lmshm verify`; `--store redis` and `--store s3` do it on a server that
// is started for it, where there is one on this machine.

import process from "node:process";
import { pinnedTool } from "./common/dependencies.mjs";
import { INSTALL, startServer } from "./common/store_servers.mjs";
import { Failure, run, runMain, say } from "./common/system.mjs";
import { setUp } from "./setup.mjs";

/** @param {string[]} args @param {Record<string, string>} [env] */
async function verify(args, env = {}) {
  Object.assign(process.env, env);
  const command = ["src/cli/main.ts", "verify", ...args];
  return await run(pinnedTool("bun"), command, { cleansUp: true });
}

/** @param {"redis" | "s3"} kind @param {string[]} args */
async function verifyOn(kind, args) {
  // Whenever it is interrupted, the server and what it has kept are removed.
  let interrupted = false;
  for (const name of ["SIGINT", "SIGTERM"]) process.on(name, () => interrupted = true);
  const server = await startServer(kind);
  if (server === null) {
    throw new Failure(
      `there is no ${kind === "s3" ? "S3" : "Redis or Valkey"} server here to start. ` +
        `${INSTALL[kind]}; or name one that runs: npm start -- --store ` +
        (kind === "s3" ? "s3://BUCKET?endpoint=http://HOST:PORT" : "redis://HOST:PORT"),
    );
  }
  try {
    say(`started ${server.program} on ${server.url}`);
    if (interrupted) return 130;
    return await verify([...args, "--store", server.url], server.secrets);
  } finally {
    await server.stop();
  }
}

await runMain(async () => {
  await setUp();
  const args = process.argv.slice(2);
  const at = args.findIndex((arg) => /^--store(=|$)/.test(arg));
  const given = at < 0 ? undefined : args[at]?.includes("=") ? args[at].slice(8) : args[at + 1];
  if (given !== "redis" && given !== "s3") return await verify(args);
  return await verifyOn(given, args.toSpliced(at, args[at]?.includes("=") ? 1 : 2));
});
