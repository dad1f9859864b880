// SPDX-License-Identifier: Apache-2.0
//
// The public names of "lmshm/lmcache": a client of a running `lmcache server`.

export { KvChunk } from "./borrowed.ts";
export { LmcacheClient } from "./client.ts";
export type {
  KvEvent,
  KvEventOptions,
  KvLostEvent,
  KvRemovedEvent,
  KvStoredEvent,
} from "./events.ts";
export { KvLease } from "./lease.ts";
export type {
  KvShape,
  LmcacheCallOptions,
  LmcacheOptions,
  LmcacheTransferOptions,
  Tokens,
} from "./options.ts";
export type { FillChunk } from "./store.ts";
