// SPDX-License-Identifier: Apache-2.0
//
// Bytes of the pool as a web stream, for whatever takes one: the body of a Response, a file, a pipe.
// What they are in is held until the stream has ended, so that nobody else gets the memory before.
//
// Each piece is a copy, made when the consumer asks for it. An array over the pool itself would not
// do: a runtime still reads the last piece when the stream has ended for JavaScript, and does not say
// when it is done.

import { checkInteger, checkKnownOptions, checkRange, describe } from "../arguments.ts";
import { MemoryObj } from "./memory_obj.ts";
import type { ShmRange } from "./segment.ts";

/** What streamOf() gives of it, and how. */
export interface StreamOptions {
  /** The first byte; default 0. */
  offset?: number | undefined;
  /** How many; default all from `offset` on. */
  byteLength?: number | undefined;
  /** Bytes that are copied at a time, at most; default 256 KiB. */
  pieceBytes?: number | undefined;
  /**
   * Ends the stream with the signal's reason: a limit for consumers that take their time, such as
   * AbortSignal.timeout(60_000).
   */
  signal?: AbortSignal | undefined;
}

const STREAM_OPTIONS = ["offset", "byteLength", "pieceBytes", "signal"];

/**
 * The bytes of a memory object or of a range, as a stream. It holds them, and takes a reference of an
 * object, until all was read, the consumer has cancelled it, or it has failed. So a handler may
 * release its own reference, by `using` too, when it returns. A stream that nobody reads or cancels
 * holds them for ever: give it a `signal`.
 * @throws {ShmError} EFREED and EBADF: the object or its segment was freed. {TypeError | RangeError}
 *   naming the option at fault. The signal's reason.
 */
export function streamOf(
  source: MemoryObj | ShmRange,
  options: StreamOptions = {},
): ReadableStream<Uint8Array<ArrayBuffer>> {
  checkKnownOptions("streamOf", options as unknown, STREAM_OPTIONS);
  const { offset = 0, pieceBytes = 256 * 1024, signal } = options;
  const byteLength = options.byteLength ?? source.byteLength - offset;
  checkRange(offset, byteLength, source.byteLength);
  checkInteger("pieceBytes", pieceBytes, 1);
  if (signal !== undefined && !(signal instanceof AbortSignal)) {
    throw new TypeError(`signal must be an AbortSignal, got ${describe(signal)}`);
  }
  signal?.throwIfAborted();
  const letGo = keep(source);
  const end = offset + byteLength;
  let at = offset;
  let abort: (() => void) | undefined;
  const finish = () => {
    if (abort !== undefined) signal?.removeEventListener("abort", abort);
    letGo();
  };
  return new ReadableStream({
    start(controller) {
      if (at === end) {
        controller.close();
        finish();
        return;
      }
      abort = () => {
        finish();
        controller.error(signal?.reason);
      };
      signal?.addEventListener("abort", abort, { once: true });
    },
    pull(controller) {
      try {
        const piece = copyOf(source, at, Math.min(pieceBytes, end - at));
        at += piece.length;
        controller.enqueue(piece);
        if (at < end) return;
        controller.close();
        finish();
      } catch (error) {
        finish();
        throw error;
      }
    },
    cancel: finish,
  }, { highWaterMark: 0 });
}

/** @returns lets go of it; once, and no more. */
function keep(source: MemoryObj | ShmRange): () => void {
  const isObject = source instanceof MemoryObj;
  if (isObject) source.refCountUp();
  const release = source.hold("stream");
  let kept = true;
  return () => {
    if (!kept) return;
    kept = false;
    release();
    if (isObject) source.refCountDown();
  };
}

function copyOf(
  source: MemoryObj | ShmRange,
  offset: number,
  byteLength: number,
): Uint8Array<ArrayBuffer> {
  if (!isRange(source)) return source.bytes.slice(offset, offset + byteLength);
  using view = source.segment.view(source.offset + offset, byteLength);
  return view.bytes.slice();
}

/** What is in no segment is an object in ordinary memory. */
function isRange(source: MemoryObj | ShmRange): source is ShmRange {
  return "segment" in source;
}
