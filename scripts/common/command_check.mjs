// SPDX-License-Identifier: Apache-2.0
//
// The lmshm command as one executable, used as an operator does it: a worker, objects in and out of it,
// a killed program's segment, doctor, metrics and the dashboard; what must hold for every command (the
// table of tests/cli_operator_test.ts); and all of it once more on a root that has nothing but the file.
// In namespaces with a /dev/shm of their own.

import { existsSync, mkdirSync } from "node:fs";
import { join } from "node:path";
import { dashboardServes } from "./dashboard_check.mjs";
import { pinnedTool } from "./dependencies.mjs";
import { capture, root } from "./system.mjs";
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
 * $1 is a mount point, $2 the command, the rest are the files that the loader needs. Everything is
 * asked of the command by chroot: there is no shell in there, and no /var/tmp.
 */
const BARE = `
set -e
root=$1 command=$2; shift 2
mount -t tmpfs tmpfs "$root"; mkdir -p "$root/proc" "$root/dev/shm" "$root/tmp" "$root/data"
cp "$command" "$root/lmshm"
for file; do mkdir -p "$root$(dirname "$file")"; cp -L "$file" "$root$file"; done
mount -t proc proc "$root/proc"; mount -t tmpfs tmpfs "$root/dev/shm"
lmshm() { chroot "$root" /lmshm "$@"; }
chroot "$root" /lmshm worker --listen unix:/w.sock --root /data > "$root/said" &
worker=$!
until grep -q LISTENING "$root/said"; do sleep 0.1; done
head -c 3000000 /dev/urandom > "$root/f"
lmshm put sub@unix:/w.sock /f
lmshm get sub@unix:/w.sock f -o - | cmp - "$root/f"
lmshm cp sub@unix:/w.sock /copy
lmshm ls -l /copy | grep -q f
lmshm metrics unix:/w.sock | grep -qx 'lmshm_up 1'
lmshm shm ls
lmshm doctor --storage-dir /copy --worker-address unix:/w.sock --pool-size 1MiB || [ $? = 3 ]
lmshm verify --size 16MiB
lmshm bench --quick --chunk-size 1MiB --svg /bench.svg
lmshm man > /dev/null
kill $worker; wait $worker
(cd "$root" && find . -path ./proc -prune -o -name 'lmshm-*' -print) > "$root/left"
if [ -s "$root/left" ]; then cat "$root/left"; exit 97; fi
echo all is well
`;

/**
 * What a program needs of the C library, by its loader.
 * @param {string} program
 */
function loaded(program) {
  return [...(capture("ldd", [program]) ?? "").matchAll(/(?:=> )?(\/\S+)/g)].map(([, path]) =>
    path
  );
}

/**
 * @param {string} folder for the executable and what it stores
 * @param {(command: string[], options?: { env?: Record<string, string> }) =>
 *   { ok: boolean, stdout: string, text: string }} tryOut
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
  if (!ok || !stdout.endsWith("all is well\n")) return text.slice(-2000);
  const table = tryOut(
    inNamespaces('cd "$1" && exec "$2" test tests/cli_operator_test.ts', root, pinnedTool("bun")),
    { env: { LMSHM_TEST_COMMAND: command } },
  );
  if (!table.ok) return table.text.slice(-4000);
  const top = join(folder, "bare");
  mkdirSync(top);
  const bare = tryOut(inNamespaces(BARE, top, command, ...loaded(command)));
  return bare.ok && bare.stdout.endsWith("all is well\n") ? null : bare.text.slice(-2000);
}
