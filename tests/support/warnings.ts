// SPDX-License-Identifier: Apache-2.0
//
// Which warnings of ours there are while something goes on: functions of the user that failed.

import process from "node:process";
import { sleep } from "./worker.ts";

/** The messages, in their order. Whatever `body` leaves to the next turns is waited for. */
export async function warningsOf(body: () => void | Promise<void>): Promise<string[]> {
  const heard: string[] = [];
  const listener = (warning: Error) => {
    if (warning.name === "LmshmWarning") heard.push(warning.message);
  };
  process.on("warning", listener);
  try {
    await body();
    await sleep(20);
  } finally {
    process.off("warning", listener);
  }
  return heard;
}
