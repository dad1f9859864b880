// SPDX-License-Identifier: Apache-2.0

import { type CommandDescription, JSON_OPTION } from "../description.ts";

/** lmshm shm ls. */
export const SHM_LS = {
  name: "shm ls",
  summary: "list segments of shared memory: whose, how large, live or dead",
  usage: "[OPTION]... [NAME]...",
  operands: "any",
  about: [
    "Lists what is in /dev/shm, and the segments without a name that processes still have mapped. " +
    "live: its owner runs. dead: its owner has ended and left it; lmshm shm gc removes it. foreign: " +
    "lmshm has not made it, so nothing is known of its owner. unlinked: its name is gone, and its " +
    "memory stays until nobody has it mapped. anonymous: it never had a name. unknown: it is another " +
    "user's.",
    "pinned tells by what its memory is page-locked, by whomsoever: cuda, cuda-driver, hip or mlock; " +
    "no: by nothing. Of what lmshm has not made, and of what has lost its name, that cannot be known " +
    "(-).",
    "Who has a segment mapped can be read of one's own processes, and of all by root.",
  ],
  options: [JSON_OPTION],
  examples: [
    { run: "lmshm shm ls", does: "What takes the memory?" },
    {
      run: "lmshm shm ls --json | jq -r 'select(.state == \"dead\") | .name'",
      does: "The names of what was left behind:",
    },
  ],
  status: { 0: "listed", 1: "a NAME is not there, or /dev/shm cannot be read" },
  json: {
    form: "lines",
    members: {
      name: "with its slash; null: it has none (any more)",
      state: "live, dead, foreign, unlinked, anonymous or unknown",
      sizeBytes: "of the segment",
      usedBytes: "of memory that it takes; null: it has no name to ask by",
      user: "the number of the user whose it is; null: not known",
      ownerPid: "the process that owns a live one, where the kernel tells; else null",
      ageMs: "since it was made; null: not known",
      pinnedBy: "cuda, cuda-driver, hip, mlock as a list; empty: not pinned; null: not known",
      mappedBy: "pid and command of each process that has it mapped, as far as they may be seen",
    },
  },
} as const satisfies CommandDescription;

const REMOVED_MEMBERS = {
  name: "with its slash",
  ok: "it is removed, or would be (--dry-run)",
  sizeBytes: "of the segment",
  state: "what it was: dead, live, foreign, free or unknown",
  error: "why it was not removed",
};

/** lmshm shm rm. */
export const SHM_RM = {
  name: "shm rm",
  summary: "remove segments by name whose owner is dead",
  usage: "[OPTION]... NAME...",
  operands: "any",
  about: [
    "Removes the names of dead segments. A live one is never touched, also when it becomes live at " +
    "this moment: the kernel's lock, which an owner holds as long as it lives, is taken before the " +
    "name goes. What lmshm has not made is left alone: whether somebody uses it cannot be known.",
  ],
  options: [JSON_OPTION],
  examples: [{ run: "lmshm shm rm kv", does: "The segment /dev/shm/kv, if its owner is dead:" }],
  status: { 0: "all are removed", 1: "one is not there, or was not removed" },
  json: { form: "lines", members: REMOVED_MEMBERS },
} as const satisfies CommandDescription;

/** lmshm shm gc. */
export const SHM_GC = {
  name: "shm gc",
  summary: "remove all segments that dead processes left",
  usage: "[OPTION]...",
  about: [
    "Removes all dead segments of this user, such as those of programs that were killed, by the same " +
    "rules as lmshm shm rm. It may run at any time, beside programs that make segments. Memory that " +
    "somebody still has mapped is free when they let go of it.",
  ],
  options: [{ name: "dry-run", short: "n", text: "only tell what would be removed" }, JSON_OPTION],
  examples: [
    { run: "lmshm shm gc -n", does: "What is there to remove?" },
    { run: "sudo -u serving lmshm shm gc", does: "Of another user:" },
  ],
  status: { 0: "no dead segment of this user is left", 1: "one could not be removed" },
  json: { form: "lines", members: REMOVED_MEMBERS },
} as const satisfies CommandDescription;
