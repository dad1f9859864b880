// SPDX-License-Identifier: Apache-2.0
//
// remote_url of an engine as LMCache means it, as the URL that connect() takes: the same server, and
// objects that lie there as LMCache's connector of that name has them. So one file serves both, and
// neither takes the other's objects for damaged.
//
//     redis://, redis-cluster://    layout=lmcache-redis        redis+cluster:// and redis+unix:// likewise
//     valkey://, resp://            layout=payload              with valkey_* and username, password
//     s3://BUCKET.HOST              layout=lmcache-s3           with s3_region, disable_tls, aws_*
//
// A URL with a layout= is this library's alone (LMCache refuses it), and is not touched. What cannot be
// translated, because it wants TLS or a sentinel, is said together with what to write instead. Pure.

/** What extra_config has under a key. */
export type Said = (key: string) => unknown;

export interface EngineUrl {
  /** As connect() takes it. */
  readonly url: string;
  /** What LMCache makes of it that connect() would not. */
  readonly layout: string;
}

const REDIS = "lmcache-redis";
const PAYLOAD = "payload";
const S3 = "lmcache-s3";
const DEFAULT_TTL_SECONDS = 86_400; // LMCache's
const OWN_KEY = "lmshm.remote_url";

interface Parts {
  readonly scheme: string;
  /** Before the last "@", percent-coded. */
  readonly login: string;
  readonly hosts: string;
  readonly path: string;
  readonly query: string;
}

function partsOf(url: string): Parts | null {
  const [, scheme, authority = "", path = "", query = ""] =
    /^([a-z][a-z0-9+-]*):\/\/([^/?]*)([^?]*)(?:\?(.*))?$/is.exec(url) ?? [];
  if (scheme === undefined) return null;
  if (/^redis-cluster$/i.test(scheme)) return partsOfCluster(url);
  const at = authority.lastIndexOf("@");
  const login = authority.slice(0, Math.max(at, 0));
  return {
    scheme: scheme.toLowerCase(),
    login,
    hosts: authority.slice(at + 1).replace(/\s+/g, ""),
    path,
    query,
  };
}

/** LMCache takes its user and password as they are written, whatever is in them. */
function partsOfCluster(url: string): Parts {
  const behind = url.slice(url.indexOf("//") + 2);
  const at = behind.lastIndexOf("@");
  const [user = "", ...password] = behind.slice(0, Math.max(at, 0)).split(":");
  const login = [user, ...password.length > 0 ? [password.join(":")] : []];
  const [, hosts = "", path = "", query = ""] =
    /^([^/?]*)([^?]*)(?:\?(.*))?$/s.exec(behind.slice(at + 1)) ?? [];
  return {
    scheme: "redis-cluster",
    login: login.map(encodeURIComponent).join(":"),
    hosts: hosts.replace(/\s+/g, ""),
    path,
    query,
  };
}

/**
 * @param url remote_url.
 * @param said for what LMCache's connectors read beside it.
 * @param withLogin whether that may be a login: a file may have it instead.
 * @returns what it means; or what is wrong, to be read after "remote_url ... "; or null: it names no
 *   engine, or is this library's alone.
 */
export function engineOfLmcache(
  url: string,
  said: Said,
  withLogin = true,
): EngineUrl | string | null {
  const parts = partsOf(url);
  if (parts === null || /[?&]layout=/.test(`?${parts.query}`)) return null;
  const read = READERS[parts.scheme];
  if (read === undefined) return null;
  // Of a password that should have been coded, nothing may be shown.
  if (`${parts.path}?${parts.query}`.includes("@")) {
    return 'has an "@" behind the server: write it as %40 there; in a password write / as %2F, ? as ' +
      "%3F, # as %23, @ as %40 and % as %25";
  }
  if (/[<>{}$]/.test(parts.hosts)) {
    return "has a place-holder where the server's name belongs: write that, such as " +
      `${parts.scheme}://${parts.scheme === "s3" ? "bucket.s3.example.org" : "10.0.0.7:6379"}`;
  }
  return read(parts, withLogin ? said : (key) => LOGIN_KEYS.has(key) ? undefined : said(key));
}

const LOGIN_KEYS: ReadonlySet<string> = new Set([
  ...["username", "password", "valkey_username", "valkey_password"],
  ...["aws_access_key_id", "aws_secret_access_key"],
]);

type Reader = (parts: Parts, said: Said) => EngineUrl | string;

const READERS: Readonly<Record<string, Reader>> = {
  "redis": as("redis", REDIS),
  "redis+unix": as("redis+unix", REDIS),
  "redis+cluster": as("redis+cluster", REDIS),
  "redis-cluster": as("redis+cluster", REDIS),
  "valkey": valkey,
  "valkey+unix": as("redis+unix", PAYLOAD),
  "valkey+cluster": as("redis+cluster", PAYLOAD),
  "resp": (parts, said) =>
    as("redis", PAYLOAD)(loggedIn(parts, said, "username", "password"), said),
  "s3": s3,
  "rediss": tls("redis", REDIS),
  "valkeys": tls("redis", PAYLOAD),
  "redis-sentinel": () =>
    "asks sentinels where the master is, which nothing here does: beside it, " +
    `say ${OWN_KEY}: redis://MASTER:6379?layout=${REDIS} below extra_config, with the address of the ` +
    "master or of what forwards to it",
  // LMCache hands it to its client of Redis. Here unix: is a worker's, and connects to no other.
  "unix": (parts) =>
    "is a Redis server's socket to LMCache, and a worker's here: write " +
    `redis+unix://${parts.path}?layout=${REDIS} for the one (LMCache does not take it: below ` +
    `extra_config, as ${OWN_KEY}), unix:${parts.path} for the other`,
  "lm": () =>
    "is LMCache's own server, whose protocol nothing here speaks: the two can share a directory " +
    "(fs://HOST:0/dir), Redis (redis://HOST:PORT) or S3",
};

/** The same server by another name, and LMCache's layout. */
function as(scheme: string, layout: string): Reader {
  return ({ login, hosts, path, query }) => {
    const before = login === "" ? "" : `${login}@`;
    const options = [...query === "" ? [] : [query], `layout=${layout}`].join("&");
    return { url: `${scheme}://${before}${hosts}${path}?${options}`, layout };
  };
}

function tls(scheme: string, layout: string): Reader {
  return ({ path }) =>
    "wants TLS, which the worker does not speak: let a tunnel do it (docs/engines.md), and say where " +
    `that listens below extra_config, ${OWN_KEY}: ` +
    `${scheme}://127.0.0.1:PORT${path.length > 1 ? path : ""}?layout=${layout}`;
}

/** As LMCache reads a switch. */
function isOn(value: unknown): boolean {
  return value === true || /^(true|1)$/i.test(String(value).trim());
}

function text(value: unknown): string {
  return typeof value === "string" || typeof value === "number" ? String(value) : "";
}

/** A login that LMCache keeps beside the URL, in its place. */
function loggedIn(parts: Parts, said: Said, userKey: string, passwordKey: string): Parts {
  if (parts.login !== "") return parts;
  const [user, password] = [text(said(userKey)), text(said(passwordKey))].map(encodeURIComponent);
  if (!user && !password) return parts;
  return { ...parts, login: password ? `${user}:${password}` : user! };
}

function valkey(plain: Parts, said: Said): EngineUrl | string {
  const parts = loggedIn(plain, said, "valkey_username", "valkey_password");
  if (isOn(said("tls_enable"))) return tls("redis", PAYLOAD)(parts, said);
  if (parts.path.length > 1) {
    return `names the database ${parts.path.slice(1)}, which LMCache passes over: beside the URL ` +
      `without it, say valkey_database: ${parts.path.slice(1)} below extra_config`;
  }
  const cluster = text(said("valkey_mode")) === "cluster";
  if (!cluster && parts.hosts.includes(",")) {
    return "names several servers, which is for valkey_mode: cluster below extra_config";
  }
  // To LMCache a cluster has one database.
  const database = text(said("valkey_database"));
  const path = cluster || database === "" ? "" : `/${database}`;
  const ttl = isOn(said("valkey_enable_ttl"))
    ? [`ttl=${text(said("valkey_ttl_sec")) || DEFAULT_TTL_SECONDS}`]
    : [];
  const query = [...parts.query === "" ? [] : [parts.query], ...ttl].join("&");
  return as(cluster ? "redis+cluster" : "redis", PAYLOAD)({ ...parts, path, query }, said);
}

/** "bucket.s3.eu-central-1.amazonaws.com": what stands before the first point is the bucket. */
function s3(parts: Parts, said: Said): EngineUrl | string {
  const { hosts, path, query } = parts;
  // With an endpoint it is this library's spelling.
  if (query !== "") return as("s3", S3)(parts, said);
  if (/\.s3express-/.test(hosts) || isOn(said("s3_enable_s3express"))) {
    return "is of S3 Express, whose sessions nothing here speaks: the two can share a bucket of the " +
      "usual kind";
  }
  const region = text(said("s3_region")) || "us-east-1";
  const [bucket = "", ...rest] = hosts.split(".");
  const host = rest.length === 0 ? `s3.${region}.amazonaws.com` : rest.join(".");
  const [id, key] = [text(said("aws_access_key_id")), text(said("aws_secret_access_key"))].map(
    encodeURIComponent,
  );
  const login = parts.login !== "" ? parts.login : id && key ? `${id}:${key}` : "";
  const made = (scheme: string, via: string) =>
    as("s3", S3)({
      ...parts,
      login,
      hosts: bucket,
      path: path === "/" ? "" : path,
      query: [
        ...[`endpoint=${scheme}://${host}`, `region=${region}`, "path_style=false", `via=${via}`],
      ].join("&"),
    }, said) as EngineUrl;
  if (!isOn(said("disable_tls"))) {
    const shown = made("https", "127.0.0.1:PORT").url.replace(/^s3:\/\/.*@/, "s3://");
    return "is reached by TLS, which the worker does not speak: let a tunnel do it (docs/engines.md), " +
      `and say where that listens below extra_config, ${OWN_KEY}: ${shown}; or disable_tls: true, ` +
      "for a server that does without";
  }
  // LMCache connects to the whole name.
  return made("http", /:\d+$/.test(hosts) ? hosts : `${hosts}:80`);
}
