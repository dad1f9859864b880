// SPDX-License-Identifier: Apache-2.0
//
// The lmshm command as one executable, used as an operator does it: a worker, objects in and out of it,
// a killed program's segment, doctor, metrics and the dashboard. In namespaces with a /dev/shm of their own.

import { existsSync, mkdirSync } from "node:fs";
import { join } from "node:path";
import { dashboardServes } from "./dashboard_check.mjs";
import { pinnedTool } from "./dependencies.mjs";
import { root } from "./system.mjs";
import { TARGETS } from "./targets.mjs";

/** $1 is the command, $2 an empty directory. */
const OPERATOR = `
set -e
lmshm=$1; cd "$2"; store=sub@unix:$2/w.sock
"$lmshm" worker --listen "unix:$2/w.sock" --root "$2" --max-bytes 0 > said &
worker=$!
until grep -q LISTENING said; do kill -0 $worker; sleep 0.1; done
head -c 3000000 /dev/urandom > f
"$lmshm" put "$store" f
"$lmshm" get "$store" f -o - | cmp - f
"$lmshm" cp "$store" copy
"$lmshm" ls copy | grep -qx f
"$lmshm" ls copy | head -1 > /dev/null
"$lmshm" rm "$store" f
"$lmshm" metrics "$store" | grep -qx 'lmshm_up 1'
"$lmshm" doctor --storage-dir copy --worker-address "unix:$2/w.sock" --pool-size 1MiB || [ $? = 3 ]
"$lmshm" verify --worker-address "unix:$2/w.sock" --storage-dir v --size 256MiB > verified &
victim=$!
until "$lmshm" shm ls | grep -q /lmshm-verify-; do kill -0 $victim; done
kill -9 $victim; wait $victim || true
i=0
until "$lmshm" shm gc | grep -q 'removed /lmshm-verify-'; do
  i=$((i + 1)); [ $i -lt 100 ] || exit 98; sleep 0.1
done
${dashboardServes('"$lmshm"')}
"$lmshm" completion bash | bash -n
"$lmshm" man | grep -q '^.TH LMSHM'
kill $worker; wait $worker
echo all is well
`;

/**
 * @param {string} folder for the executable and what it stores
 * @param {(command: string[]) => { ok: boolean, stdout: string, text: string }} tryOut
 * @param {(script: string, ...args: string[]) => string[]} inNamespaces
 * @param {import("./targets.mjs").Platform} platform that this machine runs
 * @returns {string | null} what is wrong
 */
export function checkCommand(folder, tryOut, inNamespaces, platform) {
  const command = join(folder, "lmshm");
  const others = Object.keys(TARGETS).filter((other) => other !== platform);
  const built = tryOut([
    ...[pinnedTool("bun"), "build", "--compile", "--bytecode", "--format=esm"],
    ...["--no-compile-autoload-dotenv", "--no-compile-autoload-bunfig"],
    ...others.map((other) => `--external=@lmshm/${other}/*`),
    ...[join(root, "src", "cli", "executable.ts"), "--outfile", command],
  ]);
  if (!built.ok || !existsSync(command)) return built.text;
  const place = join(folder, "operator");
  mkdirSync(place);
  const { ok, stdout, text } = tryOut(inNamespaces(OPERATOR, command, place));
  return ok && stdout.endsWith("all is well\n") ? null : text.slice(-2000);
}
