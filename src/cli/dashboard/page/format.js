// SPDX-License-Identifier: Apache-2.0
//
// Numbers as text, as the command prints them: decimal units, three digits.

/** @param {number} value @param {readonly string[]} units each a thousand times the one before */
function scaled(value, units) {
  let unit = 0;
  while (Math.abs(value) >= 999.5 && unit < units.length - 1) {
    value /= 1000;
    unit++;
  }
  const digits = value === 0 || Math.abs(value) >= 99.95 ? 0 : Math.abs(value) >= 9.995 ? 1 : 2;
  return `${value.toFixed(unit === 0 && Number.isInteger(value) ? 0 : digits)} ${units[unit]}`
    .trimEnd();
}

/** @typedef {(value: number) => string} Format */

/** @type {Format} */
export const bytes = (value) => scaled(value, ["B", "kB", "MB", "GB", "TB", "PB"]);
/** @type {Format} */
export const bytesPerSecond = (value) => `${bytes(value)}/s`;
/** @type {Format} */
export const count = (value) => scaled(value, ["", "k", "M", "G"]);
/** @type {Format} */
export const perSecond = (value) => `${count(value)}/s`;
/** @type {Format} */
export const percent = (value) => `${(value * 100).toFixed(value === 0 || value >= 0.1 ? 0 : 1)} %`;

/** Of seconds. @type {Format} */
export function time(value) {
  if (value < 999.5e-6) return `${scaled(value * 1e6, [""])} µs`;
  if (value < 0.9995) return `${scaled(value * 1e3, [""])} ms`;
  return `${scaled(value, [""])} s`;
}

/** The time of day. @param {number} ms since 1970 @param {boolean} [withSeconds] */
export function clock(ms, withSeconds = true) {
  return new Date(ms).toTimeString().slice(0, withSeconds ? 8 : 5);
}
