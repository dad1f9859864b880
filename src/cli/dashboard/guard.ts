// SPDX-License-Identifier: Apache-2.0
//
// Who may read what the dashboard serves. The page itself holds no data; the data are for that page,
// in the browser of somebody who may, and for nobody else:
//
// - The Host that was asked for is an address, localhost or a name that was allowed. So a name of a
//   stranger that is made to lead here (DNS rebinding) gets nothing: an address cannot be made to.
// - A request that a browser sends for another origin's page says so in Origin or Sec-Fetch-Site.
// - No answer allows another origin to read it (CORS).
// - Where there is a token, the data need it, in a header that no page of another origin can send.
//
// Pure.

import { createHash, timingSafeEqual } from "node:crypto";
import type { IncomingHttpHeaders } from "node:http";
import { isIP } from "node:net";
import { isLoopback } from "./listen.ts";

export interface Policy {
  /** It listens there alone. */
  readonly loopback: boolean;
  /** Names that are allowed beside localhost. */
  readonly names: readonly string[];
  /** Null: the data need none. */
  readonly token: string | null;
}

export interface Refusal {
  readonly status: 401 | 403 | 405;
  readonly text: string;
}

export interface Asked {
  readonly method: string | undefined;
  readonly headers: IncomingHttpHeaders;
  /** What is asked for are the data, and not the page. */
  readonly data: boolean;
}

const refused = (status: Refusal["status"], text: string): Refusal => ({ status, text });

/** "[::1]:9809" is "::1". Null: it is no Host. */
function hostOf(header: string | undefined): string | null {
  const [, bracketed, plain] = /^(?:\[([^\]]+)\]|([^:]+))(?::\d{1,5})?$/.exec(header ?? "") ?? [];
  return bracketed ?? plain?.toLowerCase() ?? null;
}

function isOurHost(host: string, { loopback, names }: Policy): boolean {
  if (host === "localhost" || names.includes(host)) return true;
  return isIP(host) !== 0 && (!loopback || isLoopback(host));
}

function sameToken(given: string, token: string): boolean {
  const [one, other] = [given, token].map((text) => createHash("sha256").update(text).digest());
  return timingSafeEqual(one!, other!);
}

/** Why a request is not answered; null: it is. */
export function refusalOf({ method, headers, data }: Asked, policy: Policy): Refusal | null {
  const host = hostOf(headers.host);
  if (host === null || !isOurHost(host, policy)) {
    return refused(
      403,
      `this is not "${headers.host ?? ""}"; if it is meant to be, start it with --allow-host`,
    );
  }
  if (method !== "GET" && method !== "HEAD") return refused(405, "GET only");
  const { origin } = headers;
  // Behind a proxy with TLS it is https there.
  const own = [`http://${headers.host}`, `https://${headers.host}`];
  if (origin !== undefined && !own.includes(origin.toLowerCase())) {
    return refused(403, "other origins may not read this");
  }
  const site = headers["sec-fetch-site"];
  const opens = !data && headers["sec-fetch-mode"] === "navigate" &&
    headers["sec-fetch-dest"] === "document";
  if (site !== undefined && site !== "same-origin" && site !== "none" && !opens) {
    return refused(403, "other sites may not read this");
  }
  if (!data || policy.token === null) return null;
  const [, given] = /^Bearer (\S+)$/.exec(headers.authorization ?? "") ?? [];
  if (given === undefined) return refused(401, "a token is needed");
  return sameToken(given, policy.token) ? null : refused(401, "the token is wrong");
}
