# SPDX-License-Identifier: Apache-2.0
"""A pool as the LMCache server makes it, and adapters on it, for the tests of this folder.

LMSHM_WORKER says where lmshm-worker is.
"""

from __future__ import annotations

import os
import select
import shutil
import tempfile
import time
import unittest
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from lmcache.v1.distributed.api import MemoryLayoutDesc, ObjectKey
from lmcache.v1.distributed.config import L1MemoryManagerConfig
from lmcache.v1.distributed.memory_manager.l1_memory_manager import L1MemoryManager
from lmcache.v1.memory_management import MemoryObj
from lmcache.v1.platform.event_notifier import consume_fd

from lmshm_lmcache import LmshmL2Adapter

T = TypeVar("T")
LIMIT_S = 60.0


def key(at: int, salt: str = "", model: str = "meta-llama/Llama-3.1-8B") -> ObjectKey:
    return ObjectKey(
        chunk_hash=at.to_bytes(32, "big"), model_name=model, kv_rank=0x01000100, cache_salt=salt
    )


def until(what: Callable[[], T | None], fd: int | None = None) -> T:
    """Waits until `what` returns something; by the event descriptor, as LMCache's controllers do."""
    deadline = time.monotonic() + LIMIT_S
    while True:
        result = what()
        if result is not None and result is not False:
            return result
        if time.monotonic() > deadline:
            raise AssertionError(f"nothing has happened for {LIMIT_S} s")
        if fd is None:
            time.sleep(0.01)
        elif select.select([fd], [], [], 1)[0]:
            consume_fd(fd)


class Scene(unittest.TestCase):
    """A pool of 64 MiB in a segment of its own, a directory, and adapters that are closed at the end."""

    pool_bytes = 64 << 20

    def setUp(self) -> None:
        self.directory = tempfile.mkdtemp(prefix="lmshm-l2-")
        self.addCleanup(shutil.rmtree, self.directory, ignore_errors=True)
        self.name = f"lmcache_l1_pool_lmshm_test_{os.getpid()}"
        self.manager = L1MemoryManager(
            L1MemoryManagerConfig(self.pool_bytes, False, align_bytes=4096, shm_name=self.name)
        )
        self.addCleanup(self.manager.close)

    def adapter(self, **params: Any) -> LmshmL2Adapter:
        if not {"socket", "root", "store"} & set(params):
            params["root"] = self.directory
        adapter = LmshmL2Adapter(params, l1_memory_desc=self.manager.get_l1_memory_desc())
        self.addCleanup(adapter.close)
        return adapter

    def objects(self, count: int, size: int) -> list[MemoryObj]:
        layout = MemoryLayoutDesc(shapes=[torch.Size([size])], dtypes=[torch.uint8])
        error, objects = self.manager.allocate(layout, count)
        self.assertEqual(len(objects), count, str(error))
        self.addCleanup(self.manager.free, objects)
        return objects

    def filled(self, count: int, size: int, seed: int = 0) -> list[MemoryObj]:
        objects = self.objects(count, size)
        for at, obj in enumerate(objects):
            obj.byte_array.cast("B")[:] = pattern(seed + at, size)
        return objects

    # What LMCache's controllers do, each until it is done.

    def store(self, adapter: LmshmL2Adapter, keys: list[ObjectKey], objects: list[MemoryObj]) -> int:
        """Bytes that were written; -1: it failed."""
        return self.stored(adapter, [adapter.submit_store_task(keys, objects)])[0]

    def stored(self, adapter: LmshmL2Adapter, tasks: list[int]) -> list[int]:
        """The same of each task, once all are done."""
        found: dict[int, int] = {}

        def look() -> bool:
            found.update({at: int(result) for at, result in adapter.pop_completed_store_tasks().items()})
            return all(task in found for task in tasks)

        until(look, adapter.get_store_event_fd())
        return [found[task] for task in tasks]

    def lookup(self, adapter: LmshmL2Adapter, keys: list[ObjectKey]) -> list[bool]:
        task = adapter.submit_lookup_and_lock_task(keys, {})
        bitmap = until(
            lambda: adapter.query_lookup_and_lock_result(task), adapter.get_lookup_and_lock_event_fd()
        )
        return [bitmap.test(at) for at in range(len(keys))]

    def load(
        self, adapter: LmshmL2Adapter, keys: list[ObjectKey], objects: list[MemoryObj]
    ) -> list[bool]:
        task = adapter.submit_load_task(keys, objects)
        bitmap = until(lambda: adapter.query_load_result(task), adapter.get_load_event_fd())
        return [bitmap.test(at) for at in range(len(keys))]


def pattern(seed: int, size: int) -> bytes:
    period = bytes((seed * 31 + at) & 0xFF for at in range(251))
    return (period * (size // len(period) + 1))[:size]
