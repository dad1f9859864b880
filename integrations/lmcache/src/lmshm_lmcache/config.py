# SPDX-License-Identifier: Apache-2.0
"""What `adapter_params` of the plug-in may say, checked."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, fields
from typing import Any

from lmcache.v1.distributed.l2_adapters.config import L2AdapterConfigBase

_IO = ("auto", "direct", "cached")
_SYNC = ("none", "data", "full")


@dataclass
class LmshmL2AdapterConfig(L2AdapterConfigBase):
    """Where the objects are, and who moves them. Exactly one of `socket`, `root` and `store`."""

    socket: str | None = None
    """The Unix socket of a worker that runs already."""
    root: str | None = None
    """A directory: a worker of our own is started on it."""
    store: str | None = None
    """A store's URL, as `lmshm-worker --store` takes it: likewise. Secrets are in the environment."""
    worker: str | None = None
    """The program lmshm-worker; else LMSHM_WORKER, else it is looked for in PATH."""
    directory: str = ""
    """Below the worker's root."""
    max_bytes: int | None = None
    """What all objects below `root` may take of the disk; the worker keeps to it by itself."""
    io: str = "auto"
    sync: str = "none"
    """What is on the disk when a store is reported: none, data or full."""
    checksums: bool = True
    """Stored with each object, and compared when it is loaded."""
    io_threads: int | None = None
    timeout_s: float = 30.0
    """How long one request may take."""

    @classmethod
    def from_dict(cls, d: dict[str, Any]) -> LmshmL2AdapterConfig:
        """Raises ValueError, which names what is wrong and what would be right."""
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(d) - known)
        if unknown:
            raise ValueError(f"unknown adapter_params {unknown}; there are {sorted(known)}")
        config = cls(**d)
        config._check()
        return config

    def _check(self) -> None:
        places = [name for name in ("socket", "root", "store") if getattr(self, name)]
        if len(places) != 1:
            raise ValueError(
                f'adapter_params need one of "socket", "root" and "store", not {places or "none"}'
            )
        for name in ("socket", "root", "store", "worker", "directory", "io", "sync"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                raise ValueError(f"{name} must be a string, not {value!r}")
        for name, choices in (("io", _IO), ("sync", _SYNC)):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {choices}, not {getattr(self, name)!r}")
        for name, least in (("max_bytes", 0), ("io_threads", 1)):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < least):
                raise ValueError(f"{name} must be a whole number from {least} on, not {value!r}")
        if not isinstance(self.checksums, bool):
            raise ValueError(f"checksums must be true or false, not {self.checksums!r}")
        if type(self.timeout_s) not in (int, float) or not 0.1 <= self.timeout_s <= 3600:
            raise ValueError(f"timeout_s must be from 0.1 to 3600 seconds, not {self.timeout_s!r}")
        if self.socket:
            spawned = [name for name in ("worker", "max_bytes", "io_threads") if getattr(self, name)]
            if spawned:
                raise ValueError(
                    f"{spawned} are for a worker that is started here; that of {self.socket} runs already"
                )

    def command(self) -> list[str]:
        """What starts a worker of our own, on a directory that is made if it is missing.

        Raises ValueError: there is no program; OSError: the directory cannot be made.
        """
        program = self.worker or os.environ.get("LMSHM_WORKER") or shutil.which("lmshm-worker")
        if not program:
            raise ValueError(
                'lmshm-worker is not in PATH: say where it is with "worker" in adapter_params, or with'
                " LMSHM_WORKER"
            )
        if self.root:
            os.makedirs(self.root, mode=0o700, exist_ok=True)
        command = [program]
        command += ["--root", self.root] if self.root else ["--store", self.store or ""]
        if self.max_bytes is not None:
            command += ["--max-bytes", str(self.max_bytes)]
        if self.io_threads is not None:
            command += ["--io-threads", str(self.io_threads)]
        return command

    @classmethod
    def help(cls) -> str:
        return (
            "lmshm-worker as an L2 tier, adapter_params:\n"
            "- socket (str): Unix socket of a worker that runs already\n"
            "- root (str): or a directory, for a worker that is started here\n"
            "- store (str): or a store's URL, likewise\n"
            "- worker (str): the program lmshm-worker (default: LMSHM_WORKER, then PATH)\n"
            "- directory (str): below the worker's root (default: the root itself)\n"
            "- max_bytes (int): limit of the disk that the worker keeps to\n"
            "- io (str): auto, direct or cached (default auto)\n"
            "- sync (str): none, data or full (default none)\n"
            "- checksums (bool): store and compare them (default true)\n"
            "- io_threads (int): of the worker (default: its own)\n"
            "- timeout_s (float): of one request (default 30)"
        )
