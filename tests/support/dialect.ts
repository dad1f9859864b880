// SPDX-License-Identifier: Apache-2.0
//
// How a raw client introduces itself to lmshm-worker: who it is, which version it speaks, which
// segment it means. Everything of the protocol's beginning that the raw clients of these tests have
// to know is in this file.

import { createHmac, randomBytes } from "node:crypto";
import { fstatSync, readFileSync } from "node:fs";

/** Says a line and resolves to the answer. */
export type Ask = (line: string) => Promise<string>;

/** Labels of what each end proves. */
const CLIENT_LABEL = "lmshm client 1";
const WORKER_LABEL = "lmshm worker 1";

function proofOf(secret: string, label: string, nonces: readonly string[]): string {
  return createHmac("sha256", secret).update([label, ...nonces].join("\0")).digest("hex");
}

function expectOk(answer: string, what: string): string {
  if (answer !== "OK" && !answer.startsWith("OK ")) throw new Error(`${what}: ${answer}`);
  return answer.slice(3);
}

/** What a client says first over TCP. Throws when it is not believed, or cannot believe. */
export async function authenticate(ask: Ask, secret: string): Promise<void> {
  const own = randomBytes(32).toString("hex");
  const nonces = [own, expectOk(await ask(`CHALLENGE ${own}`), "CHALLENGE")];
  const proof = proofOf(secret, CLIENT_LABEL, nonces);
  const answer = expectOk(await ask(`PROVE ${proof}`), "PROVE");
  if (answer !== proofOf(secret, WORKER_LABEL, nonces)) throw new Error("a worker that lies");
}

/** `<boot>:<dev>:<ino>` of an open segment. */
function identityOf(fd: number): string {
  const { dev, ino } = fstatSync(fd, { bigint: true });
  const boot = readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim().replaceAll("-", "");
  return `${boot}:${dev}:${ino}`;
}

/** The words of ATTACH in version 2, without the request's id. `fd`: null attaches any of the name. */
export function attachWords(name: string, sizeBytes: number, fd: number | null): string {
  return `ATTACH /${name} ${sizeBytes} ${fd === null ? "-" : identityOf(fd)}`;
}

/** Attaches in version 1. Resolves to the answer of ATTACH. */
export function attachFirst(
  ask: Ask,
  name: string,
  sizeBytes: number,
  base: bigint,
): Promise<string> {
  return ask(`ATTACH /${name} ${sizeBytes} ${base}`);
}
