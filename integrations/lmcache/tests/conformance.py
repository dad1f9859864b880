# SPDX-License-Identifier: Apache-2.0
"""LMCache's own tests of an L2 adapter, with ours in the place of its MockL2Adapter.

    python conformance.py LMCACHE_SOURCES

LMCACHE_SOURCES is its unpacked source distribution, whose tests/v1/distributed/test_mock_l2_adapter.py
are written against the interface alone. Left out: the two that are about the mock's simulated
bandwidth, and one that wants the bytes of all objects to add up to what is used: the worker counts what
they take of the disk, which its limit is about. Its objects are made in a pool like the server's, because that is what an adapter is given.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from lmcache.v1.distributed.api import MemoryLayoutDesc
from lmcache.v1.distributed.config import L1MemoryManagerConfig
from lmcache.v1.distributed.memory_manager.l1_memory_manager import L1MemoryManager

from lmshm_lmcache import LmshmL2Adapter

LEFT_OUT = "not TestBandwidthSimulation and not test_bytes_by_cache_salt_populated"


class Substitute:
    """Makes a pytest plug-in that changes the module once pytest has loaded it."""

    def __init__(self) -> None:
        self.manager = L1MemoryManager(
            L1MemoryManagerConfig(
                64 << 20,
                False,
                align_bytes=4096,
                shm_name=f"lmcache_l1_pool_lmshm_conformance_{os.getpid()}",
            )
        )
        self.directories: list[str] = []
        self.objects: list[Any] = []

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        for module in {item.module for item in items}:
            module.MockL2Adapter = self.adapter
            module.create_memory_obj = self.object

    def adapter(self, config: Any) -> LmshmL2Adapter:
        directory = tempfile.mkdtemp(prefix="lmshm-l2-")
        self.directories.append(directory)
        limit = int(config.max_size_gb * (1 << 30))
        adapter = LmshmL2Adapter(
            {"root": directory, "max_bytes": limit}, self.manager.get_l1_memory_desc()
        )
        while adapter.report_status()["worker_info"].get("max_bytes") is None:
            pass
        return adapter

    def object(self, size: int = 1024, fill_value: float = 1.0) -> Any:
        _, (obj,) = self.manager.allocate(
            MemoryLayoutDesc(shapes=[torch.Size([size])], dtypes=[torch.float32]), 1
        )
        obj.tensor.fill_(fill_value)
        self.objects.append(obj)
        return obj

    def close(self) -> None:
        self.manager.free(self.objects)
        self.manager.close()
        for directory in self.directories:
            shutil.rmtree(directory, ignore_errors=True)


def main(sources: str) -> int:
    substitute = Substitute()
    tests = Path(sources) / "tests/v1/distributed/test_mock_l2_adapter.py"
    try:
        return int(
            pytest.main(
                # Its pytest.ini shows every line that is logged.
                ["-q", "-o", "log_cli=false", "-p", "no:cacheprovider", "--noconftest"]
                + ["-k", LEFT_OUT, str(tests)],
                plugins=[substitute],
            )
        )
    finally:
        substitute.close()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
