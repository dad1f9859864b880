// SPDX-License-Identifier: Apache-2.0
//
// A worker that is our own child process: requests on its stdin, replies on its stdout, its log on
// its stderr, which is always read. It is never left behind: it exits by itself when its stdin
// ends, so that also a killed program leaves none. It does not keep an idle program alive.

import { type ChildProcess, spawn } from "node:child_process";
import { existsSync } from "node:fs";
import process from "node:process";
import { type ErrorCode, knownCode, ShmError } from "../errors.ts";
import { refusedFlag } from "../permission.ts";
import { errnoNumber } from "./errno_text.ts";
import { executableFault } from "./executable.ts";
import { describeLog, LogTail } from "./log_tail.ts";
import { settlesWithin } from "../wait.ts";
import type { Transport, TransportHandlers } from "./transport.ts";

interface SpawnOptions {
  /** Path of the worker's executable. No shell is involved. */
  readonly binary: string;
  readonly args: readonly string[];
  /** The child's current directory; default: the one of this process at that moment. */
  readonly cwd?: string | undefined;
  /** Beside what this process has in its environment. */
  readonly env?: Readonly<Record<string, string>> | undefined;
  /** A descriptor that the child gets as its number 3; null for none. It stays the caller's. */
  readonly passFd: number | null;
  /** Each line of the child's stderr. */
  readonly onLog?: ((line: string) => void) | undefined;
}

/** How long output that the child left in its pipe is waited for after its exit. */
const LAST_OUTPUT_MS = 250;
/** How long a child that closed its stdout or stdin may take to exit before it is killed. */
const HALF_DEAD_MS = 1_000;

/** The exit status of a worker that could not begin to serve. */
const CANNOT_START = 3;

/** Why, in its own words: the log's last line. */
function refusalOf(log: readonly string[]): { code: ErrorCode; text: string } | null {
  const [, name, text] = /: cannot start: (E[A-Z0-9]+) (.*)$/s.exec(log.at(-1) ?? "") ?? [];
  const code = knownCode(name);
  return code === undefined ? null : { code, text: text! };
}

interface Unrefable {
  unref?: () => void;
}

export class SpawnTransport implements Transport {
  readonly ready: Promise<void>;
  readonly #options: SpawnOptions;
  readonly #handlers: TransportHandlers;
  readonly #log: LogTail;
  readonly #exited: Promise<void>;
  #child: ChildProcess | null = null;
  #setExited: () => void = () => {};
  #gone = false;
  /** From then on its process id may be another's. */
  #exitSeen = false;
  #hasSpoken = false;
  #spawnError: ShmError | null = null;

  constructor(options: SpawnOptions, handlers: TransportHandlers) {
    this.#options = options;
    this.#handlers = handlers;
    this.#log = new LogTail(options.onLog);
    this.#exited = new Promise((resolve) => this.#setExited = resolve);
    this.ready = this.#start();
    // Whoever awaits `ready` gets the error; nobody may be there to await it.
    this.ready.catch(() => {});
  }

  get pid(): number | null {
    return this.#child?.pid ?? null;
  }

  get peer(): string {
    return `worker process ${this.pid ?? "?"} (${this.#options.binary})`;
  }

  write(text: string): boolean {
    const stdin = this.#child?.stdin;
    if (!stdin || !stdin.writable) return true;
    return stdin.write(text);
  }

  abandon(): void {
    this.#kill("SIGKILL");
  }

  destroy(): void {
    this.#kill("SIGKILL");
  }

  async close(graceMs: number): Promise<void> {
    this.#child?.stdin?.end();
    if (await settlesWithin(this.#exited, graceMs)) return;
    this.#kill("SIGTERM");
    if (await settlesWithin(this.#exited, graceMs)) return;
    this.#kill("SIGKILL");
    await settlesWithin(this.#exited, graceMs);
  }

  #start(): Promise<void> {
    return new Promise((resolve, reject) => {
      const { binary, args, cwd, passFd, env = {} } = this.#options;
      const fail = (cause: unknown) => {
        const error = this.#cannotStart(cause);
        reject(error);
        // Never from within the constructor: nobody knows of this transport yet.
        queueMicrotask(() => this.#finish(error));
      };
      let child: ChildProcess;
      try {
        child = spawn(binary, [...args], {
          cwd,
          ...(Object.keys(env).length === 0 ? {} : { env: { ...process.env, ...env } }),
          stdio: passFd === null ? ["pipe", "pipe", "pipe"] : ["pipe", "pipe", "pipe", passFd],
        });
      } catch (cause) {
        // Bun throws for some errors (ENOEXEC) and emits an event for others.
        fail(cause);
        return;
      }
      this.#child = child;
      child.on("spawn", () => {
        this.#unref(child);
        resolve();
      });
      child.on("error", (cause) => {
        if (child.pid === undefined) fail(cause);
      });
      this.#listen(child);
    });
  }

  #listen(child: ChildProcess): void {
    const { stdin, stdout, stderr } = child;
    let outputEnded = Promise.resolve();
    if (stdout) {
      outputEnded = new Promise((resolve) => {
        stdout.on("end", resolve);
        stdout.on("close", resolve);
        stdout.on("error", () => resolve());
      });
      stdout.on("data", (chunk: Uint8Array) => {
        this.#hasSpoken = true;
        this.#handlers.data(chunk);
      });
      stdout.on("end", () => this.#halfDead());
    }
    stderr?.on("data", (chunk: Uint8Array) => this.#log.push(chunk));
    stderr?.on("error", () => {});
    stdin?.on("drain", () => this.#handlers.drain());
    stdin?.on("error", () => this.#halfDead());
    child.on("exit", (code, signal) => {
      this.#exitSeen = true;
      void settlesWithin(outputEnded, LAST_OUTPUT_MS).then(() =>
        this.#finish(this.#exitError(code, signal))
      );
    });
  }

  /**
   * While requests are in flight the connection's timer keeps the program alive; an idle worker
   * must not.
   */
  #unref(child: ChildProcess): void {
    child.unref();
    for (const stream of [child.stdin, child.stdout, child.stderr]) {
      (stream as Unrefable | null)?.unref?.();
    }
  }

  /** One of its pipes has ended: it is about to exit, or is of no use any more. */
  #halfDead(): void {
    void settlesWithin(this.#exited, HALF_DEAD_MS).then((exited) => {
      if (!exited) this.#kill("SIGKILL");
    });
  }

  /** Not child.kill(): in Deno a second signal is never sent. */
  #kill(signal: "SIGTERM" | "SIGKILL"): void {
    const pid = this.#child?.pid;
    if (pid === undefined || this.#exitSeen) return;
    try {
      process.kill(pid, signal);
    } catch {
      // It is gone already, or it has changed its user: then close() gives up after its last wait.
    }
  }

  #finish(error: ShmError): void {
    if (this.#gone) return;
    this.#gone = true;
    this.#setExited();
    const child = this.#child;
    for (const stream of [child?.stdin, child?.stdout, child?.stderr]) stream?.destroy();
    this.#handlers.gone(error);
  }

  #cannotStart(cause: unknown): ShmError {
    if (this.#spawnError) return this.#spawnError;
    const { binary, cwd } = this.#options;
    const given = (cause as { code?: unknown } | null)?.code;
    const flag = refusedFlag(cause);
    const code = flag !== null ? "EPERM" : knownCode(given) ?? "EWORKER";
    const fault = code === "ENOEXEC"
      ? executableFault(binary)
      : code === "ENOENT" && cwd !== undefined && existsSync(binary) && !existsSync(cwd)
      ? `${binary} cannot be started in ${cwd}, which is not there any more`
      : null;
    const hints: Readonly<Record<string, string>> = {
      ENOENT: 'Build it with "npm run build", or give workerBinary the path of a worker',
      EACCES: binary.startsWith("/proc/self/fd/")
        ? "The system lets this program start none from memory: put the worker beside it as a file, " +
          "and name it in LMSHM_WORKER or workerBinary"
        : "Give it execute permission (chmod +x), and check that it is a file and not a folder",
      ENOEXEC: "Give workerBinary a worker built for this machine",
    };
    const hint = flag !== null
      ? `Deno refuses it: run it with ${flag}`
      : code === "ENOENT" && fault !== null
      ? "Make the directory again, or give workerArgs full paths and open the connector again"
      : hints[code];
    const errno = errnoNumber(code);
    this.#spawnError = new ShmError(
      fault ?? `${binary} cannot be started: ${cause instanceof Error ? cause.message : cause}`,
      {
        code,
        operation: "start worker",
        ...(errno === undefined ? {} : { errno }),
        ...(hint === undefined ? {} : { hint }),
        details: { binary, args: this.#options.args },
        cause,
      },
    );
    return this.#spawnError;
  }

  #exitError(code: number | null, signal: string | null): ShmError {
    const { binary } = this.#options;
    const log = this.#log.lines;
    const how = signal ? `was killed by ${signal}` : `exited with status ${code}`;
    const refusal = code === CANNOT_START && !this.#hasSpoken ? refusalOf(log) : null;
    if (refusal !== null) {
      const errno = errnoNumber(refusal.code);
      return new ShmError(`${this.peer} cannot start: ${refusal.text}`, {
        code: refusal.code,
        operation: "start worker",
        ...(errno === undefined ? {} : { errno }),
        details: { binary, pid: this.pid, exitCode: code, signal, log },
      });
    }
    // Deno has a shell run what the kernel cannot.
    const fault = code !== 0 && !this.#hasSpoken ? executableFault(binary) : null;
    return new ShmError(`${this.peer} ${how}${fault ? `: ${fault}` : describeLog(log)}`, {
      code: fault ? "ENOEXEC" : "EWORKER",
      operation: "talk to worker",
      ...(fault ? { hint: "Give workerBinary a worker built for this machine" } : {}),
      details: { binary, pid: this.pid, exitCode: code, signal, log },
    });
  }
}
