// SPDX-License-Identifier: Apache-2.0
//
// How a store is named at the command line: DIR, DIR@ADDRESS for a directory of a running worker, or
// a URL as connect() takes it. An "@" that no address follows is part of the directory's name
// ("./models@1/" with its slash). What only looks like a URL is none of them ("./http://x" is a
// directory).

import { stat } from "node:fs/promises";
import { isMistakenUrl, isStoreUrl, parseStoreUrl, withoutSecret } from "../../config/store_url.ts";
import { ShmError } from "../../errors.ts";
import { parseWorkerAddress } from "../../worker/address.ts";
import { UsageError } from "../command.ts";

export interface StoreAddress {
  /** As it was said. */
  readonly text: string;
  readonly storageDir: string;
  /** Of a URL; the others are as good as not said then. */
  readonly url?: string;
  /** Undefined: a worker is started. */
  readonly workerAddress: string | undefined;
  /** What an engine is logged in to with, see login.ts; undefined: the environment's variables. */
  readonly storeSecretFile?: string | null | undefined;
  /** Whose file that is, where another option has that of the other store. */
  readonly secretOption?: string;
  /** Of a worker at host:port, where it is not that of the command. */
  readonly secretFile?: string | undefined;
  /** Of a command with two stores: which of them it is. */
  readonly role?: "FROM" | "TO";
}

/** Whether a worker listens at host:port, where it wants a secret. */
export function isTcp({ workerAddress }: StoreAddress): boolean {
  return workerAddress !== undefined && !/^(unix:|\/)/.test(workerAddress);
}

/** What follows an "@" and is meant to be an address, right or wrong. */
const MEANT = /^(.*?)@((?:unix:|\/).*[^/]|(?:\[[^\]]*\]|[^@:/[\]]+):[^@:/]+)$/s;

/** @throws {UsageError} where there is none, or the address is wrong. */
export function parseStore(text: string | undefined, what = "STORE"): StoreAddress {
  if (text === undefined || text === "") {
    throw new UsageError(
      `${what} is missing: a directory, DIR@ADDRESS of a running worker, or a URL`,
    );
  }
  // Taken for DIR@ADDRESS, a slip in a URL would send its password to that address.
  if (isStoreUrl(text) || isMistakenUrl(text)) return parseUrl(text);
  const [, directory, address] = MEANT.exec(text) ?? [];
  if (directory === undefined || address === undefined) {
    return { text, storageDir: text, workerAddress: undefined };
  }
  checkAddress(address);
  return { text, storageDir: directory === "" ? "." : directory, workerAddress: address };
}

/** A password would be on the command line of this command, too. */
function parseUrl(text: string): StoreAddress {
  const shown = withoutSecret(text);
  const parts = parseStoreUrl(text);
  if (typeof parts === "string") throw new UsageError(`${JSON.stringify(shown)} ${parts}`);
  if (parts.kind === "engine" && Object.keys(parts.secrets).length > 0) {
    throw new UsageError(
      `${shown}: everybody on this machine could read the password here; set LMSHM_STORE_SECRET ` +
        "(Redis) or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (S3), or give --store-secret-file FILE",
    );
  }
  const { directory: storageDir = "", address: workerAddress } = parts as {
    directory?: string;
    address?: string;
  };
  if (parts.kind === "directory") return { text, storageDir, workerAddress: undefined };
  if (workerAddress !== undefined) checkAddress(workerAddress);
  return { text, storageDir, workerAddress, url: text };
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
export async function mustExist({ storageDir, workerAddress, url }: StoreAddress): Promise<void> {
  if (workerAddress !== undefined || url !== undefined) return;
  const found = await stat(storageDir).catch((error: NodeJS.ErrnoException) => error);
  if (!(found instanceof Error) && found.isDirectory()) return;
  const missing = found instanceof Error;
  throw new ShmError(
    missing ? `${storageDir}: ${found.message}` : `${storageDir} is no directory`,
    {
      code: missing && found.code !== "EACCES" ? "ENOENT" : missing ? "EACCES" : "ENOTDIR",
      operation: "open store",
      hint: "A store is a directory, DIR@ADDRESS of a running worker, or a URL",
    },
  );
}
