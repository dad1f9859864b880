# SPDX-License-Identifier: Apache-2.0
"""LmshmL2Adapter beside LMCache's own file adapters, in one run on one disk, in turns.

    python compare.py DIRECTORY [--sizes 1,8,33.5] [--rounds 5] [--total 400] [--json FILE]
    python compare.py --redis PORT [...]

DIRECTORY is on the disk to be measured; PORT is that of an empty Redis or Valkey server on loopback, whose
clients are then LMCache's own adapter for it and ours. For each size (MB) and round, each adapter in turn stores
`--total` MB in tasks of one object, 4 in flight, as LMCache's controllers do, then loads them from the
page cache, then again after the files were dropped from it. Bytes are compared after each load. CPU is
that of this process (where the server would be), and of the worker. Medians over the rounds, and of the
ratio to the best of the others in the same round.

LMSHM_WORKER says where lmshm-worker is.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import shutil
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
from lmcache.v1.distributed.api import MemoryLayoutDesc, ObjectKey
from lmcache.v1.distributed.config import L1MemoryManagerConfig
from lmcache.v1.distributed.l2_adapters import create_l2_adapter
from lmcache.v1.distributed.l2_adapters.config import get_l2_adapter_config_class
from lmcache.v1.distributed.memory_manager.l1_memory_manager import L1MemoryManager
from lmcache.v1.platform.event_notifier import consume_fd

IN_FLIGHT = 4
FILES = ("lmshm", "fs", "fs_native")
REDIS = ("lmshm", "resp")
_CPUCLOCK_SCHED = 2  # of another process: clock_getcpuclockid(3), which Python does not have


def make(name: str, directory: str, manager: L1MemoryManager, redis: int | None) -> Any:
    spec: dict[str, Any] = {"type": name, "base_path": directory}
    place = {"root": directory} if redis is None else {"store": f"redis://127.0.0.1:{redis}"}
    if name == "resp":
        spec = {"type": name, "host": "127.0.0.1", "port": redis}
    elif name == "lmshm":
        spec = {
            "type": "plugin",
            "module_path": "lmshm_lmcache",
            "class_name": "LmshmL2Adapter",
            "adapter_params": place,
        }
    config = get_l2_adapter_config_class(spec["type"]).from_dict(spec)
    return create_l2_adapter(config, l1_memory_desc=manager.get_l1_memory_desc())


def worker_clock(adapter: Any) -> int | None:
    """The clock of CPU seconds of the adapter's own worker; None: it has none."""
    pid = adapter.report_status().get("link", {}).get("worker_pid")
    return None if pid is None else (~pid << 3) | _CPUCLOCK_SCHED


def in_turns(count: int, submit: Callable[[int], int], done: Callable[[int], bool], fd: int) -> None:
    """Keeps IN_FLIGHT tasks under way until `count` are done."""
    tasks: dict[int, int] = {}
    begun = 0
    while begun < count or tasks:
        while begun < count and len(tasks) < IN_FLIGHT:
            tasks[submit(begun)] = begun
            begun += 1
        finished = [task for task in tasks if done(task)]
        for task in finished:
            del tasks[task]
        if not finished and tasks:
            if not select.select([fd], [], [], 60)[0]:
                raise SystemExit("an adapter has not finished anything for a minute")
            consume_fd(fd)


class Run:
    def __init__(self, name: str, directory: str, manager: L1MemoryManager, redis: int | None) -> None:
        self.directory = directory
        self.adapter = make(name, directory, manager, redis)
        self.stored: dict[int, int] = {}

    def store(self, keys: list[ObjectKey], objects: list[Any]) -> None:
        def done(task: int) -> bool:
            self.stored.update(
                {at: int(result) for at, result in self.adapter.pop_completed_store_tasks().items()}
            )
            if task in self.stored and self.stored[task] < 0:
                raise SystemExit(f"{self.directory}: a store failed")
            return task in self.stored

        in_turns(
            len(keys),
            lambda at: self.adapter.submit_store_task([keys[at]], [objects[at]]),
            done,
            self.adapter.get_store_event_fd(),
        )

    def load(self, keys: list[ObjectKey], objects: list[Any]) -> None:
        def done(task: int) -> bool:
            bitmap = self.adapter.query_load_result(task)
            if bitmap is not None and not bitmap.test(0):
                raise SystemExit(f"{self.directory}: an object was not loaded")
            return bitmap is not None

        in_turns(
            len(keys),
            lambda at: self.adapter.submit_load_task([keys[at]], [objects[at]]),
            done,
            self.adapter.get_load_event_fd(),
        )

    def measured(self, what: Callable[[], None]) -> tuple[float, float, float]:
        """Seconds, and seconds of CPU of this process and of the worker."""
        worker = worker_clock(self.adapter)  # asks the worker, so before the time begins

        def now() -> tuple[float, float, float]:
            at = time.perf_counter(), time.process_time()
            return *at, 0.0 if worker is None else time.clock_gettime(worker)

        begin = now()
        what()
        end = now()
        return end[0] - begin[0], end[1] - begin[1], end[2] - begin[2]

    def drop_cache(self) -> None:
        for entry in os.scandir(self.directory):
            if entry.is_file():
                fd = os.open(entry.path, os.O_RDONLY)
                os.fsync(fd)
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
                os.close(fd)

    def empty(self) -> None:
        for entry in os.scandir(self.directory):
            if entry.is_file():
                os.unlink(entry.path)


def main() -> None:
    parser = argparse.ArgumentParser(description="LmshmL2Adapter beside LMCache's file adapters")
    parser.add_argument("directory", nargs="?", default=tempfile.gettempdir())
    parser.add_argument("--redis", type=int, metavar="PORT")
    parser.add_argument("--sizes", default="1,8,33.5")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--total", type=float, default=400)
    parser.add_argument("--json")
    options = parser.parse_args()

    base = tempfile.mkdtemp(prefix="lmshm-l2-bench-", dir=options.directory)
    total = int(options.total * 1e6)
    manager = L1MemoryManager(
        L1MemoryManagerConfig(
            2 * total + (64 << 20),
            False,
            align_bytes=4096,
            shm_name=f"lmcache_l1_pool_lmshm_bench_{os.getpid()}",
        )
    )
    rows: list[dict[str, Any]] = []
    try:
        for megabytes in options.sizes.split(","):
            size = int(float(megabytes) * 1e6) // 4096 * 4096
            rows += measure(base, manager, size, total, options.rounds, options.redis)
    finally:
        manager.close()
        shutil.rmtree(base, ignore_errors=True)
    if options.json:
        with open(options.json, "w") as file:
            json.dump(rows, file, indent=1)


def measure(
    base: str, manager: L1MemoryManager, size: int, total: int, rounds: int, redis: int | None
) -> list[dict[str, Any]]:
    count = max(IN_FLIGHT, total // size)
    layout = MemoryLayoutDesc(shapes=[torch.Size([size])], dtypes=[torch.uint8])
    _, sources = manager.allocate(layout, count)
    _, targets = manager.allocate(layout, count)
    for at, obj in enumerate(sources):
        obj.tensor.copy_(
            torch.randint(
                0, 256, (size,), dtype=torch.uint8, generator=torch.Generator().manual_seed(at)
            )
        )
    runs = {}
    names = FILES if redis is None else REDIS
    kinds = ("load cached", "load cold") if redis is None else ("load",)
    for name in names:
        directory = os.path.join(base, f"{name}-{size}")
        os.mkdir(directory)
        runs[name] = Run(name, directory, manager, redis)
    samples: dict[tuple[str, str], list[tuple[float, float, float]]] = {}
    for at in range(rounds + 1):
        order = names[at % len(names) :] + names[: at % len(names)]
        for name in order:
            run = runs[name]
            keys = [
                ObjectKey((at * count + i).to_bytes(32, "big"), "meta-llama/Llama-3.1-8B", 0x01000100)
                for i in range(count)
            ]
            steps = {"store": run.measured(lambda: run.store(keys, sources))}
            for kind in kinds:
                if kind == "load cold":
                    run.drop_cache()
                for obj in targets:
                    obj.tensor[:4096].zero_()
                steps[kind] = run.measured(lambda: run.load(keys, targets))
                for source, target in zip(sources, targets):
                    if not torch.equal(source.tensor, target.tensor):
                        raise SystemExit(f"{name}: wrong bytes after {kind}")
            run.empty()
            if redis is None:
                os.sync()
            else:
                flush(redis)
            if at > 0:  # the first round warms up
                for kind, sample in steps.items():
                    samples.setdefault((kind, name), []).append(sample)
        print(f"{size / 1e6:.1f} MB: round {at} of {rounds}", file=sys.stderr)
    for run in runs.values():
        run.adapter.close()
    manager.free(sources)
    manager.free(targets)
    return report(samples, size, count)


def flush(redis: int) -> None:
    with socket.create_connection(("127.0.0.1", redis), 10) as server:
        server.sendall(b"FLUSHALL\r\n")
        if server.recv(100) != b"+OK\r\n":
            raise SystemExit(f"the server at port {redis} cannot be emptied")


def report(
    samples: dict[tuple[str, str], list[tuple[float, float, float]]], size: int, count: int
) -> list[dict[str, Any]]:
    gigabytes = size * count / 1e9
    rows = []
    names = list(dict.fromkeys(name for _, name in samples))
    for kind in dict.fromkeys(kind for kind, _ in samples):
        for name in names:
            mine = samples[kind, name]
            others = [samples[kind, other] for other in names if other != name]
            ratios = [min(other[at][0] for other in others) / mine[at][0] for at in range(len(mine))]
            row = {
                "bytes": size,
                "what": kind,
                "adapter": name,
                "GB/s": statistics.median(gigabytes / sample[0] for sample in mine),
                "of the best other": statistics.median(ratios),
                "spread": [min(ratios), max(ratios)],
                "server CPU s/GB": statistics.median(sample[1] / gigabytes for sample in mine),
                "worker CPU s/GB": statistics.median(sample[2] / gigabytes for sample in mine),
            }
            rows.append(row)
            print(
                f"{size / 1e6:5.1f} MB  {kind:12} {name:10} {row['GB/s']:6.2f} GB/s"
                f"  {row['of the best other']:5.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
                f"  CPU server {row['server CPU s/GB']:.3f} worker {row['worker CPU s/GB']:.3f} s/GB",
                flush=True,
            )
    return rows


if __name__ == "__main__":
    main()
