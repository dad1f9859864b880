// SPDX-License-Identifier: Apache-2.0

import { ShmError } from "../../errors.ts";

/** What version 1 cannot do. */
export function unsupported(what: string, operation: string, hint?: string): ShmError {
  return new ShmError(`${what} needs protocol version 2, and the worker speaks version 1`, {
    code: "ENOTSUP",
    operation,
    hint: hint ?? "Use lmshm-worker with --root, or do without it",
  });
}
