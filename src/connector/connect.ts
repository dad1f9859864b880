// SPDX-License-Identifier: Apache-2.0
//
// One call for every store: the URL says where the objects are, and the worker does the rest.

import { describe } from "../arguments.ts";
import { ShmFileConnector } from "./shm_file_connector.ts";
import type { ShmFileConnectorOptions } from "./shm_file_options.ts";

/** Options beside what the URL says. */
export type ConnectOptions = Omit<
  ShmFileConnectorOptions,
  "store" | "storageDir" | "workerAddress"
>;

/**
 * Opens the store at a URL:
 *
 * - a directory: `/dir`, `./dir`, `file:///dir`
 * - a worker that runs already: `tcp://host:port`, `unix:/path`, with `?dir=DIRECTORY` below its root
 * - Redis or Valkey: `redis://[user[:password]@]host[:port][/db]`, `redis+unix:///path`,
 *   `redis+cluster://host[:port],...`
 * - S3: `s3://bucket[/prefix]?endpoint=http://host:port`
 *
 * For all but the second a worker is started. A password is taken out of the URL and handed to the
 * worker in its environment; it is on no command line, in no error and in no log. docs/engines.md has
 * the parameters, and what each engine can do: info() tells it of the one at hand.
 * @throws as ShmFileConnector.open().
 */
export async function connect(url: string, options: ConnectOptions): Promise<ShmFileConnector> {
  if (typeof url !== "string") throw new TypeError(`connect() takes a URL, got ${describe(url)}`);
  return await ShmFileConnector.open({ ...options, store: url });
}
