// SPDX-License-Identifier: Apache-2.0
//
// How the command shows and reads numbers: sizes, rates, times, and what pins memory.

import type { PinnedBy } from "../mod.ts";

const UNITS: Readonly<Record<string, number>> = {
  "": 1,
  b: 1,
  k: 2 ** 10,
  kib: 2 ** 10,
  kb: 1e3,
  m: 2 ** 20,
  mib: 2 ** 20,
  mb: 1e6,
  g: 2 ** 30,
  gib: 2 ** 30,
  gb: 1e9,
  t: 2 ** 40,
  tib: 2 ** 40,
  tb: 1e12,
};

/**
 * Bytes of "2GiB", "33.5MB", "4096", "64k". Decimal with B (kB, MB, GB), binary with iB or one
 * letter.
 * @throws {RangeError} naming the text.
 */
export function parseSize(what: string, text: string): number {
  const match = /^(\d+(?:\.\d+)?)\s*([a-z]*)$/i.exec(text.trim());
  const unit = match && UNITS[match[2]!.toLowerCase()];
  const bytes = match && unit ? Math.round(Number(match[1]) * unit) : NaN;
  if (!Number.isSafeInteger(bytes) || bytes < 1) {
    throw new RangeError(`${what} takes a size such as 2GiB, 33.5MB or 4096, got "${text}"`);
  }
  return bytes;
}

/** "33.6 MB", "2.15 GB", "812 B": decimal, three digits. */
export function formatBytes(bytes: number): string {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let value = bytes;
  let unit = 0;
  while (value >= 999.5 && unit < units.length - 1) {
    value /= 1000;
    unit++;
  }
  return `${threeDigits(value, unit === 0)} ${units[unit]}`;
}

/** "1,234 MB/s" for bytes moved in some milliseconds; "-" for no time at all. */
export function formatRate(bytes: number, milliseconds: number): string {
  if (milliseconds <= 0 || bytes === 0) return "-";
  return `${Math.round(bytes / 1000 / milliseconds).toLocaleString("en-US")} MB/s`;
}

/** "812 ms", "2.31 s", "3 min 20 s". */
export function formatTime(milliseconds: number): string {
  if (milliseconds < 999.5) return `${threeDigits(milliseconds, milliseconds >= 10)} ms`;
  const seconds = milliseconds / 1000;
  if (seconds < 100) return `${threeDigits(seconds, false)} s`;
  return `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
}

/** "12 s", "5 min", "3 h", "12 d": how long ago, roughly. */
export function formatAge(milliseconds: number): string {
  const seconds = Math.floor(milliseconds / 1000);
  if (seconds < 120) return `${seconds} s`;
  if (seconds < 2 * 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 2 * 86_400) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86_400)} d`;
}

/** "pinned by cuda", "not pinned". */
export function formatPinning(pinnedBy: PinnedBy): string {
  return pinnedBy === "none" ? "not pinned" : `pinned by ${pinnedBy}`;
}

function threeDigits(value: number, whole: boolean): string {
  if (whole) return String(Math.round(value));
  return value.toFixed(value < 9.995 ? 2 : value < 99.95 ? 1 : 0);
}
