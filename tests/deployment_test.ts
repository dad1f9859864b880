// SPDX-License-Identifier: Apache-2.0
//
// The recipe of docs/deployment.md, without a container engine: worker and program each in a mount
// namespace of its own, as two containers are, with one tmpfs at /dev/shm in both, or each with its
// own.

import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { mkdirSync, writeFileSync } from "node:fs";
import process from "node:process";
import { test } from "node:test";
import { locateWorker } from "../src/native/locate.ts";
import { fixtureCommand } from "./support/process.ts";
import { TempDir } from "./support/worker.ts";

const NAMESPACE = process.getuid?.() === 0 ? ["-m"] : ["-rm"];
const isPossible = spawnSync("unshare", [...NAMESPACE, "mount", "-t", "tmpfs", "tmpfs", "/mnt"])
  .status === 0;
const skip = isPossible ? false : "no mount namespaces here (unshare -m)";
const timeout = 60_000;

/** $1: the directory; $2: what is bound to /dev/shm for the program; from $3 on: the program. */
const SCRIPT = `
set -eu
dir=$1 shm=$2; shift 2
mount -t tmpfs -o size=64m,mode=1777 tmpfs "$dir/shm"
mount -t tmpfs -o size=64m,mode=1777 tmpfs "$dir/other"
unshare -m sh -c 'mount --bind "$1/shm" /dev/shm; exec "$2" --listen "unix:$1/run/worker.sock" \\
  --root "$1/data" --max-bytes 100000000' sh "$dir" "$WORKER" >"$dir/listening" &
worker=$!
trap 'kill $worker' EXIT
until grep -q LISTENING "$dir/listening"; do kill -0 $worker; sleep 0.05; done
unshare -m sh -c 'mount --bind "$1" /dev/shm; shift; exec "$@"' sh "$dir/$shm" "$@"
`;

interface Ended {
  readonly code: number | null;
  readonly output: string;
}

/** `lmshm verify` in one container, the worker in another. */
async function verify(programShm: "shm" | "other"): Promise<Ended> {
  using dir = new TempDir();
  for (const name of ["shm", "other", "run", "data"]) mkdirSync(dir.file(name));
  writeFileSync(dir.file("listening"), "");
  const [command, args] = fixtureCommand(
    "../../src/cli/main.ts",
    ...["verify", "--worker-address", `unix:${dir.file("run/worker.sock")}`],
    ...["--storage-dir", "verify", "--size", "4MiB", "--chunk-size", "1MiB"],
  );
  const words = [...NAMESPACE, "sh", "-c", SCRIPT, "sh", dir.path, programShm, command, ...args];
  const child = spawn("unshare", words, {
    stdio: ["ignore", "pipe", "pipe"],
    env: { ...process.env, WORKER: locateWorker() },
    timeout: 50_000,
  });
  let output = "";
  child.stdout.on("data", (data) => output += data);
  child.stderr.on("data", (data) => output += data);
  const code = await new Promise<number | null>((resolve, reject) => {
    child.on("error", reject);
    child.on("close", resolve);
  });
  return { code, output };
}

test("two containers with one tmpfs at /dev/shm share the pool", { skip, timeout }, async () => {
  const { code, output } = await verify("shm");
  assert.equal(code, 0, output);
  assert.match(output, /^OK: all 4 chunks .* came back byte for byte$/m);
});

test("two containers with a /dev/shm each are told to share it", { skip, timeout }, async () => {
  const { code, output } = await verify("other");
  assert.equal(code, 1, output);
  assert.match(output, /\/dev\/shm/);
  assert.match(output, /share/);
});
