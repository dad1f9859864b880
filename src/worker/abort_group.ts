// SPDX-License-Identifier: Apache-2.0
//
// Many calls that wait for one AbortSignal, with one listener: a thousand calls of a batch share
// their caller's signal, and adding and removing a listener costs more than the rest of a call.

export interface Abortable {
  /** The signal was aborted. */
  abort(reason: unknown): void;
}

class AbortGroup {
  readonly members = new Set<Abortable>();
  readonly #signal: AbortSignal;

  constructor(signal: AbortSignal) {
    this.#signal = signal;
    signal.addEventListener("abort", this.#onAbort, { once: true });
  }

  end(): void {
    this.#signal.removeEventListener("abort", this.#onAbort);
    groups.delete(this.#signal);
  }

  readonly #onAbort = (): void => {
    groups.delete(this.#signal);
    for (const member of this.members) member.abort(this.#signal.reason);
  };
}

const groups = new WeakMap<AbortSignal, AbortGroup>();

/** Calls member.abort() when `signal`, which is not aborted yet, is; until leaveGroup(). */
export function joinGroup(signal: AbortSignal, member: Abortable): void {
  let group = groups.get(signal);
  if (group === undefined) groups.set(signal, group = new AbortGroup(signal));
  group.members.add(member);
}

export function leaveGroup(signal: AbortSignal, member: Abortable): void {
  const group = groups.get(signal);
  if (group === undefined || !group.members.delete(member)) return;
  if (group.members.size === 0) group.end();
}
