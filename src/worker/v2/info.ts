// SPDX-License-Identifier: Apache-2.0
//
// From the words of INFO's answer to a WorkerInfo: camel case, and numbers where the worker wrote
// numbers. Pure.

import type { LatencyBucket, VerbInfo, WorkerInfo } from "../worker_info.ts";

const OF_VERB = /^([a-z]+)_(requests|errors|bytes|latency_us|latency_us_sum)$/;
const NOTHING: VerbInfo = { requests: 0, errors: 0, bytes: 0, latency: [], latencySumUs: 0 };
const NUMBER = /^(?:0|[1-9][0-9]{0,15})$/;

/** @param words as the worker said them */
export function workerInfo(
  worker: string,
  words: Readonly<Record<string, string>>,
): WorkerInfo {
  const info: Record<string, unknown> = {};
  const verbs: Record<string, { -readonly [K in keyof VerbInfo]: VerbInfo[K] }> = {};
  for (const [word, text] of Object.entries(words)) {
    const [, verb, of] = OF_VERB.exec(word) ?? [];
    // "used_bytes" is of no verb.
    if (verb === undefined || !(`${verb}_requests` in words)) {
      info[word.replace(/_([a-z])/g, (_, letter: string) => letter.toUpperCase())] = valueOf(text);
      continue;
    }
    const counts = verbs[verb] ??= { ...NOTHING };
    switch (of) {
      case "latency_us":
        counts.latency = bucketsOf(text);
        break;
      case "latency_us_sum":
        counts.latencySumUs = Number(text);
        break;
      default:
        counts[of as "requests" | "errors" | "bytes"] = Number(text);
    }
  }
  return { ...info, worker, verbs };
}

function valueOf(text: string): number | string {
  return NUMBER.test(text) && Number.isSafeInteger(Number(text)) ? Number(text) : text;
}

/** "100:5,1000:7,inf:9". */
function bucketsOf(text: string): LatencyBucket[] {
  return text.split(",").filter((one) => one !== "").map((one) => {
    const [le = "", count = ""] = one.split(":");
    return { leUs: NUMBER.test(le) ? Number(le) : Infinity, count: Number(count) };
  });
}
