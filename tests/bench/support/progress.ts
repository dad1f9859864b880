// SPDX-License-Identifier: Apache-2.0
//
// The line that tells a person at a terminal what is being measured. It goes to stderr, is redrawn
// in place, and is silent where stderr is not a terminal.

import process from "node:process";

export interface Progress {
  show(text: string): void;
  clear(): void;
}

export function terminalProgress(): Progress {
  const { stderr } = process;
  if (!stderr.isTTY) return { show() {}, clear() {} };
  const started = performance.now();
  return {
    show(text) {
      const seconds = Math.round((performance.now() - started) / 1000);
      const line = `${String(seconds).padStart(4)} s  ${text}`;
      stderr.write(`\r${line.slice(0, (stderr.columns ?? 80) - 1)}\x1b[K`);
    },
    clear() {
      stderr.write("\r\x1b[K");
    },
  };
}
