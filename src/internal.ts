// SPDX-License-Identifier: Apache-2.0
//
// What keeps the inside of public classes from being changed from outside: JavaScript knows nothing
// of TypeScript's `private` and `readonly`, and a wrong address ends the process.

/** What a constructor takes that only this library may call. Not among the public names. */
export const INTERNAL: unique symbol = Symbol("lmshm");

/** Throws unless `token` is INTERNAL. */
export function checkInternal(token: unknown, what: string): void {
  if (token !== INTERNAL) throw new TypeError(what);
}

/** Makes properties final: neither an assignment nor Object.defineProperty() changes them. */
export function finalize<T extends object>(object: T, ...names: readonly (keyof T)[]): void {
  for (const name of names) {
    Object.defineProperty(object, name, { writable: false, configurable: false });
  }
}
