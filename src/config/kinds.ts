// SPDX-License-Identifier: Apache-2.0
//
// Kinds of values: what a setting accepts, and how the value in a file or in an environment
// variable becomes the one that programs use. A kind knows nothing of keys, and never throws: a
// value that it does not accept is `undefined`, and the words for the message are its own.
//
// Files follow LMCache's units (GB, seconds); code names units in the field and uses bytes and
// milliseconds. Numbers and booleans may be written as text, since the environment has only text.

import { isFileMode } from "./file_mode.ts";

export interface Kind<T> {
  /** What a file or a variable may say, for messages and the manual. */
  readonly accepts: string;
  read(value: unknown): T | undefined;
  /** What code may pass. */
  readonly acceptsInCode: string;
  check(value: unknown): T | undefined;
}

const GIB = 1024 ** 3;

function finiteNumber(value: unknown): number | undefined {
  if (typeof value === "number") return Number.isFinite(value) ? value : undefined;
  if (typeof value !== "string" || !/^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(value.trim())) {
    return undefined;
  }
  const number = Number(value);
  return Number.isFinite(number) ? number : undefined;
}

function integerWithin(value: number | undefined, min: number, max: number): number | undefined {
  return value !== undefined && Number.isSafeInteger(value) && value >= min && value <= max
    ? value
    : undefined;
}

/** A kind whose values look the same in files and in code. */
function plain<T>(accepts: string, read: (value: unknown) => T | undefined): Kind<T> {
  return { accepts, read, acceptsInCode: accepts, check: read };
}

export function integer(min: number, max: number, unit = ""): Kind<number> {
  const accepts = `an integer from ${min} to ${max}${unit && ` ${unit}`}`;
  return {
    accepts,
    read: (value) => integerWithin(finiteNumber(value), min, max),
    acceptsInCode: accepts,
    check: (value) => integerWithin(typeof value === "number" ? value : undefined, min, max),
  };
}

export function powerOfTwo(min: number, max: number): Kind<number> {
  const within = integer(min, max);
  const power = (value: number | undefined) =>
    value !== undefined && Number.isInteger(Math.log2(value)) ? value : undefined;
  return {
    accepts: `a power of two from ${min} to ${max}`,
    read: (value) => power(within.read(value)),
    acceptsInCode: `a power of two from ${min} to ${max}`,
    check: (value) => power(within.check(value)),
  };
}

/** GB as LMCache counts them, 1024^3 bytes, in files; bytes in code. `none`: 0 is one, too. */
export function gigabytes(minBytes: number, none = false): Kind<number> {
  const max = Number.MAX_SAFE_INTEGER;
  const orNone = none ? ", or 0 for none" : "";
  const within = (value: number | undefined) =>
    none && value === 0 ? 0 : integerWithin(value, minBytes, max);
  return {
    accepts: `a number of GB (1024^3 bytes) that makes ${minBytes} bytes or more${orNone}`,
    read(value) {
      const number = finiteNumber(value);
      return number === 0 ? within(0) : within(
        number === undefined ? number : Math.max(1, Math.floor(number * GIB)) * Math.sign(number),
      );
    },
    acceptsInCode: `an integer number of bytes from ${minBytes}${orNone}`,
    check: (value) => within(typeof value === "number" ? value : undefined),
  };
}

/** Seconds in files, milliseconds in code. */
export function seconds(minMs: number, maxMs: number): Kind<number> {
  return {
    accepts: `a number of seconds from ${minMs / 1000} to ${maxMs / 1000}`,
    read(value) {
      const number = finiteNumber(value);
      return integerWithin(number === undefined ? number : Math.round(number * 1000), minMs, maxMs);
    },
    acceptsInCode: `an integer number of milliseconds from ${minMs} to ${maxMs}`,
    check: (value) => integerWithin(typeof value === "number" ? value : undefined, minMs, maxMs),
  };
}

export const boolean: Kind<boolean> = {
  accepts: "true or false",
  read(value) {
    if (typeof value === "boolean") return value;
    const text = String(value).trim().toLowerCase();
    if (text === "true" || text === "1") return true;
    return text === "false" || text === "0" ? false : undefined;
  },
  acceptsInCode: "true or false",
  check: (value) => typeof value === "boolean" ? value : undefined,
};

/** One of `names`; files may differ in case, "-" and "_". */
export function choice<T extends string>(...names: readonly T[]): Kind<T> {
  const form = (name: string) => name.trim().toUpperCase().replaceAll(/[-_]/g, "");
  const accepts = `one of ${names.join(", ")}`;
  return {
    accepts,
    read(value) {
      const text = typeof value === "string" ? form(value) : null;
      return names.find((name) => form(name) === text);
    },
    acceptsInCode: accepts,
    check: (value) => names.find((name) => name === value),
  };
}

const levels = choice("none", "data", "full");

/** How an object reaches stable storage before it is published; files may also say true or false. */
export const durability: Kind<"none" | "data" | "full"> = {
  accepts: "true (data), false (none), or one of none, data, full",
  read(value) {
    const flag = boolean.read(value);
    return flag === undefined ? levels.read(value) : flag ? "data" : "none";
  },
  acceptsInCode: "one of none, data, full",
  check: (value) => levels.check(value),
};

function text(value: unknown): string | undefined {
  return typeof value === "string" && value !== "" && !value.includes("\0") ? value : undefined;
}

export const name: Kind<string> = plain("a name", text);

/** Of a group: a number is one, too. */
export const group: Kind<string> = plain(
  "a name or a number",
  (value) => text(Number.isSafeInteger(value) && (value as number) >= 0 ? `${value}` : value),
);

/** Octal digits as text; as a number what YAML 1.1 makes of 0644, which is octal there, too. */
export const fileMode: Kind<number> = {
  accepts: 'an octal mode such as "0640" or "0644", which does not let everybody write',
  read(value) {
    const mode = typeof value === "string" && /^0?[0-7]{3}$/.test(value)
      ? parseInt(value, 8)
      : value;
    return typeof mode === "number" && isFileMode(mode) ? mode : undefined;
  },
  acceptsInCode: "a mode such as 0o640 or 0o644, which does not let everybody write",
  check: (value) => typeof value === "number" && isFileMode(value) ? value : undefined,
};

export const path: Kind<string> = plain("a path", text);

export const url: Kind<string> = plain("a URL", text);

const MAX_SEGMENT_NAME_BYTES = 254;

/** With its leading slash, whatever was written. */
export const segmentName: Kind<string> = plain(
  `one path component of 1 to ${MAX_SEGMENT_NAME_BYTES} bytes, with or without a leading slash, ` +
    "such as /lmshm",
  (value) => {
    const bare = text(value)?.replace(/^\//, "");
    if (!bare || bare === "." || bare === ".." || bare.includes("/")) return undefined;
    return new TextEncoder().encode(bare).length <= MAX_SEGMENT_NAME_BYTES ? `/${bare}` : undefined;
  },
);

/** The forms of a worker's address; the connection itself parses it (worker/address.ts). */
export const workerAddress: Kind<string> = plain(
  `"host:port", "[::1]:port", "unix:/path/of/socket" or "/path/of/socket"`,
  (value) => {
    const address = text(value);
    if (address === undefined) return undefined;
    if (/^(unix:)?\/./.test(address)) return address;
    const port = /^(?:\[[0-9A-Fa-f:.%]+\]|[^:@[\]\s/]+):(\d{1,5})$/.exec(address)?.[1];
    return port !== undefined && Number(port) >= 1 && Number(port) <= 65_535 ? address : undefined;
  },
);

/** A list, or text with commas. */
export const names: Kind<readonly string[]> = plain(
  "a list of names, or names with commas between them",
  (value) => {
    const list = typeof value === "string" ? value.split(",").map((name) => name.trim()) : value;
    if (!Array.isArray(list)) return undefined;
    return list.every((name) => text(name) !== undefined) ? Object.freeze([...list]) : undefined;
  },
);

/** Where the pages of memory come from. */
export interface NumaPlacement {
  /** From these nodes alone, or from each in turn. */
  readonly policy: "bind" | "interleave";
  /** NUMA nodes, 0 to 63, ascending. */
  readonly nodes: readonly number[];
}

const MAX_NODE = 63;

function placement(policy: unknown, nodes: unknown): NumaPlacement | undefined {
  if (policy !== "bind" && policy !== "interleave") return undefined;
  if (!Array.isArray(nodes) || nodes.length === 0) return undefined;
  if (!nodes.every((node) => integerWithin(node, 0, MAX_NODE) !== undefined)) return undefined;
  const ascending = [...new Set<number>(nodes)].sort((a, b) => a - b);
  return Object.freeze({ policy, nodes: Object.freeze(ascending) });
}

/** "bind:0" or "interleave:0-3,6" in files; the object in code. */
export const numaPlacement: Kind<NumaPlacement> = {
  accepts: `"bind:" or "interleave:" and nodes from 0 to ${MAX_NODE}, such as "interleave:0-3,6"`,
  read(value) {
    const parts = /^(bind|interleave):(.+)$/.exec(typeof value === "string" ? value.trim() : "");
    if (!parts) return undefined;
    const nodes: number[] = [];
    for (const item of parts[2]!.split(",")) {
      const range = /^\s*(\d{1,2})(?:-(\d{1,2}))?\s*$/.exec(item);
      if (!range) return undefined;
      const first = Number(range[1]);
      const last = Number(range[2] ?? first);
      if (last < first) return undefined;
      for (let node = first; node <= last; node++) nodes.push(node);
    }
    return placement(parts[1], nodes);
  },
  acceptsInCode: `{ policy: "bind" | "interleave", nodes: [0, ...] }, nodes from 0 to ${MAX_NODE}`,
  check(value) {
    if (typeof value !== "object" || value === null) return undefined;
    const { policy, nodes } = value as Record<string, unknown>;
    return placement(policy, nodes);
  },
};

/** LMCache's gpu_to_numa_mapping: the NUMA node of each GPU. */
export const gpuToNumaMapping: Kind<Readonly<Record<string, number>>> = plain(
  `a mapping of GPU numbers to NUMA nodes from 0 to ${MAX_NODE}, such as {0: 0, 1: 1}`,
  (value) => {
    if (typeof value !== "object" || value === null || Array.isArray(value)) return undefined;
    const pairs = Object.entries(value);
    const valid = pairs.length > 0 &&
      pairs.every(([gpu, node]) =>
        /^\d+$/.test(gpu) && integerWithin(node, 0, MAX_NODE) !== undefined
      );
    return valid ? Object.freeze(Object.fromEntries(pairs) as Record<string, number>) : undefined;
  },
);
