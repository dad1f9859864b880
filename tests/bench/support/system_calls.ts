// SPDX-License-Identifier: Apache-2.0
//
// Which processes move how many bytes by which system calls: strace, attached to running processes
// and detached again. Arguments are taken raw, so that addresses of buffers are seen.

import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** Every call that can move bytes between memory and a descriptor. */
const CALLS = [
  ...["read", "write", "readv", "writev", "pread64", "pwrite64", "preadv", "pwritev"],
  ...["preadv2", "pwritev2", "sendto", "recvfrom", "sendmsg", "recvmsg", "sendmmsg", "recvmmsg"],
  ...["splice", "tee", "vmsplice", "sendfile", "copy_file_range", "io_uring_enter"],
  ...["process_vm_readv", "process_vm_writev"],
];
const LIMIT_MS = 10_000;

/** One call that succeeded. */
export interface SystemCall {
  readonly thread: number;
  readonly name: string;
  readonly args: readonly bigint[];
  /** What it returned: bytes, for all calls but io_uring_enter. */
  readonly result: number;
}

/**
 * Reads what strace wrote with raw arguments. Calls that another thread interrupted stand in two
 * lines, which are put together; calls that failed are left out.
 */
export function parseTrace(text: string): SystemCall[] {
  const begun = new Map<string, string>();
  const calls: SystemCall[] = [];
  for (const line of text.split("\n")) {
    const [, thread = "", rest = ""] = /^(\d+)\s+(.*)$/.exec(line) ?? [];
    const unfinished = /^(.*?)\s*<unfinished \.\.\.>$/.exec(rest);
    if (unfinished) {
      begun.set(thread, unfinished[1]!);
      continue;
    }
    const resumed = /^<\.\.\. \w+ resumed>(.*)$/.exec(rest);
    const whole = resumed ? (begun.get(thread) ?? "") + resumed[1]! : rest;
    const call = /^(\w+)\(([^)]*)\)\s*=\s*(0x[0-9a-f]+|\d+)/.exec(whole);
    if (!call) continue;
    const args = call[2]!.split(",").map((word) => word.trim()).filter((word) =>
      /^(0x[0-9a-f]+|\d+)$/.test(word)
    );
    calls.push({
      thread: Number(thread),
      name: call[1]!,
      args: args.map(BigInt),
      result: Number(call[3]),
    });
  }
  return calls;
}

/** Where a file is mapped in a process: from, to. Empty when it is not. */
export function mappingsOf(pid: number, part: string): (readonly [bigint, bigint])[] {
  const found: (readonly [bigint, bigint])[] = [];
  for (const line of readFileSync(`/proc/${pid}/maps`, "utf8").split("\n")) {
    const range = /^([0-9a-f]+)-([0-9a-f]+) /.exec(line);
    if (range && line.includes(part)) {
      found.push([BigInt(`0x${range[1]}`), BigInt(`0x${range[2]}`)]);
    }
  }
  return found;
}

/** Why strace cannot be used here; null: it can. */
export function traceObstacle(): string | null {
  const { status } = spawnSync("strace", ["-V"]);
  return status === 0 ? null : "strace is not installed";
}

async function attach(pid: number, output: string): Promise<ChildProcess> {
  const names = CALLS.join(",");
  const args = ["-f", "-o", output, "-e", `trace=${names}`, "-e", `raw=${names}`, "-p", `${pid}`];
  const child = spawn("strace", args, { stdio: ["ignore", "ignore", "pipe"] });
  let said = "";
  await new Promise<void>((resolve, reject) => {
    const timer = setTimeout(() => {
      child.kill("SIGKILL");
      reject(new Error(`strace did not attach to process ${pid}: ${said}`));
    }, LIMIT_MS);
    child.stderr!.on("data", (part: Uint8Array) => {
      said += new TextDecoder().decode(part);
      if (!said.includes("attached")) return;
      clearTimeout(timer);
      resolve();
    });
    child.on("error", reject);
    child.on("exit", () => {
      clearTimeout(timer);
      reject(new Error(`strace cannot attach to process ${pid}: ${said.trim()}`));
    });
  });
  return child;
}

/**
 * Runs `work` while the processes are traced. If this process is among them, what it reads of
 * strace's messages counts, some hundred bytes.
 * @returns the calls of each process, in the order of `pids`
 * @throws {Error} with strace's own words where it is missing or not allowed to.
 */
export async function traced(
  pids: readonly number[],
  work: () => Promise<void>,
): Promise<SystemCall[][]> {
  const folder = mkdtempSync(join(tmpdir(), "lmshm-trace-"));
  const outputs = pids.map((pid) => join(folder, String(pid)));
  const children: ChildProcess[] = [];
  try {
    for (const [index, pid] of pids.entries()) children.push(await attach(pid, outputs[index]!));
    await work();
    for (const child of children) {
      const exited = once(child, "exit");
      // It detaches, and the traced process goes on.
      child.kill("SIGINT");
      await exited;
    }
    return outputs.map((path) => parseTrace(readFileSync(path, "utf8")));
  } finally {
    for (const child of children) if (child.exitCode === null) child.kill("SIGINT");
    rmSync(folder, { recursive: true, force: true });
  }
}
