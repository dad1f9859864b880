// SPDX-License-Identifier: Apache-2.0
//
// What the client asks of a server, in plain types: the boundary between the client and the libraries
// that bring it over the network, which are loaded only when somebody connects (wire/grpc.ts). Every
// call has a limit, and what fails is a ShmError.

/** How long one call to the server may take. */
export interface CallLimit {
  readonly timeoutMs: number;
  readonly signal?: AbortSignal | undefined;
}

/** Which chunks: those of the tokens [start, end), of one worker or of all. */
export interface ChunkKey {
  readonly model: string;
  readonly worldSize: number;
  /** Absent: all workers. */
  readonly worker?: number;
  readonly tokens: readonly number[];
  readonly start: number;
  readonly end: number;
  /** What the server remembers of a lookup until the session ends is under this name. */
  readonly session: string;
  readonly salt: string;
}

/** What a server is told of the chunks of a model. */
export interface Registration {
  readonly instance: bigint;
  readonly model: string;
  readonly worldSize: number;
  readonly blockTokens: number;
  readonly layers: number;
  readonly hiddenSize: number;
  /** As torch calls it. */
  readonly dtype: string;
  readonly mla: boolean;
}

/** The server's pool. */
export interface PoolFacts {
  /** Empty: it has none that others can map. */
  readonly name: string;
  readonly sizeBytes: number;
}

/** One record of the server's log of stores and evictions. */
export interface EventRecord {
  readonly position: bigint;
  readonly kind: string;
  readonly model: string;
  readonly hashes: readonly Uint8Array[];
  readonly parent: Uint8Array | null;
  readonly tokens: readonly number[];
}

/** What a subscription brings at a time. */
export interface EventBatch {
  readonly enabled: boolean;
  readonly incarnation: bigint;
  readonly next: bigint;
  readonly lost: boolean;
  readonly records: readonly EventRecord[];
}

/** A server of LMCache, whichever connection leads to it. */
export interface LmcacheRpc {
  /**
   * Has a connection, and says which: another number is another connection, and perhaps another
   * server, which knows nothing of what the last one was told.
   */
  connect(limit: CallLimit): Promise<number>;
  /** Tokens a chunk. Fails for a server that speaks another version of the protocol. */
  chunkTokens(limit: CallLimit): Promise<number>;
  ping(instance: bigint | undefined, limit: CallLimit): Promise<void>;
  register(registration: Registration, limit: CallLimit): Promise<PoolFacts>;
  unregister(instance: bigint, limit: CallLimit): Promise<void>;
  /** Has the chunks looked for, and locks those that are there; waitLookup() tells how many. */
  lookup(key: ChunkKey, limit: CallLimit): Promise<void>;
  /** Undefined: not known within so many seconds. */
  waitLookup(session: string, seconds: number, limit: CallLimit): Promise<number | undefined>;
  /** Gives back locks of a lookup. */
  freeLocks(key: ChunkKey, limit: CallLimit): Promise<void>;
  endSession(session: string, limit: CallLimit): Promise<void>;
  /** Where the chunks are that a lookup locked, undecoded slots; null when one of them is gone. */
  prepareRetrieve(key: ChunkKey, instance: bigint, limit: CallLimit): Promise<unknown | null>;
  /** Gives back the locks of the chunks of prepareRetrieve(). */
  commitRetrieve(key: ChunkKey, instance: bigint, limit: CallLimit): Promise<void>;
  /** Room for the chunks that are not there, undecoded slots. */
  prepareStore(key: ChunkKey, instance: bigint, limit: CallLimit): Promise<unknown>;
  /** Shows the chunks of prepareStore() to everybody. False: the server knows of none. */
  commitStore(key: ChunkKey, instance: bigint, limit: CallLimit): Promise<boolean>;
  /** Ends when the signal is aborted, with its reason, or when the server ends it. */
  subscribe(
    instance: bigint,
    model: string,
    cursor: bigint,
    signal: AbortSignal,
  ): AsyncIterable<EventBatch>;
  /** Ends the connection; calls that wait fail. */
  close(): void;
}
