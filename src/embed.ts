// SPDX-License-Identifier: Apache-2.0
//
// "lmshm/embed": a program that has `import "lmshm/embed"` and is bundled carries the library and the
// worker in itself, so that `bun build --compile` makes one file of it. Import it in every entry of
// the program that uses lmshm, also in that of a Worker. Where nothing is bundled it does nothing.
//
// Bun puts a file into the bundle for a literal require() of it. Of the packages with built parts
// only some are installed, and a require() in a try block may fail when the bundle is made: then it
// does when the program runs. Bun knows the target's architecture here, and leaves the other one's
// parts out; it does not say the C library, so parts for both are taken along if they are there.

import { fileURLToPath } from "node:url";
import { expectEmbedded, isExecutable, registerEmbedded } from "./native/embedded.ts";

/** Else Bun would look for the files when the program runs. */
const isBundled = isExecutable || !/\/embed\.[jt]s$/.test(import.meta.url);

/** Relative to the bundle, where it is no executable. */
function add(platform: string, library: string, worker: string): void {
  const [from, run] = [library, worker].map((path) =>
    path.startsWith(".") ? fileURLToPath(new URL(path, import.meta.url)) : path
  );
  registerEmbedded(platform, { library: from!, worker: run! });
}

if (isBundled) expectEmbedded();

// deno-lint-ignore no-process-global -- Bun's bundler puts the target's values here
if (isBundled && process.platform === "linux") {
  // deno-lint-ignore no-process-global
  if (process.arch === "arm64") {
    try {
      add(
        "linux-arm64-gnu",
        require("@lmshm/linux-arm64-gnu/liblmshm.so"),
        require("@lmshm/linux-arm64-gnu/lmshm-worker"),
      );
    } catch {
      // Not installed where the program was built.
    }
    try {
      add(
        "linux-arm64-musl",
        require("@lmshm/linux-arm64-musl/liblmshm.so"),
        require("@lmshm/linux-arm64-musl/lmshm-worker"),
      );
    } catch {
      // Not installed where the program was built.
    }
  } else {
    try {
      add(
        "linux-x64-gnu",
        require("@lmshm/linux-x64-gnu/liblmshm.so"),
        require("@lmshm/linux-x64-gnu/lmshm-worker"),
      );
    } catch {
      // Not installed where the program was built.
    }
    try {
      add(
        "linux-x64-musl",
        require("@lmshm/linux-x64-musl/liblmshm.so"),
        require("@lmshm/linux-x64-musl/lmshm-worker"),
      );
    } catch {
      // Not installed where the program was built.
    }
  }
}
