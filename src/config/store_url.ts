// SPDX-License-Identifier: Apache-2.0
//
// Where a store is, in one URL:
//
//     /dir, ./dir, file:///dir                       a directory
//     tcp://host:port[?dir=models], unix:/path       a worker that runs already
//     redis://[user[:password]@]host[:port][/db]     an engine, for which a worker is started;
//     redis+unix://, redis+cluster://, s3://         "valkey" is a synonym
//
// What an engine's URL says beyond that the worker reads (csrc/worker/storage/store_url.h). Here the
// password is taken out: a command line and a log are no place for it. Pure.

/** What a URL says. */
export type StoreUrl =
  | { readonly kind: "directory"; readonly directory: string }
  | { readonly kind: "worker"; readonly address: string; readonly directory: string }
  | {
    readonly kind: "engine";
    /** Without a password. */
    readonly url: string;
    /** For the worker's environment. */
    readonly secrets: Readonly<Record<string, string>>;
  };

const FORMS = "accepted are /dir, file:///dir, tcp://host:port, unix:/path, " +
  "redis://[user[:password]@]host[:port][/db], redis+unix:///path, " +
  "redis+cluster://host[:port],..., and s3://bucket[/prefix]?endpoint=http://host:port";
const ENGINE = /^(?:(?:redis|valkey)(?:\+unix|\+cluster)?|rediss|valkeys|s3):\/\//i;
const TLS = /^(?:rediss|valkeys):\/\//i;

/** Whether a text is meant to be such a URL, right or wrong; a directory's name is none. */
export function isStoreUrl(text: string): boolean {
  return ENGINE.test(text) || /^(?:file:\/\/|tcp:\/\/|unix:)/i.test(text);
}

/** Whether a text is no such URL, and hardly a directory either: another scheme, or a slip in one. */
export function isMistakenUrl(text: string): boolean {
  if (isStoreUrl(text)) return false;
  return /^[A-Za-z][A-Za-z0-9+.-]*:\/\//.test(text) ||
    /^(?:rediss?|valkeys?|s3)(?:\+[a-z]+)?(?::|\/\/)/i.test(text);
}

/** A URL as it may be shown, however it is misspelled: without what might be a password. */
export function withoutSecret(text: string): string {
  return text
    .replace(/^([A-Za-z0-9+.-]*:?\/{0,2}[^:@]*):.*@/s, "$1:***@")
    .replace(/([?&][^=&]*(?:password|secret)[^=&]*=)[^&]*/gi, "$1***")
    .slice(0, 500);
}

/** @returns what it says, or what is wrong, to be read after "the store's URL ... ". */
export function parseStoreUrl(text: string): StoreUrl | string {
  if (/^[./]/.test(text)) {
    return text.includes("\0") ? "contains a NUL" : { kind: "directory", directory: text };
  }
  if (ENGINE.test(text)) return parseEngine(text);
  const [, scheme] = /^([a-z]+):/i.exec(text) ?? [];
  switch (scheme?.toLowerCase()) {
    case "file":
      return parseFile(text);
    case "tcp":
    case "unix":
      return parseWorker(text);
    default:
      return `is none; ${FORMS}`;
  }
}

function decoded(text: string): string | null {
  try {
    return decodeURIComponent(text);
  } catch {
    return null;
  }
}

function parseFile(text: string): StoreUrl | string {
  const [, path] = /^file:\/\/(\/[^?#]*)$/i.exec(text) ?? [];
  if (path === undefined) return "names no directory; a directory is file:///dir or /dir";
  const directory = decoded(path);
  if (directory === null) return "has a malformed percent-encoding; write % itself as %25";
  if (directory.includes("\0")) return "contains a NUL";
  return { kind: "directory", directory };
}

function parseWorker(text: string): StoreUrl | string {
  const [, scheme, place = "", query] =
    /^(tcp:\/\/|unix:(?:\/\/(?=\/))?)([^?#]*)(?:\?([^#]*))?$/i.exec(text) ?? [];
  if (scheme === undefined) return "names no worker; accepted are tcp://host:port and unix:/path";
  let directory: string | null = "";
  if (query !== undefined) {
    const [, dir] = /^dir=([^&]*)$/.exec(query) ?? [];
    if (dir === undefined) return "has other parameters than dir=DIRECTORY";
    directory = decoded(dir);
    if (directory === null) return "has a malformed percent-encoding; write % itself as %25";
  }
  if (place === "" || place.includes("@")) {
    return "names no worker; accepted are tcp://host:port and unix:/path";
  }
  const tcp = /^tcp/i.test(scheme);
  const address = tcp ? place.replace(/\/$/, "") : `unix:${place}`;
  return { kind: "worker", address, directory };
}

/** The worker's own rule: a password may have any character that should have been coded. */
function hasPassword(text: string): boolean {
  const at = text.lastIndexOf("@");
  return at >= 0 && text.slice(0, at).includes(":");
}

function parseEngine(text: string): StoreUrl | string {
  if (TLS.test(text)) {
    return "wants TLS, which the worker does not speak: let a tunnel do it (docs/engines.md) and " +
      "give the address at which that listens, redis://127.0.0.1:PORT";
  }
  if (!/^[\x21-\x7e]+$/.test(text)) return "has characters that are written as %XX";
  const [, scheme = "", authority = "", rest = ""] = /^([^:]+:\/\/)([^/?#]*)(.*)$/.exec(text) ?? [];
  const at = authority.lastIndexOf("@");
  const [, coded = "", password] =
    /^([^:]*)(?::(.*))?$/s.exec(authority.slice(0, Math.max(at, 0))) ??
      [];
  const s3 = /^s3:/i.test(scheme);
  const user = s3 ? "" : coded;
  const url = `${scheme}${user === "" ? "" : `${user}@`}${authority.slice(at + 1)}${rest}`;
  const behind = url.slice(scheme.length);
  const query = behind.indexOf("?");
  if (
    hasPassword(query < 0 ? behind : behind.slice(0, query)) ||
    (query >= 0 && hasPassword(behind.split("/")[0]!)) || /[?&][^=&]*password[^=&]*=/i.test(url)
  ) {
    return "has a password in a place where it cannot be taken out: in it, write / as %2F, ? as " +
      "%3F, # as %23, @ as %40 and % as %25";
  }
  if (s3 && at >= 0 && (coded === "" || !password)) {
    return "has half of a login: it is s3://ACCESS_KEY_ID:SECRET_ACCESS_KEY@bucket, or is left out " +
      "where AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are set";
  }
  if (password === undefined || password === "") return { kind: "engine", url, secrets: {} };
  const secret = decoded(password);
  const access = decoded(coded);
  if (secret === null || access === null) return "has a password that is not percent-encoded";
  const secrets: Record<string, string> = s3
    ? { AWS_ACCESS_KEY_ID: access, AWS_SECRET_ACCESS_KEY: secret, AWS_SESSION_TOKEN: "" }
    : { LMSHM_STORE_SECRET: secret };
  return { kind: "engine", url, secrets };
}
