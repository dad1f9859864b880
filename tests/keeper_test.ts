// SPDX-License-Identifier: Apache-2.0
//
// How often a lost connection is replaced: over connections that do as a test says.

import assert from "node:assert/strict";
import { test } from "node:test";
import { Keeper, type KeptConnection } from "../src/worker/keeper.ts";
import { shmError } from "./support/assertions.ts";

/** A connection that greets. */
function connectionThat(isOpen: () => boolean): KeptConnection {
  return {
    get open() {
      return isOpen();
    },
    pid: null,
    ready: Promise.resolve(),
    discard: () => {},
    close: () => Promise.resolve(),
  };
}

for (const reconnects of [true, false]) {
  test(`a peer that greets and closes at once uses up the attempts (reconnects: ${reconnects})`, {
    timeout: 30_000,
  }, async () => {
    const { promise: refused, resolve: refuse } = Promise.withResolvers<unknown>();
    let made = 0;
    const keeper = new Keeper(
      {
        make: () => {
          made++;
          return connectionThat(() => false);
        },
        greet: () => Promise.resolve(null),
        // An end, if the attempts have none.
        needed: () => made < 50,
        pump: () => {
          if (made >= 50) refuse(null);
        },
        refuse,
      },
      { max: 3, windowMs: 60_000, pauseMs: 1, reconnects },
      undefined,
    );
    keeper.need();
    shmError("EWORKER", /closed the connection as soon as it was made/)(await refused);
    assert.equal(made, 3);
  });
}
