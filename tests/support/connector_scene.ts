// SPDX-License-Identifier: Apache-2.0
//
// A test with a segment, a directory and connectors between the two, and a check that nothing is left.

import { mkdirSync } from "node:fs";
import { test } from "node:test";
import {
  ShmFileConnector,
  type ShmFileConnectorOptions,
} from "../../src/connector/shm_file_connector.ts";
import { ShmSegment } from "../../src/memory/segment.ts";
import { uniqueName } from "./leaks.ts";
import { plainWorker } from "./plain_worker.ts";
import { type Script, ScriptedWorker, startWorker, TempDir, withoutWorkers } from "./worker.ts";

export interface ConnectorScene {
  readonly segment: ShmSegment;
  /** Of the test, with the store in it. */
  readonly dir: TempDir;
  /** The directory of the objects. */
  readonly store: string;
  /** For the test's end, last first. */
  readonly stack: AsyncDisposableStack;
  open(options?: Partial<ShmFileConnectorOptions>): Promise<ShmFileConnector>;
  /** The address of a worker whose root is the directory `root`. */
  listen(root: string, ...args: string[]): Promise<string>;
  /** A worker that knows version 1 alone, whose lines `before` sees first. */
  plain(before?: Script): Promise<ScriptedWorker>;
}

/** @param sizeBytes of the segment. */
export function connectorScene(
  name: string,
  body: (scene: ConnectorScene) => Promise<void>,
  sizeBytes: number,
  timeout = 120_000,
): void {
  test(name, { timeout }, () =>
    withoutWorkers(async () => {
      await using stack = new AsyncDisposableStack();
      const dir = stack.use(new TempDir());
      const store = dir.file("store");
      mkdirSync(store, { mode: 0o700 });
      const segment = stack.use(
        await ShmSegment.create({ name: uniqueName("scene"), sizeBytes, pin: "none" }),
      );
      await body({
        segment,
        dir,
        store,
        stack,
        open: async (options = {}) =>
          stack.use(await ShmFileConnector.open({ segment, storageDir: store, ...options })),
        listen: async (root, ...args) =>
          stack.use(await startWorker(dir.file("w.sock"), root, args)).address,
        plain: async (before) => {
          const serve = plainWorker(segment);
          return stack.use(
            await ScriptedWorker.listen(dir, (line, peer) =>
              before?.(line, peer) ?? serve(line, peer)),
          );
        },
      });
    }));
}
