#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Proof on a GPU: builds what it needs, asks the GPU itself whether memory of this library is
# page-locked (from C, Bun and Python, in two processes at once), runs the tests with the GPU present,
# and measures. Self-contained: a CUDA driver, CMake and a compiler are enough, and no network.
# It ends with a table and the line "N passed, N failed, N skipped"; see docs/gpu.md.

set -u -o pipefail

usage() {
  cat <<'END'
Usage: scripts/gpu_check.sh [OPTION]...

  --quick          small sizes, few repetitions, no test suite: about two minutes
  --parts LIST     only these, with commas: c bun pair python suite register copies pipeline
  --build DIR      where to build (default build/gpu-check)
  --out DIR        where logs and results go (default $OUT, else out-check in the build folder)
  --storage DIR    where the pipeline's files go (default the build folder)
  --bun FILE       the Bun to use (default: of node_modules, of PATH, of build/carry)
  --pack           only make build/carry/: a compressed Bun and the packages that the sources need,
                   to be carried to a machine without a network
  --help

Environment: LMSHM_GPU_LIBRARY names a GPU library instead of the search; LMSHM_LIBRARY and
LMSHM_WORKER name a built library and worker, and then neither is built; LMSHM_GPU_CHECK_MIB lists
the sizes to register (default 1024 16384 65536, as far as memory goes).
END
}

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd) || exit 1
cd "$root" || exit 1
carry=build/carry

quick=no parts="c bun pair python suite register copies pipeline" build=build/gpu-check
out=${OUT:-} storage="" bun="" pack=no
while [ $# -gt 0 ]; do
  case $1 in
    --quick) quick=yes ;;
    --parts | --build | --out | --storage | --bun)
      if [ $# -lt 2 ]; then
        echo "gpu_check.sh: $1 needs a value" >&2
        exit 2
      fi
      case $1 in
        --parts) parts=${2//,/ } ;;
        --build) build=$2 ;;
        --out) out=$2 ;;
        --storage) storage=$2 ;;
        --bun) bun=$2 ;;
      esac
      shift
      ;;
    --pack) pack=yes ;;
    --help | -h)
      usage
      exit 0
      ;;
    *)
      echo "gpu_check.sh: no such option: $1; see --help" >&2
      exit 2
      ;;
  esac
  shift
done
for part in $parts; do
  case $part in
    c | bun | pair | python | suite | register | copies | pipeline) ;;
    *)
      echo "gpu_check.sh: no such part: $part; see --help" >&2
      exit 2
      ;;
  esac
done

# ----------------------------------------------------------------------------------- packing

if [ "$pack" = yes ]; then
  mkdir -p "$carry" || exit 1
  xz -T0 -9 -c "$(readlink -f node_modules/.bin/bun)" >"$carry/bun.xz" || exit 1
  tar -C node_modules -czf "$carry/packages.tar.gz" yaml fast-check pure-rand || exit 1
  du -ch "$carry"/* || exit 1
  echo "Carry $carry along, which git ignores; gpu_check.sh unpacks it where it is missing."
  exit 0
fi

# --------------------------------------------------------------------------------- machinery

mkdir -p "$build" || exit 1
build=$(cd "$build" && pwd) || exit 1
out=${out:-$build/out-check}
mkdir -p "$out" || exit 1
out=$(cd "$out" && pwd) || exit 1
storage=${storage:-$build}
passed=0 failed=0 skipped=0
table="$out/table.txt"
: >"$table"

note() { printf '%s\n' "$*" | tee -a "$table"; }

# result NAME STATUS TEXT: 0 passed, 77 skipped, anything else failed.
result() {
  local word
  case $2 in
    0)
      word=ok
      passed=$((passed + 1))
      ;;
    77)
      word=skipped
      skipped=$((skipped + 1))
      ;;
    *)
      word=FAILED
      failed=$((failed + 1))
      ;;
  esac
  note "$(printf '%-34s %-8s %s' "$1" "$word" "$3")"
}

# run_step NAME SECONDS COMMAND...: its output goes into a log, and a failure's is shown.
run_step() {
  local name=$1 seconds=$2 log status
  shift 2
  log="$out/${name// /_}.log"
  timeout -k 10 "$seconds" "$@" >"$log" 2>&1
  status=$?
  if [ $status -ne 0 ] && [ $status -ne 77 ]; then
    echo "--- $name ended with status $status; the end of $log:"
    tail -n 25 "$log"
  fi
  return $status
}

has() { command -v "$1" >/dev/null 2>&1; }
wanted() { [[ " $parts " == *" $1 "* ]]; }
# json FILE EXPRESSION: a value of the last line of a file, r being its object.
json() {
  # shellcheck disable=SC2016
  "$bun" -e 'const text = (await Bun.file(process.argv[1]).text()).trim().split("\n").at(-1);
    console.log(new Function("r", `return ${process.argv[2]}`)(JSON.parse(text)));' "$1" "$2"
}

# --------------------------------------------------------------------------------- the machine

memory_mib=$(awk '/^MemAvailable:/ { print int($2 / 1024) }' /proc/meminfo)
# A container may have less than the machine.
limit=$(cat /sys/fs/cgroup/memory.max 2>/dev/null || echo max)
used=$(cat /sys/fs/cgroup/memory.current 2>/dev/null || echo 0)
if [ "$limit" != max ] && [ $(((limit - used) / 1048576)) -lt "$memory_mib" ]; then
  memory_mib=$(((limit - used) / 1048576))
fi
{
  echo "date      $(date -u +%Y-%m-%dT%H:%M:%SZ)"
  echo "commit    $(git rev-parse --short HEAD 2>/dev/null || echo "not known")"
  echo "kernel    $(uname -srm)"
  echo "cpu       $(nproc) x $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)"
  echo "memory    $memory_mib MiB available; /dev/shm $(df -m --output=avail /dev/shm | tail -n 1 | tr -d ' ') MiB free"
  echo "storage   $storage: $(df -m --output=fstype,avail "$storage" | tail -n 1 | tr -s " ") MiB free"
  if has nvidia-smi; then
    timeout 30 nvidia-smi --query-gpu=index,name,driver_version,memory.total,pcie.link.gen.max,pcie.link.width.max \
      --format=csv,noheader 2>&1 | sed 's/^/gpu       /'
  else
    echo "gpu       no nvidia-smi"
  fi
  echo "library   ${LMSHM_GPU_LIBRARY:-as found}"
} | tee -a "$table"

# ------------------------------------------------------------------------------------- building

cmake_options=(-S . -B "$build" -DCMAKE_BUILD_TYPE=RelWithDebInfo -DLMSHM_TESTS=ON)
[ -n "${LMSHM_WORKER:-}" ] && cmake_options+=(-DLMSHM_WORKER=OFF)
has ninja && [ ! -e "$build/CMakeCache.txt" ] && cmake_options+=(-G Ninja)
targets=(lmshm gpu_probe)
[ -z "${LMSHM_WORKER:-}" ] && targets+=(lmshm-worker)
wanted suite && [ "$quick" = no ] && targets=(all)
if run_step configure 120 cmake "${cmake_options[@]}" &&
  run_step build 540 cmake --build "$build" -j "$(nproc)" --target "${targets[@]}"; then
  result "build" 0 "${targets[*]}"
else
  result "build" 1 "see $out/build.log"
  note "$passed passed, $failed failed, $skipped skipped"
  exit 1
fi
export LMSHM_LIBRARY=${LMSHM_LIBRARY:-$build/out/liblmshm.so}
export LMSHM_WORKER=${LMSHM_WORKER:-$build/out/lmshm-worker}
# The probe finds liblmshm.so where it was linked, below the build folder.
probe() { (cd "$build" && LD_LIBRARY_PATH="$build/out" exec out/gpu_probe "$@"); }
export -f probe
export build

# Bun: what was given, what is installed, or what was carried along.
if [ -z "$bun" ]; then
  if [ -x node_modules/.bin/bun ] && node_modules/.bin/bun --version >/dev/null 2>&1; then
    bun=$root/node_modules/.bin/bun
  elif has bun; then
    bun=$(command -v bun)
  elif [ -e "$carry/bun.xz" ]; then
    { xz -dc "$carry/bun.xz" 2>/dev/null ||
      python3 -c 'import lzma, shutil, sys; shutil.copyfileobj(lzma.open(sys.argv[1]), sys.stdout.buffer)' \
        "$carry/bun.xz"; } >"$build/bun" && chmod +x "$build/bun" && bun=$build/bun
  fi
fi
if [ -n "$bun" ] && ! "$bun" --version >/dev/null 2>&1; then bun=""; fi
if [ -n "$bun" ] && [ ! -d node_modules/yaml ] && [ -e "$carry/packages.tar.gz" ]; then
  mkdir -p node_modules && tar -C node_modules -xzf "$carry/packages.tar.gz"
fi
note "bun       ${bun:-none}"

# ---------------------------------------------------------------------------- is it registered?

gpu=yes
if wanted c; then
  size=512
  [ "$quick" = yes ] && size=64
  run_step pinned-from-C 300 bash -c "probe pinned $size"
  status=$?
  result "pinned, asked from C" $status "$(grep -c '^ok' "$out/pinned-from-C.log") answers as they should be"
  [ $status -eq 77 ] && gpu=no
fi

if wanted bun; then
  if [ -z "$bun" ]; then
    result "pinned, asked from Bun" 77 "there is no Bun"
  else
    run_step pinned-from-Bun 120 "$bun" src/cli/main.ts gpu --size 1MB --repeat 1 --json
    status=$?
    [ $gpu = no ] && [ $status -eq 1 ] && status=77
    # shellcheck disable=SC2016
    result "pinned, asked from Bun" $status "$(json "$out/pinned-from-Bun.log" \
      'r.ok ? `${r.segment.gpuSays}, by ${r.gpu.gpuLibrary}` : r.error ?? r.gpu.reason' 2>/dev/null)"
    [ $status -eq 77 ] && gpu=no
  fi
fi

if wanted pair; then
  if [ -z "$bun" ] || [ $gpu = no ]; then
    result "two processes at once" 77 "there is no Bun, or no GPU"
  else
    seconds=4 bytes=33554432
    [ "$quick" = yes ] && seconds=1 && bytes=8388608
    run_step pair 180 "$bun" tests/gpu/pair.ts $seconds $bytes
    # shellcheck disable=SC2016
    result "two processes at once" $? "$(json "$out/pair.log" \
      '["alone", "together", "other"].map((who) => `${who} ${(r[who].toDeviceMBs / 1000).toFixed(1)}/${(r[who].toHostMBs / 1000).toFixed(1)}`).join(", ") + " GB/s to/from the GPU"' 2>/dev/null)"
  fi
fi

if wanted python; then
  if ! has python3; then
    result "pinned, asked from Python" 77 "there is no python3"
  else
    run_step pinned-from-Python 300 python3 tests/gpu/pinned.py "$LMSHM_LIBRARY" \
      "$([ "$quick" = yes ] && echo 64 || echo 512)"
    result "pinned, asked from Python" $? "$(tail -n 1 "$out/pinned-from-Python.log")"
  fi
fi

# ------------------------------------------------------------------------------------ the tests

counts() { grep -Eo "[0-9]+ $1" "$2" | tail -n 1 | grep -Eo '[0-9]+' || echo 0; }

if wanted suite && [ "$quick" = yes ]; then
  result "test suite" 77 "left out by --quick"
elif wanted suite; then
  run_step suite-native 540 ctest --test-dir "$build" --output-on-failure -j "$(nproc)" --timeout 200
  result "native tests, with the GPU" $? "$(grep -E 'tests passed' "$out/suite-native.log" | tail -n 1)"
  if [ -n "$bun" ]; then
    mapfile -t files < <(find tests -name '*_test.ts' -not -path 'tests/bench/*' | sort)
    run_step suite-bun 540 "$bun" test --timeout 120000 "${files[@]/#/./}"
    result "TypeScript tests, with the GPU" $? \
      "$(counts pass "$out/suite-bun.log") pass, $(counts skip "$out/suite-bun.log") skip, $(counts fail "$out/suite-bun.log") fail"
  else
    result "TypeScript tests, with the GPU" 77 "there is no Bun"
  fi
  if has python3; then
    run_step suite-interop 300 env PYTHONDONTWRITEBYTECODE=1 python3 -m unittest discover -s tests/interop
    result "interop tests, with the GPU" $? "$(tail -n 1 "$out/suite-interop.log")"
  fi
fi

# -------------------------------------------------------------------------------------- measures

if wanted register; then
  sizes=${LMSHM_GPU_CHECK_MIB:-1024 16384 65536}
  repeat=5
  [ "$quick" = yes ] && repeat=3 && sizes=${LMSHM_GPU_CHECK_MIB:-1024}
  printed=no
  for mib in $sizes; do
    # Segment and plain memory are never there at once, but the page tables of both are.
    if [ $((mib + mib / 8)) -gt "$memory_mib" ]; then
      result "register $mib MiB" 77 "$memory_mib MiB are available"
      continue
    fi
    [ "$mib" -ge 16384 ] && repeat=3
    run_step "register-$mib" 540 bash -c "probe register $mib $repeat"
    status=$?
    result "register $mib MiB" $status "$(tail -n 1 "$out/register-$mib.log")"
    [ $status -eq 0 ] && printed=yes
  done
  [ $printed = yes ] &&
    note "   (MiB; seconds to create, to register, to let go, to register plain memory; ratio)"
fi

if wanted copies; then
  if [ -z "$bun" ] || [ $gpu = no ]; then
    result "copies" 77 "there is no Bun, or no GPU"
  else
    options=()
    [ "$quick" = yes ] && options=(--quick)
    run_step copies 540 "$bun" src/cli/main.ts gpu "${options[@]}"
    result "copies" $? "against cudaHostAlloc (pool/alloc) and unpinned memory (pool/unp.)"
    grep -E '^(copy|to-)' "$out/copies.log" | tee -a "$table"
  fi
fi

if wanted pipeline; then
  if [ -z "$bun" ] || [ $gpu = no ]; then
    result "GPU to pool to disk and back" 77 "there is no Bun, or no GPU"
  else
    chunks=64 bytes=33554432 rounds=5
    [ "$quick" = yes ] && chunks=16 && bytes=4194304 && rounds=2
    run_step pipeline 540 "$bun" tests/gpu/pipeline.ts "$storage" $chunks $bytes $rounds
    # shellcheck disable=SC2016
    result "GPU to pool to disk and back" $? "$(json "$out/pipeline.log" \
      '`storing ${r.storing.toFixed(2)}, loading ${r.loading.toFixed(2)} of the slower link`' 2>/dev/null)"
    # shellcheck disable=SC2016
    json "$out/pipeline.log" 'Object.entries(r.ratesMBs).map(([name, rate]) => `   ${name.padEnd(12)} ${Math.round(rate)} MB/s`).join("\n")' 2>/dev/null | tee -a "$table"
  fi
fi

note "$passed passed, $failed failed, $skipped skipped"
[ $failed -eq 0 ]
