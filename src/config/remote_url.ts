// SPDX-License-Identifier: Apache-2.0
//
// remote_url: where the objects are: what connect() takes (store_url.ts), or one of three spellings
// for a directory, with percent-encoding where it is needed.
//
//     shmfile://[host:port]/dir?shm_name=/kv&worker_bin=/path&worker_addr=unix:/path      our own
//     external://HOST:PORT/MODULE/?connector_name=ShmFileConnector    LMCache's, for its connector of
//                                     that name; all the rest is below extra_config, as it is there
//     fs://host:port/dir              LMCache's, a directory of its fs connector; host and port mean
//                                     nothing to it, but it wants some

import { URLSearchParams } from "node:url";
import { segmentName, workerAddress } from "./kinds.ts";
import { nearest } from "../nearest.ts";
import { isStoreUrl, parseStoreUrl } from "./store_url.ts";

export interface RemoteUrl {
  /** Which connector of LMCache's it names; "shmfile" is ours; "store": what connect() takes. */
  readonly scheme: "shmfile" | "external" | "fs" | "store";
  /** An absolute path; null: extra_config says it, or it is a URL that connect() takes. */
  readonly storageDir: string | null;
  /** Null: the worker is started, not connected to; or extra_config says it. */
  readonly workerAddress: string | null;
  readonly shmName: string | null;
  readonly workerBinary: string | null;
}

/** Of a URL that is passed on as it is, see store_url.ts, or that says nothing more. */
const NO_PARTS = { storageDir: null, workerAddress: null, shmName: null, workerBinary: null };
const FORM = "shmfile://[host:port]/dir?shm_name=/NAME&worker_bin=/PATH";
const EXTERNAL_FORM = "external://HOST:PORT/MODULE/?connector_name=ShmFileConnector";
const FS_FORM = "fs://HOST:PORT/dir";
const OTHERS = "what connect() takes (redis://, s3://, file://, tcp://, unix:)";
const PARAMETERS = ["shm_name", "worker_bin", "worker_addr"];
const CONNECTOR = "ShmFileConnector";

/** @returns the parts, or what is wrong, to be read after "remote_url ... ". */
export function parseRemoteUrl(url: string): RemoteUrl | string {
  if (isStoreUrl(url)) {
    const store = parseStoreUrl(url);
    if (typeof store === "string") return store;
    const storageDir = store.kind === "directory" ? store.directory : null;
    return { scheme: "store", ...NO_PARTS, storageDir };
  }
  const parts = /^([A-Za-z][A-Za-z0-9+.-]*):\/\/([^/?#]*)([^?#]*)(?:\?([^#]*))?(#.*)?$/s.exec(url);
  if (!parts) return `is no URL; accepted are ${FORM} and ${OTHERS}`;
  const [, scheme, host, encoded, query = "", fragment] = parts;
  switch (scheme!.toLowerCase()) {
    case "external":
      return parseExternal(query);
    case "fs":
      return parseFs(host!, encoded!);
    case "shmfile":
      break;
    default:
      return `has the scheme ${scheme}://, which nothing here connects to; accepted are ${FORM}, ` +
        `${EXTERNAL_FORM}, ${FS_FORM} and ${OTHERS}`;
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
  return parseQuery(query, storageDir, address);
}

/** Of the many connectors that LMCache can load, one is this library's. */
function parseExternal(query: string): RemoteUrl | string {
  const name = new URLSearchParams(query).get("connector_name");
  if (name === CONNECTOR) return { scheme: "external", ...NO_PARTS };
  return `names the connector ${JSON.stringify(name ?? "")}, which nothing here stands for; ` +
    `accepted is ${EXTERNAL_FORM}`;
}

/** LMCache takes the path as it is: it knows no percent-encoding. */
function parseFs(host: string, path: string): RemoteUrl | string {
  if (path.includes(",") || host.includes(",")) {
    return "has several directories, among which LMCache distributes; a store here has one";
  }
  if (!/^\/./.test(path)) return `names no directory; accepted is ${FS_FORM}`;
  if (path.includes("\0")) return "contains a NUL";
  return { scheme: "fs", ...NO_PARTS, storageDir: path };
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
  return { scheme: "shmfile", storageDir, workerAddress: address, shmName, workerBinary };
}
