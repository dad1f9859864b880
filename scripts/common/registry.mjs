// SPDX-License-Identifier: Apache-2.0
//
// A registry on loopback (verdaccio), to which tarballs are published as they would be to the real
// one. What it does not have itself it fetches from the registry that npm is configured for.

import { spawn } from "node:child_process";
import { once } from "node:events";
import {
  closeSync,
  cpSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  writeFileSync,
} from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import process from "node:process";
import { installFolder } from "./dependencies.mjs";
import { capture, Failure, must, root, tail } from "./system.mjs";

/** Tarballs travel in base64 within JSON; ours are below one MB. */
const MAX_BODY = "64mb";
const START_MS = 60_000;

/**
 * Makes verdaccio available.
 * @returns {Promise<string>} the path of its program
 */
export async function installRegistry() {
  const folder = join(root, "build", "tools", "registry");
  mkdirSync(folder, { recursive: true });
  for (const name of ["package.json", "package-lock.json"]) {
    cpSync(join(root, "scripts", "registry", name), join(folder, name));
  }
  await installFolder(folder, "verdaccio, a registry for tests");
  return join(folder, "node_modules", "verdaccio", "bin", "verdaccio");
}

/** @returns {Promise<number>} a port of loopback that was free a moment ago */
async function freePort() {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = /** @type {import("node:net").AddressInfo} */ (server.address());
  server.close();
  await once(server, "close");
  return port;
}

/** @param {string} name */
const inScope = (name) => `@lmshm/${name}`;

/**
 * Makes what was published a week old: Deno takes nothing that is younger than a day.
 * @param {string} path where the registry keeps what it tells of a package
 */
function dateBack(path) {
  const told = JSON.parse(readFileSync(path, "utf8"));
  const then = new Date(Date.now() - 7 * 86_400_000).toISOString();
  for (const what of Object.keys(told.time)) told.time[what] = then;
  writeFileSync(path, JSON.stringify(told));
}

/**
 * @typedef {object} Registry
 * @property {string} url ends with a slash
 * @property {(tarballs: string[]) => Promise<void>} publish as anybody; only names of lmshm
 * @property {() => Promise<void>} stop
 */

/**
 * Starts an empty registry.
 * @param {string} program as installRegistry() gives it
 * @param {string} folder of its own, for all that it writes
 * @returns {Promise<Registry>}
 */
export async function startRegistry(program, folder) {
  const upstream = capture("npm", ["config", "get", "registry"])?.trim();
  if (!upstream?.startsWith("http")) throw new Failure("npm does not say which registry it uses");
  mkdirSync(folder, { recursive: true });
  const port = await freePort();
  const storage = join(folder, "storage");
  const own = { access: "$all", publish: "$all" };
  // JSON is YAML.
  writeFileSync(
    join(folder, "config.yaml"),
    JSON.stringify({
      storage,
      auth: { htpasswd: { file: join(folder, "htpasswd") } },
      uplinks: { upstream: { url: upstream, timeout: "60s", maxage: "1d" } },
      packages: { lmshm: own, "@lmshm/*": own, "**": { access: "$all", proxy: "upstream" } },
      max_body_size: MAX_BODY,
      web: { enable: false },
      log: { type: "stdout", format: "pretty", level: "warn" },
    }),
  );
  const log = join(folder, "log");
  const output = openSync(log, "a");
  const child = spawn(process.execPath, [
    ...[program, "--config", join(folder, "config.yaml"), "--listen", `127.0.0.1:${port}`],
  ], { cwd: folder, stdio: ["ignore", output, output] });
  closeSync(output);
  const ended = once(child, "exit");
  const stop = async () => {
    child.kill();
    await ended;
  };
  const url = `http://127.0.0.1:${port}/`;
  try {
    await answering(url, child, log);
  } catch (error) {
    await stop();
    throw error;
  }
  return {
    url,
    stop,
    async publish(tarballs) {
      // npm wants a token before it asks; this registry takes what anybody brings.
      const config = join(folder, "npmrc");
      writeFileSync(config, `registry=${url}\n//127.0.0.1:${port}/:_authToken=anybody\n`);
      for (const path of tarballs) {
        const args = [
          "publish",
          path,
          "--userconfig",
          config,
          "--registry",
          url,
          "--no-provenance",
        ];
        await must(`publishing ${path}`, "npm", args, {
          cwd: folder,
          log: join(folder, "publish.log"),
          quiet: true,
        });
      }
      for (const name of ["lmshm", ...readdirSync(join(storage, "@lmshm")).map(inScope)]) {
        dateBack(join(storage, name, "package.json"));
      }
    },
  };
}

/**
 * @param {string} url
 * @param {import("node:child_process").ChildProcess} child
 * @param {string} log
 */
async function answering(url, child, log) {
  for (const start = performance.now(); performance.now() - start < START_MS;) {
    if (child.exitCode !== null) break;
    try {
      if ((await fetch(`${url}-/ping`)).ok) return;
    } catch {
      // Not yet.
    }
    await sleep(100);
  }
  throw new Failure(`verdaccio does not answer at ${url}:\n${tail(log, 30)}`);
}
