// SPDX-License-Identifier: Apache-2.0
//
// LmcacheRpc over gRPC: Connect's client for HTTP/2 without TLS, messages by protobuf-es, slots in
// MessagePack. The only module that imports those libraries; client.ts loads it when somebody
// connects, because most programs that use lmshm do without.

import { connect as connectSocket } from "node:net";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { createGrpcTransport, Http2SessionManager } from "@connectrpc/connect-node";
import { decode } from "@msgpack/msgpack";
import { type ErrorCode, knownCode, ShmError } from "../../errors.ts";
import { refusedFlag } from "../../permission.ts";
import { Deadline, within } from "../../wait.ts";
import type {
  CallLimit,
  ChunkKey,
  EventBatch,
  LmcacheRpc,
  PoolFacts,
  Registration,
} from "../rpc.ts";
import {
  ControllerService,
  EngineDrivenService,
  type KVEventBatch,
  LookupService,
  ManagementService,
  ObservabilityService,
} from "./lmcache_pb.ts";

/** No answer of a server is near that; what is longer is no server of LMCache. */
const MAX_MESSAGE_BYTES = 64 * 2 ** 20;
const EVENTS_AT_A_TIME = 256;
/** In the message of a server that knows nothing of this client: it was restarted, or forgot it. */
const NOT_REGISTERED = /not registered/;

const START =
  "Start it as `lmcache server --transport grpc --supported-transfer-mode engine_driven " +
  "--shm-name NAME --no-l1-use-lazy`";

/** What each code of gRPC is here; the others are EIO. */
const CODES: Partial<Record<Code, ErrorCode>> = {
  // By the other end: what this one cancels has a signal.
  [Code.Canceled]: "ECONNRESET",
  [Code.InvalidArgument]: "EINVAL",
  [Code.DeadlineExceeded]: "ETIMEDOUT",
  [Code.PermissionDenied]: "EACCES",
  [Code.ResourceExhausted]: "EMSGSIZE",
  [Code.Aborted]: "ECONNRESET",
  [Code.Internal]: "EPROTO",
  [Code.Unavailable]: "ECONNRESET",
  [Code.Unimplemented]: "ENOTSUP",
};

function plain(key: ChunkKey) {
  return {
    modelName: key.model,
    worldSize: key.worldSize,
    workerId: key.worker,
    tokenIds: key.tokens as number[],
    start: key.start,
    end: key.end,
    requestId: key.session,
    cacheSalt: key.salt,
    numKvReaders: 1,
  };
}

function batchOf(batch: KVEventBatch): EventBatch {
  return {
    enabled: batch.enabled,
    incarnation: batch.incarnation,
    next: batch.nextCursor,
    lost: batch.lost,
    records: batch.events.map((event) => ({
      position: event.seq,
      kind: event.kind,
      model: event.modelName,
      hashes: event.blockHashes,
      parent: event.parentBlockHash ?? null,
      tokens: event.tokenIds,
    })),
  };
}

/** @param authority "host:port" */
export function openGrpc(authority: string): LmcacheRpc {
  let connections = 0;
  const url = `http://${authority}`;
  const { hostname, port } = new URL(url);
  const manager = new Http2SessionManager(url, undefined, {
    createConnection: () => {
      connections++;
      return connectSocket(Number(port || 80), hostname.replace(/^\[|\]$/g, ""));
    },
  });
  const transport = createGrpcTransport({
    baseUrl: url,
    sessionManager: manager,
    readMaxBytes: MAX_MESSAGE_BYTES,
  });
  const controller = createClient(ControllerService, transport);
  const management = createClient(ManagementService, transport);
  const engine = createClient(EngineDrivenService, transport);
  const lookups = createClient(LookupService, transport);
  const observability = createClient(ObservabilityService, transport);

  const failure = (operation: string, error: unknown, signal?: AbortSignal): unknown => {
    if (signal?.aborted) return signal.reason;
    if (error instanceof ShmError) return error;
    const failed = ConnectError.from(error);
    const flag = refusedFlag(failed.cause);
    if (flag !== null) {
      return new ShmError(`Deno does not allow a connection to ${authority}`, {
        code: "EPERM",
        operation,
        hint: `Run it with ${flag}=${authority}`,
        details: { flag },
        cause: failed,
      });
    }
    const cause = failed.cause as { code?: unknown } | undefined;
    // An answer that has begun and does not end.
    const broken = /missing status/.test(failed.rawMessage);
    const text = broken
      ? "the connection broke"
      : failed.rawMessage.replace(/^Exception calling application: /, "");
    const code = NOT_REGISTERED.test(text)
      ? "ESTALE"
      : broken
      ? "ECONNRESET"
      : knownCode(cause?.code) ?? CODES[failed.code] ?? "EIO";
    return new ShmError(`LMCache at ${authority}: ${text}`, {
      code,
      operation,
      hint: hintFor(code, failed.code),
      details: { address: authority, grpcCode: Code[failed.code] },
      cause: failed,
    });
  };

  /** One call, its failure in this library's terms. */
  async function call<T>(
    operation: string,
    { timeoutMs, signal }: CallLimit,
    send: (options: { timeoutMs: number; signal?: AbortSignal }) => Promise<T>,
  ): Promise<T> {
    signal?.throwIfAborted();
    try {
      return await send({ timeoutMs, ...(signal === undefined ? {} : { signal }) });
    } catch (error) {
      throw failure(operation, error, signal);
    }
  }

  const slotsOf = (operation: string, context: Uint8Array): unknown => {
    try {
      return decode(context);
    } catch (cause) {
      throw new ShmError(
        `LMCache at ${authority} sent ${context.length} bytes that are no MessagePack`,
        { code: "EPROTO", operation, details: { address: authority }, cause },
      );
    }
  };

  return {
    async connect({ timeoutMs, signal }) {
      const operation = "connect to LMCache";
      const deadline = new Deadline(timeoutMs, signal);
      const expired = () =>
        new ConnectError(`no connection in ${timeoutMs} ms`, Code.DeadlineExceeded);
      try {
        const state = await within(manager.connect(), {
          limitMs: deadline.leftMs,
          signal,
          expired,
        });
        if (state === "error") throw manager.error();
      } catch (error) {
        throw failure(operation, error, signal);
      }
      return connections;
    },

    async chunkTokens(limit) {
      const operation = "connect to LMCache";
      try {
        const { chunkSize } = await call(operation, limit, (o) => controller.getChunkSize({}, o));
        const tokens = Number(chunkSize);
        if (Number.isSafeInteger(tokens) && tokens >= 1) return tokens;
        throw new ShmError(`LMCache at ${authority} has chunks of ${chunkSize} tokens`, {
          code: "EPROTO",
          operation,
          details: { address: authority },
        });
      } catch (error) {
        if (!(error instanceof ShmError) || error.code !== "ENOTSUP") throw error;
        const newer = await management.getChunkSize({}, limit as { timeoutMs: number })
          .then(() => true, () => false);
        const speaks = newer ? "0.5.7 or newer" : "a version that is not known";
        throw new ShmError(
          `LMCache at ${authority} speaks the protocol of ${speaks}; this client speaks that of ` +
            "0.5.6",
          {
            code: "EPROTONOSUPPORT",
            operation,
            hint: newer
              ? "Install lmcache==0.5.6 there, or a version of lmshm that knows the newer one"
              : "Is it `lmcache server --transport grpc`?",
            details: { address: authority, speaks },
            cause: error,
          },
        );
      }
    },

    async ping(instanceId, limit) {
      await call(
        "ping LMCache",
        limit,
        (o) => controller.ping(instanceId === undefined ? {} : { instanceId }, o),
      );
    },

    async register(registration: Registration, limit): Promise<PoolFacts> {
      const operation = "register with LMCache";
      const { shmName, poolSize } = await call(
        operation,
        limit,
        (o) =>
          engine.registerKvCacheEngineDrivenContext({
            instanceId: registration.instance,
            modelName: registration.model,
            worldSize: registration.worldSize,
            blockSize: registration.blockTokens,
            numLayers: registration.layers,
            hiddenDimSize: registration.hiddenSize,
            dtypeStr: registration.dtype,
            useMla: registration.mla,
          }, o),
      );
      return { name: shmName, sizeBytes: Number(poolSize) };
    },

    async unregister(instanceId, limit) {
      await call(
        "unregister from LMCache",
        limit,
        (o) => engine.unregisterKvCacheEngineDrivenContext({ instanceId }, o),
      );
    },

    async lookup(key, limit) {
      await call(
        "look up in LMCache",
        limit,
        (o) => lookups.lookup({ key: plain(key), tpSize: key.worldSize }, o),
      );
    },

    async waitLookup(requestId, timeout, limit) {
      const { chunkCount } = await call(
        "look up in LMCache",
        limit,
        (o) => lookups.waitPrefetchStatus({ requestId, timeout }, o),
      );
      return chunkCount === undefined ? undefined : Number(chunkCount);
    },

    async freeLocks(key, limit) {
      await call(
        "free locks of LMCache",
        limit,
        (o) => lookups.freeLookupLocks({ key: plain(key), tpSize: key.worldSize }, o),
      );
    },

    async endSession(requestId, limit) {
      await call("end session of LMCache", limit, (o) => lookups.endSession({ requestId }, o));
    },

    async prepareRetrieve(key, instanceId, limit) {
      const operation = "retrieve from LMCache";
      const { success, encodedContext } = await call(
        operation,
        limit,
        (o) => engine.prepareRetrieve({ key: plain(key), instanceId }, o),
      );
      return success ? slotsOf(operation, encodedContext) : null;
    },

    async commitRetrieve(key, instanceId, limit) {
      await call(
        "release to LMCache",
        limit,
        (o) => engine.commitRetrieve({ key: plain(key), instanceId }, o),
      );
    },

    async prepareStore(key, instanceId, limit) {
      const operation = "store in LMCache";
      const { encodedContext } = await call(
        operation,
        limit,
        (o) => engine.prepareStore({ key: plain(key), instanceId }, o),
      );
      return slotsOf(operation, encodedContext);
    },

    async commitStore(key, instanceId, limit) {
      const { success } = await call(
        "store in LMCache",
        limit,
        (o) => engine.commitStore({ key: plain(key), instanceId }, o),
      );
      return success;
    },

    async *subscribe(instanceId, modelName, cursor, signal) {
      const request = { instanceId, modelName, cursor, maxEvents: EVENTS_AT_A_TIME };
      try {
        for await (const batch of observability.subscribeKvEvents(request, { signal })) {
          yield batchOf(batch);
        }
      } catch (error) {
        throw failure("read events of LMCache", error, signal);
      }
    },

    close() {
      manager.abort(new ConnectError("the client was closed", Code.Canceled));
    },
  };
}

function hintFor(code: ErrorCode, grpc: Code): string | undefined {
  if (grpc === Code.Unimplemented) return `The server does not serve that. ${START}`;
  if (code === "ECONNREFUSED") return `Nobody listens there. ${START}, and with --port PORT`;
  if (code === "EPROTO" || code === "EPIPE") {
    return "Something else listens there, or the server speaks ZeroMQ: it must be started with " +
      "--transport grpc";
  }
  if (code === "ECONNRESET") return "The server has ended, or was restarted: try again";
  if (code === "ESTALE") return "The server was restarted: try again";
  return undefined;
}
