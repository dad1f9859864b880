// SPDX-License-Identifier: Apache-2.0
//
// remote_url: "shmfile://[host:port]/dir?shm_name=/kv&worker_bin=/path&worker_addr=unix:/path", with
// percent-encoding where it is needed; or what connect() takes (store_url.ts).

import { URLSearchParams } from "node:url";
import { segmentName, workerAddress } from "./kinds.ts";
import { nearest } from "../nearest.ts";
import { isStoreUrl, parseStoreUrl } from "./store_url.ts";

export interface RemoteUrl {
  /** An absolute path; null: it is an URL that connect() takes. */
  readonly storageDir: string | null;
  /** Null: the worker is started, not connected to. */
  readonly workerAddress: string | null;
  readonly shmName: string | null;
  readonly workerBinary: string | null;
}

/** Of a URL that is passed on as it is: see store_url.ts. */
const NO_PARTS = { storageDir: null, workerAddress: null, shmName: null, workerBinary: null };
const FORM = "shmfile://[host:port]/dir?shm_name=/NAME&worker_bin=/PATH";
const PARAMETERS = ["shm_name", "worker_bin", "worker_addr"];

/** @returns the parts, or what is wrong, to be read after "remote_url ... ". */
export function parseRemoteUrl(url: string): RemoteUrl | string {
  if (isStoreUrl(url)) {
    const store = parseStoreUrl(url);
    if (typeof store === "string") return store;
    return store.kind === "directory" ? { ...NO_PARTS, storageDir: store.directory } : NO_PARTS;
  }
  const parts = /^([A-Za-z][A-Za-z0-9+.-]*):\/\/([^/?#]*)([^?#]*)(?:\?([^#]*))?(#.*)?$/s.exec(url);
  if (!parts) return `is no URL; accepted is ${FORM}`;
  const [, scheme, host, encoded, query, fragment] = parts;
  if (scheme!.toLowerCase() !== "shmfile") {
    return `has the scheme ${scheme}://, which nothing here connects to; accepted is ${FORM}`;
  }
  if (fragment !== undefined) {
    return `has a fragment (${fragment}); write "#" in a directory's name as %23`;
  }
  const storageDir = decoded(encoded!);
  if (storageDir === null) return "has a malformed percent-encoding; write % itself as %25";
  if (!/^\/./.test(storageDir)) {
    const meant = host && !host.includes(":") ? `; shmfile:///${host} has three slashes` : "";
    return `names no directory${meant}; accepted is ${FORM}`;
  }
  if (storageDir.includes("\0")) return "contains a NUL";
  const address = host === "" ? null : workerAddress.read(host);
  if (address === undefined) {
    const meant = host!.includes(":") ? "" : `; shmfile:///${host}${encoded} has three slashes`;
    return `has "${host}" where the host:port of a running worker is accepted, or nothing${meant}`;
  }
  return parseQuery(query ?? "", storageDir, address);
}

function decoded(text: string): string | null {
  try {
    return decodeURIComponent(text);
  } catch {
    return null;
  }
}

function parseQuery(query: string, storageDir: string, host: string | null): RemoteUrl | string {
  const parameters = new URLSearchParams(query);
  for (const name of parameters.keys()) {
    if (!PARAMETERS.includes(name)) {
      const meant = nearest(name, PARAMETERS);
      return `has the unknown parameter "${name}"; ` +
        (meant ? `did you mean "${meant}"?` : `accepted are ${PARAMETERS.join(", ")}`);
    }
    if (parameters.getAll(name).length > 1) return `has ${name} more than once`;
  }
  const name = parameters.get("shm_name");
  const shmName = name === null ? null : segmentName.read(name);
  if (shmName === undefined) {
    return `has shm_name=${JSON.stringify(name)}; accepted is ${segmentName.accepts}`;
  }
  const workerBinary = parameters.get("worker_bin");
  if (workerBinary === "") return "has an empty worker_bin; leave it out to use the default";
  const parameter = parameters.get("worker_addr");
  if (parameter !== null && host !== null) return "has both a host and worker_addr";
  const address = parameter === null ? host : workerAddress.read(parameter);
  if (address === undefined) {
    return `has worker_addr=${JSON.stringify(parameter)}; accepted is ${workerAddress.accepts}`;
  }
  return { storageDir, workerAddress: address, shmName, workerBinary };
}
