// SPDX-License-Identifier: Apache-2.0
//
// A prompt cache for an engine that gives its state as raw bytes, as llama.cpp does by
// llama_state_seq_get_data() and llama_state_seq_set_data(). After a prompt its state is stored under
// a hash of the tokens; the next prompt starts from the longest beginning whose state is there.
//
//   bun examples/prompt_cache.ts [DIRECTORY]
//   deno run -A examples/prompt_cache.ts [DIRECTORY]

import console from "node:console";
import { createHash } from "node:crypto";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { type TensorMemoryObj, TieredStore } from "lmshm";

/** States are stored after whole blocks of tokens only, so that few hashes have to be asked for. */
const BLOCK_TOKENS = 64;

class PromptCache {
  readonly #store: TieredStore;
  /** Whatever makes states incompatible: the model's file, its quantization, the engine's version. */
  readonly #model: string;

  constructor(store: TieredStore, model: string) {
    this.#store = store;
    this.#model = model;
  }

  /** One key for each whole block: of all tokens up to its end. */
  #keys(tokens: readonly number[]): string[] {
    const hash = createHash("sha256").update(this.#model);
    const keys: string[] = [];
    for (let end = BLOCK_TOKENS; end <= tokens.length; end += BLOCK_TOKENS) {
      hash.update(Int32Array.from(tokens.slice(end - BLOCK_TOKENS, end)));
      keys.push(`prompt-${hash.copy().digest("hex")}`);
    }
    return keys;
  }

  /**
   * Stores a state.
   * @param tokens a whole number of blocks.
   * @param write puts the state's bytes into memory of the pool: no buffer of the engine's is needed.
   */
  async save(
    tokens: readonly number[],
    stateBytes: number,
    write: (into: Uint8Array) => void,
  ): Promise<void> {
    const key = this.#keys(tokens).at(-1);
    if (key === undefined || tokens.length % BLOCK_TOKENS !== 0) {
      throw new RangeError(`${tokens.length} tokens are no whole blocks of ${BLOCK_TOKENS}`);
    }
    using obj = await this.#store.allocate(stateBytes);
    write(obj.bytes);
    await this.#store.put(key, obj);
  }

  /**
   * The state of the longest beginning of the prompt that was stored.
   * @param read takes the state's bytes out of the pool, before it returns.
   * @returns how many tokens it is of; 0: none was stored.
   */
  async restore(
    tokens: readonly number[],
    read: (state: Uint8Array) => void,
  ): Promise<number> {
    const keys = this.#keys(tokens);
    const found = await Promise.all(keys.map((key) => this.#find(key)));
    for (let block = keys.length - 1; block >= 0; block--) {
      const byteLength = found[block];
      if (byteLength === null || byteLength === undefined) continue;
      using obj = await this.#load(keys[block]!, byteLength);
      if (obj === null) continue; // removed meanwhile
      read(obj.bytes);
      return (block + 1) * BLOCK_TOKENS;
    }
    return 0;
  }

  /** How long a state is, of the pool or of the directory. */
  async #find(key: string): Promise<number | null> {
    using near = this.#store.hot.get(key);
    if (near !== null) return near.byteLength;
    return (await this.#store.cold.stat(key))?.byteLength ?? null;
  }

  async #load(key: string, byteLength: number): Promise<TensorMemoryObj | null> {
    return await this.#store.get(key, byteLength);
  }
}

/** Stands for an engine: its state is what it has read, 1 KiB a token. */
class Engine {
  #tokens: number[] = [];
  computed = 0;

  get stateBytes(): number {
    return this.#tokens.length * 1024;
  }

  /** Reads the tokens that come after those that it has. */
  evaluate(tokens: readonly number[]): void {
    const fresh = tokens.slice(this.#tokens.length);
    this.computed += fresh.length;
    this.#tokens.push(...fresh);
  }

  getState(into: Uint8Array): void {
    this.#tokens.forEach((token, at) => into.fill(token & 255, at * 1024, (at + 1) * 1024));
  }

  setState(state: Uint8Array, tokens: readonly number[]): void {
    this.#tokens = tokens.slice(0, state.length / 1024);
    const isRight = this.#tokens.every((token, at) => state[at * 1024] === (token & 255));
    if (!isRight) throw new Error("this is the state of other tokens");
  }
}

const directory = process.argv[2] ?? await mkdtemp(join(tmpdir(), "lmshm-example-"));
try {
  const system = Array.from({ length: 512 }, (_, n) => 1000 + n);
  const prompts = [1, 2, 3].map((user) => [...system, ...new Array<number>(100).fill(user)]);
  // Twice: the second program finds what the first one has left in the directory.
  for (const run of ["first", "second"]) {
    await using store = await TieredStore.create({
      hot: { sizeBytes: 16 * 2 ** 20 },
      cold: { storageDir: directory, maxBytes: 64 * 2 ** 20 },
    });
    const cache = new PromptCache(store, "example-7b-q4");
    for (const prompt of prompts) {
      const engine = new Engine();
      const restored = await cache.restore(prompt, (state) => engine.setState(state, prompt));
      for (const end of [system.length, prompt.length - prompt.length % BLOCK_TOKENS]) {
        if (end <= restored) continue;
        engine.evaluate(prompt.slice(0, end));
        await cache.save(prompt.slice(0, end), engine.stateBytes, (into) => engine.getState(into));
      }
      engine.evaluate(prompt);
      console.log(`${run} run: ${restored} tokens restored, ${engine.computed} computed`);
    }
  }
  console.log("OK: states came back as they were stored");
} finally {
  if (process.argv[2] === undefined) await rm(directory, { recursive: true, force: true });
}
