// SPDX-License-Identifier: Apache-2.0
//
// The text of protocol version 1: requests into lines, lines into replies. Pure; docs/protocol.md
// describes it, and csrc/worker/protocol/request.h is its counterpart in the worker.
//
//     ATTACH <shm_name> <size> <base_addr>      -> OK
//     WRITE <path> <data_ptr> <length>          -> OK <bytes_written>
//     READ <path> <data_ptr> <length>           -> OK <bytes_read>
//     QUIT                                      -> OK, then the connection ends
//     IDENTITY <boot>:<device>:<inode>          -> OK              (an extension of lmshm-worker)
//     PING                                      -> OK ...          (an extension of lmshm-worker)
//     CHALLENGE <nonce>, PROVE <proof>          -> OK <64 hex>     (likewise; see login.ts)
//
// Encoding: UTF-8, words separated by one space, numbers decimal. The two numbers are the last two
// words, so a path may contain spaces; LMCache's worker cuts it at the first one, which is why the
// client asks what it talks to. A request is always answered, by `OK ...` or `ERROR <message>`, and
// answers come in the order of the requests: that is all that ties them together.

import { codeFromMessage } from "./errno_text.ts";

/** The longest line in either direction, in bytes, with its line feed. */
export const MAX_LINE_BYTES = 65_536;

/** Names the memory that later requests refer to. */
export interface AttachRequest {
  /** A POSIX shared memory name ("/kv"), or "fd:3" for a descriptor that the worker inherited. */
  readonly name: string;
  readonly sizeBytes: bigint;
  /** Where the client mapped the segment; data addresses are relative to it. */
  readonly baseAddress: bigint;
}

/** Moves `byteLength` bytes between the file `path` and the client's address `address`. */
export interface TransferRequest {
  readonly path: string;
  readonly address: bigint;
  readonly byteLength: bigint;
}

export interface OkReply {
  readonly ok: true;
  /** What follows "OK ", "" when nothing does. */
  readonly text: string;
  /** `text` as a number of bytes; null when it is not one decimal number below 2^53. */
  readonly count: number | null;
}

export interface ErrorReply {
  readonly ok: false;
  /** The errno name that the message begins with or means, "EWORKER" when it has none. */
  readonly code: string;
  /** What follows "ERROR ", as the worker wrote it. */
  readonly message: string;
}

export type Reply = OkReply | ErrorReply;

const encoder = new TextEncoder();

/** A short, printable form of foreign text for error messages. */
export function printable(text: string, maxChars = 200): string {
  const cut = text.length > maxChars ? `${text.slice(0, maxChars)}...` : text;
  return JSON.stringify(cut);
}

function checkText(what: string, text: string, allowSpaces: boolean): void {
  const fault = text === ""
    ? "is empty"
    : /\p{Cc}/u.test(text)
    ? "contains a control character"
    : !text.isWellFormed()
    ? "contains half of a surrogate pair, which UTF-8 cannot express"
    : !allowSpaces && /\s/u.test(text)
    ? "contains a space"
    : text.startsWith(" ") || text.endsWith(" ")
    ? "begins or ends with a space"
    : "";
  if (fault) {
    throw new RangeError(
      `${what} ${printable(text)} ${fault}; a line of the protocol cannot carry it`,
    );
  }
}

function checkNumber(what: string, value: bigint): void {
  if (typeof value !== "bigint") throw new TypeError(`${what} must be a bigint, got ${value}`);
  if (value < 0n || value > 0xffff_ffff_ffff_ffffn) {
    throw new RangeError(`${what} must be between 0 and 2^64-1, got ${value}`);
  }
}

function line(words: string): string {
  const text = `${words}\n`;
  // A UTF-16 unit is at most 3 bytes of UTF-8: short lines need not be measured.
  if (text.length * 3 > MAX_LINE_BYTES) {
    const bytes = encoder.encode(text).length;
    if (bytes > MAX_LINE_BYTES) {
      throw new RangeError(`a request of ${bytes} bytes; a line has at most ${MAX_LINE_BYTES}`);
    }
  }
  return text;
}

export function encodeAttach(request: AttachRequest): string {
  checkText("segment name", request.name, true);
  checkNumber("sizeBytes", request.sizeBytes);
  checkNumber("baseAddress", request.baseAddress);
  return line(`ATTACH ${request.name} ${request.sizeBytes} ${request.baseAddress}`);
}

function encodeTransfer(command: string, request: TransferRequest): string {
  checkText("path", request.path, true);
  checkNumber("address", request.address);
  checkNumber("byteLength", request.byteLength);
  return line(`${command} ${request.path} ${request.address} ${request.byteLength}`);
}

export function encodeWrite(request: TransferRequest): string {
  return encodeTransfer("WRITE", request);
}

export function encodeRead(request: TransferRequest): string {
  return encodeTransfer("READ", request);
}

/** @param nonce 64 hexadecimal digits. */
export function encodeChallenge(nonce: string): string {
  return `CHALLENGE ${nonce}\n`;
}

/** @param proof 64 hexadecimal digits. */
export function encodeProof(proof: string): string {
  return `PROVE ${proof}\n`;
}

/** @param identity which file the next ATTACH must find, or "-": whatever has the name. */
export function encodeIdentity(identity: string): string {
  checkText("identity", identity, false);
  return line(`IDENTITY ${identity}`);
}

export function encodePing(): string {
  return "PING\n";
}

export function encodeQuit(): string {
  return "QUIT\n";
}

/** Throws a RangeError, without the secret in it, unless a worker can accept `secret`. */
export function checkSecret(secret: string): void {
  if (!/^[\x21-\x7e]{16,1024}$/.test(secret)) {
    throw new RangeError(
      `a secret has 16 to 1,024 printable ASCII characters without spaces; this one has ` +
        `${secret.length} characters`,
    );
  }
}

/** What a line without its line feed says; null when it is no reply at all. */
export function parseReply(text: string): Reply | null {
  if (text === "OK") return { ok: true, text: "", count: null };
  if (text.startsWith("OK ")) {
    const rest = text.slice(3).trim();
    const count = /^[0-9]{1,16}$/.test(rest) ? Number(rest) : NaN;
    return { ok: true, text: rest, count: Number.isSafeInteger(count) ? count : null };
  }
  if (text === "ERROR" || text.startsWith("ERROR ")) {
    const message = text.slice(6).trim();
    return { ok: false, code: codeFromMessage(message), message };
  }
  return null;
}
