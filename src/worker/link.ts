// SPDX-License-Identifier: Apache-2.0
//
// What connections of both versions of the protocol have in common: lines over a transport, and the
// ways in which that ends. Not requests: whose answer a line is, the owner knows.
//
// The lines of one piece are handed out in slices, so that a thousand answers that arrive together
// do not stop the program's event loop.

import { ShmError } from "../errors.ts";
import { errnoNumber } from "./errno_text.ts";
import { LineSplitter } from "./line_splitter.ts";
import { MAX_LINE_BYTES } from "./reply.ts";
import type { OpenTransport, Transport } from "./transport.ts";
import { watch } from "../wait.ts";

interface LinkOwner {
  /**
   * One line, without its ending. Ends the link itself when it does not like it.
   * @returns how much work that was; a slice has SLICE_WORK.
   */
  line(text: string): number;
  /** The lines of a slice are through, and the link is neither gone nor distrusted. */
  sliced(): void;
  /** After write() returned false: there is room again. */
  drained(): void;
  /** What the worker sent is not lines. */
  garbled(fault: string): void;
  /** Whether requests are in flight. */
  busy(): boolean;
  /** Whether some of them hold memory. */
  holdsMemory(): boolean;
  /** Once, unless it was closed: it takes no more requests. */
  down(error: ShmError): void;
  /** The worker was given up and is not gone yet: its callers need not wait any longer. */
  impatient(error: ShmError): void;
  /** Once: the worker does not touch memory on behalf of this connection any more. */
  gone(error: ShmError): void;
}

type LinkState =
  | "open"
  /** Given up, but what it answers is still believed. */
  | "draining"
  /** Given up, and not believed. */
  | "distrusted"
  /** Ending by our own wish. */
  | "closing"
  | "gone";

/** How long callers wait for a worker that was given up to be gone, until they are told so. */
const PATIENCE_MS = 5_000;
/** Answers in a row; one takes about a microsecond, and the caller's part comes on top. */
const SLICE_WORK = 256;

export class Link {
  readonly #owner: LinkOwner;
  readonly #transport: Transport;
  readonly #splitter = new LineSplitter(MAX_LINE_BYTES);
  #lines: string[] = [];
  #nextLine = 0;
  #slicePlanned = false;
  #blocked = false;
  #state: LinkState = "open";
  #error: ShmError | null = null;
  #stopPatience: () => void = () => {};
  /** When the worker was last heard, by performance.now(). */
  #heardAt = performance.now();
  #silent = true;

  constructor(open: OpenTransport, owner: LinkOwner) {
    this.#owner = owner;
    this.#transport = open({
      data: (chunk) => this.#onData(chunk),
      drain: () => this.#onDrain(),
      gone: (error) => this.#onGone(error),
    });
  }

  get ready(): Promise<void> {
    return this.#transport.ready;
  }

  get peer(): string {
    return this.#transport.peer;
  }

  get pid(): number | null {
    return this.#transport.pid;
  }

  get state(): LinkState {
    return this.#state;
  }

  get open(): boolean {
    return this.#state === "open";
  }

  /** Why nothing that is written now will be answered; null: it may be. */
  get fault(): ShmError | null {
    return this.#state === "open" || this.#state === "closing" ? null : this.#error;
  }

  /** Hold back what is to be written until drained(). */
  get blocked(): boolean {
    return this.#blocked;
  }

  get heardAt(): number {
    return this.#heardAt;
  }

  /** Whole lines. Ignored when it does not matter any more. */
  write(text: string): void {
    if (this.#state === "gone" || text === "") return;
    this.#blocked = !this.#transport.write(text);
  }

  /** What is wrong with a worker that does not keep to the protocol. */
  violation(fault: string): ShmError {
    return new ShmError(`the ${this.peer} does not keep to the protocol: ${fault}`, {
      code: "EPROTO",
      operation: "talk to worker",
      errno: errnoNumber("EPROTO")!,
      hint: "Check that the program or the address really is a worker",
    });
  }

  /** A request that was not answered in time. */
  lateness(what: string, limitMs: number): ShmError {
    return new ShmError(`the ${this.peer} has not answered ${what} within ${limitMs} ms`, {
      code: "ETIMEDOUT",
      operation: "talk to worker",
      errno: errnoNumber("ETIMEDOUT")!,
      hint: this.#silent && this.pid === null
        ? "It has said nothing at all. LMCache's worker serves one client, and others get no " +
          "answer while that one is connected: start lmshm-worker, which serves many, or end the " +
          "other client"
        : "Check the storage below it; ioTimeoutMs and controlTimeoutMs set the limits",
      details: { limitMs, pid: this.pid },
    });
  }

  /** Gives up a worker that was too late with one request; the others are told so. */
  giveUpLate(what: string, limitMs: number, cause: ShmError): void {
    this.giveUp(
      new ShmError(`the ${this.peer} was given up: no answer to ${what} within ${limitMs} ms`, {
        code: "ECONNRESET",
        operation: "talk to worker",
        errno: errnoNumber("ECONNRESET")!,
        details: { limitMs, pid: this.pid },
        cause,
      }),
      "draining",
    );
  }

  giveUp(error: ShmError, state: "draining" | "distrusted"): void {
    if (this.#state !== "open" && this.#state !== "closing") return;
    const wasOpen = this.#state === "open";
    this.#state = state;
    this.#error = error;
    const owner = this.#owner;
    const patience = { limitMs: PATIENCE_MS, expired: () => error };
    if (owner.busy()) this.#stopPatience = watch(patience, () => owner.impatient(error));
    const holdsMemory = owner.holdsMemory();
    if (wasOpen) owner.down(error);
    if (holdsMemory) this.#transport.abandon();
    else this.#transport.destroy();
  }

  /** From now on its end is no loss, and `error` its reason. False: it had ended before. */
  beginClose(error: ShmError): boolean {
    if (this.#state !== "open") return false;
    this.#state = "closing";
    this.#error = error;
    return true;
  }

  /** After QUIT was answered, or was not. */
  async finishClose(graceMs: number): Promise<void> {
    await this.#transport.close(graceMs);
  }

  #onDrain(): void {
    this.#blocked = false;
    this.#owner.drained();
  }

  #onData(chunk: Uint8Array): void {
    this.#silent = false;
    if (this.#state === "distrusted" || this.#state === "gone") return;
    this.#heardAt = performance.now();
    let lines: string[];
    try {
      lines = this.#splitter.push(chunk);
    } catch (cause) {
      // What came before is still good, and the owner knows best who is to blame for the rest.
      this.#slice(Infinity);
      this.#owner.garbled(`it sent ${(cause as RangeError).message}`);
      return;
    }
    if (this.#nextLine === this.#lines.length) {
      this.#lines = lines;
      this.#nextLine = 0;
    } else {
      for (const line of lines) this.#lines.push(line);
    }
    if (!this.#slicePlanned) this.#slice(SLICE_WORK);
  }

  /** Hands out lines until the work is done. */
  #slice(work: number): void {
    const before = this.#nextLine;
    while (this.#nextLine < this.#lines.length && work > 0) {
      work -= this.#owner.line(this.#lines[this.#nextLine++]!);
      if (this.#isDeaf()) {
        this.#lines = [];
        this.#nextLine = 0;
        return;
      }
    }
    if (this.#nextLine < this.#lines.length) {
      this.#slicePlanned = true;
      setImmediate(() => {
        this.#slicePlanned = false;
        if (!this.#isDeaf()) this.#slice(SLICE_WORK);
      });
    }
    if (this.#nextLine === before) return;
    // Nothing that was answered holds memory any more.
    if (this.#state === "draining" && !this.#owner.busy()) this.#transport.destroy();
    if (!this.#isDeaf()) this.#owner.sliced();
  }

  /** A function, so that the compiler does not take the state for unchanged. */
  #isDeaf(): boolean {
    return this.#state === "distrusted" || this.#state === "gone";
  }

  #onGone(error: ShmError): void {
    if (this.#state === "gone") return;
    // Answers that had arrived count, whatever became of the worker since.
    if (this.#state !== "distrusted") this.#slice(Infinity);
    if (this.state === "gone") return;
    const wasOpen = this.state === "open";
    this.#state = "gone";
    this.#error ??= error;
    this.#stopPatience();
    this.#lines = [];
    this.#nextLine = 0;
    if (wasOpen) this.#owner.down(this.#error);
    this.#owner.gone(this.#error);
  }
}
