// SPDX-License-Identifier: Apache-2.0
//
// How a store is named at the command line: DIR, or DIR@ADDRESS for a directory of a running worker.
// An "@" that no address follows is part of the directory's name ("./models@1/" with its slash).

import { stat } from "node:fs/promises";
import { ShmError } from "../../errors.ts";
import { parseWorkerAddress } from "../../worker/address.ts";
import { UsageError } from "../command.ts";

export interface StoreAddress {
  /** As it was said. */
  readonly text: string;
  readonly storageDir: string;
  /** Undefined: a worker is started. */
  readonly workerAddress: string | undefined;
}

/** What follows an "@" and is meant to be an address, right or wrong. */
const MEANT = /^(.*?)@((?:unix:|\/).*[^/]|(?:\[[^\]]*\]|[^@:/[\]]+):[^@:/]+)$/s;

/** @throws {UsageError} where there is none, or the address is wrong. */
export function parseStore(text: string | undefined, what = "STORE"): StoreAddress {
  if (text === undefined || text === "") {
    throw new UsageError(`${what} is missing: a directory, or DIR@ADDRESS of a running worker`);
  }
  const [, directory, address] = MEANT.exec(text) ?? [];
  if (directory === undefined || address === undefined) {
    return { text, storageDir: text, workerAddress: undefined };
  }
  checkAddress(address);
  return { text, storageDir: directory === "" ? "." : directory, workerAddress: address };
}

/** @throws {UsageError} */
export function checkAddress(address: string): void {
  try {
    parseWorkerAddress(address);
  } catch (error) {
    throw new UsageError((error as Error).message);
  }
}

/** @throws {ShmError} where the directory is to be there and is not. */
export async function mustExist({ storageDir, workerAddress }: StoreAddress): Promise<void> {
  if (workerAddress !== undefined) return;
  const found = await stat(storageDir).catch((error: NodeJS.ErrnoException) => error);
  if (!(found instanceof Error) && found.isDirectory()) return;
  const missing = found instanceof Error;
  throw new ShmError(
    missing ? `${storageDir}: ${found.message}` : `${storageDir} is no directory`,
    {
      code: missing && found.code !== "EACCES" ? "ENOENT" : missing ? "EACCES" : "ENOTDIR",
      operation: "open store",
      hint: "A store is a directory, or DIR@ADDRESS of a running worker",
    },
  );
}
