// SPDX-License-Identifier: Apache-2.0
//
// What the engines of a command are logged in to with: --store-secret-file, or the variables of the
// environment, which the worker takes out of it (csrc/worker/process/store_secrets.h).
//
// A command with two stores has two logins. A password must not go to another server than its own:
// Redis is told it as it is. S3 is sent signatures, from which nobody learns the key, so that the
// variables of one account may serve two regions.

import process from "node:process";
import { UsageError } from "../command.ts";
import type { StoreAddress } from "./address.ts";

/** Undefined: from the environment; null: none. */
export type SecretFile = string | null | undefined;

const NONE = "none";
const OPTION = "--store-secret-file";
const TO_OPTION = "--to-store-secret-file";
const REDIS = /^(?:redis|valkey)((?:\+unix|\+cluster)?):\/\/(?:([^@/?]*)@)?(.*)$/i;

/** What the option says. An empty value is a variable of the shell that is not set. */
export function secretFileOf(value: string | undefined, option = OPTION): SecretFile {
  if (value === "") {
    throw new UsageError(`${option} is empty; give a file, or ${NONE} for no login`);
  }
  return value === NONE ? null : value;
}

/** A store whose login is known. */
export function withLogin(
  store: StoreAddress,
  value: string | undefined,
  option = OPTION,
): StoreAddress {
  const own = option === OPTION ? {} : { secretOption: option };
  return { ...store, ...own, storeSecretFile: secretFileOf(value, option) };
}

/**
 * FROM and TO with their logins.
 * @param given of --store-secret-file: FROM's, or of the one of both that is an engine.
 * @param givenTo of --to-store-secret-file.
 * @throws {UsageError} where it is not said which server a password is for.
 */
export function withLogins(
  stores: readonly [StoreAddress, StoreAddress],
  given: string | undefined,
  givenTo: string | undefined,
): [StoreAddress, StoreAddress] {
  const from: StoreAddress = { ...stores[0], role: "FROM" };
  const to: StoreAddress = { ...stores[1], role: "TO" };
  const [source, target] = [engineOf(from), engineOf(to)];
  if (givenTo !== undefined && target === null) {
    throw new UsageError(`${TO_OPTION} is for an engine, and TO is ${to.text}`);
  }
  if (source === null && given !== undefined && givenTo !== undefined) {
    throw new UsageError(`${OPTION} is for an engine, and FROM is ${from.text}`);
  }
  // Two of which only one is an engine, or two keys of one server.
  const one = source === null || target === null || isSame(source, target);
  if (one) {
    const login = givenTo === undefined ? withLogin(to, given) : withLogin(to, givenTo, TO_OPTION);
    return [withLogin(from, given), login];
  }
  const variable = process.env["LMSHM_STORE_SECRET"];
  const both = given === undefined && givenTo === undefined;
  if (both && variable && source.kind === "redis" && target.kind === "redis") {
    throw new UsageError(
      "LMSHM_STORE_SECRET is one password, and FROM and TO are two logins: say which is whose with " +
        "--store-secret-file FILE for FROM and --to-store-secret-file FILE for TO (none: without a login)",
    );
  }
  return [withLogin(from, given), withLogin(to, givenTo, TO_OPTION)];
}

/** Where a password goes to, and whose it is. */
interface Engine {
  readonly kind: "redis" | "s3";
  readonly user: string;
  /** Of a cluster some of its nodes. */
  readonly places: readonly string[];
}

/** Null: the store is none. */
function engineOf({ url, workerAddress }: StoreAddress): Engine | null {
  if (url === undefined || workerAddress !== undefined) return null;
  const [, form, user = "", behind = ""] = REDIS.exec(url) ?? [];
  if (form === undefined) {
    // Without an endpoint it is Amazon's, whose keys are good in all regions.
    const [, endpoint = ""] = /[?&]endpoint=([^&]*)/i.exec(url) ?? [];
    return { kind: "s3", user: "", places: [endpoint.toLowerCase().replace(/\/$/, "")] };
  }
  const [path = ""] = behind.split("?");
  if (/unix/i.test(form)) return { kind: "redis", user, places: [path] };
  const [hosts = ""] = path.split("/");
  const places = hosts.split(",").map((host) =>
    host.toLowerCase() + (/:\d+$/.test(host) && !host.endsWith("]") ? "" : ":6379")
  );
  return { kind: "redis", user, places };
}

function isSame(one: Engine, other: Engine): boolean {
  return one.kind === other.kind && one.user === other.user &&
    one.places.some((place) => other.places.includes(place));
}
