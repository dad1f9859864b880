// SPDX-License-Identifier: Apache-2.0
//
// Where the dashboard listens, and who may read it: loopback, or any address with a token.

import { randomBytes } from "node:crypto";
import { readFileSync, statSync } from "node:fs";
import { isIP } from "node:net";
import { hostname } from "node:os";
import { ShmError } from "../../mod.ts";
import { UsageError } from "../command.ts";

const USUAL_PORT = 9809;
const TOKEN_BYTES = 32;
const TOKEN = /^[\x21-\x7e]{16,1024}$/;

export interface Listen {
  /** Without brackets. */
  readonly host: string;
  readonly port: number;
  readonly loopback: boolean;
}

/** @throws {UsageError} */
export function parseListen(text: string | undefined): Listen {
  const [, given, digits] = /^(?:(.*):)?(\d{1,5})$/.exec(text ?? String(USUAL_PORT)) ?? [];
  const port = Number(digits);
  const host = /^\[(.*)\]$/.exec(given ?? "")?.[1] ?? given ?? "127.0.0.1";
  if (digits === undefined || port > 65_535 || host === "") {
    throw new UsageError(
      `--listen takes PORT or HOST:PORT, such as 9809 or 0.0.0.0:9809, got "${text}"`,
    );
  }
  if (given?.includes(":") && !(host !== given && isIP(host) === 6)) {
    throw new UsageError(`--listen takes an IPv6 address in brackets, [::]:9809, got "${text}"`);
  }
  return { host, port, loopback: isLoopback(host) };
}

export function isLoopback(host: string): boolean {
  return host === "localhost" || host === "::1" || (isIP(host) === 4 && host.startsWith("127."));
}

/** @throws {ShmError} ENOENT, EACCES, EINVAL */
function readToken(path: string): string {
  const fail = (code: "ENOENT" | "EACCES" | "EINVAL", message: string, hint: string) =>
    new ShmError(`${path} ${message}`, { code, operation: "read token", hint });
  let text: string;
  let mode: number;
  try {
    mode = statSync(path).mode;
    text = readFileSync(path, "utf8").trim();
  } catch (cause) {
    const missing = (cause as NodeJS.ErrnoException).code === "ENOENT";
    throw fail(
      missing ? "ENOENT" : "EACCES",
      `cannot be read: ${(cause as Error).message}`,
      "Make one: (umask 077; openssl rand -hex 32 > FILE)",
    );
  }
  if ((mode & 0o077) !== 0) {
    throw fail(
      "EACCES",
      `may be read by others, its mode is 0${(mode & 0o777).toString(8)}`,
      `Let it be yours alone: chmod 600 ${path}`,
    );
  }
  if (!TOKEN.test(text)) {
    throw fail(
      "EINVAL",
      `has ${text.length} characters, and must have 16 to 1024 printable ones without spaces`,
      "Make one: (umask 077; openssl rand -hex 32 > FILE)",
    );
  }
  return text;
}

export interface Access {
  /** Null: none is needed. */
  readonly token: string | null;
  /** It was made now, and nobody knows it yet. */
  readonly made: boolean;
}

/** Which token there is: that of the file; else one that is made where others could reach it. */
export function accessTo({ loopback }: Listen, tokenFile: string | undefined): Access {
  if (tokenFile !== undefined) return { token: readToken(tokenFile), made: false };
  if (loopback) return { token: null, made: false };
  return { token: randomBytes(TOKEN_BYTES).toString("base64url"), made: true };
}

/** What stands for the bound address in the page's address. */
export function shownHost(address: string): string {
  if (address === "0.0.0.0" || address === "::") return hostname();
  return address.includes(":") ? `[${address}]` : address;
}
