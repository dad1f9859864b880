// SPDX-License-Identifier: Apache-2.0
//
// What several tests assert.

import assert from "node:assert/strict";
import { type ErrorCode, ShmError } from "../../src/errors.ts";

/** For assert.throws() and assert.rejects(): a ShmError with that code, and a text that matches. */
export function shmError(code: ErrorCode, text?: RegExp): (error: unknown) => true {
  return (error) => {
    assert.ok(error instanceof ShmError, `a ShmError, not ${error}`);
    assert.equal(error.code, code, error.message);
    if (text) assert.match(error.message, text);
    return true;
  };
}
