# SPDX-License-Identifier: Apache-2.0
"""LmshmL2Adapter: lmshm-worker as an L2 adapter of the LMCache server (multiprocess mode).

The worker attaches the server's pool by its name and moves each object between that memory and its
store. This process says which object and where; no byte of one passes through Python.

    lmcache server --no-l1-use-lazy --shm-name kv ... --l2-adapter '{"type": "plugin",
      "module_path": "lmshm_lmcache", "class_name": "LmshmL2Adapter",
      "adapter_params": {"root": "/data/kv", "max_bytes": 500000000000}}'

What LMCache calls it with: lmcache/v1/distributed/l2_adapters/base.py of 0.5.6.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch  # noqa: F401  (lmcache_native needs it to be loaded)
from lmcache.lmcache_native import Bitmap
from lmcache.logging import init_logger
from lmcache.v1.distributed.api import (
    KeyEntry,
    KeyListPage,
    MemoryLayoutDesc,
    ObjectKey,
)
from lmcache.v1.distributed.internal_api import L2StoreResult
from lmcache.v1.distributed.l2_adapters.base import (
    AdapterUsage,
    L2AdapterInterface,
    L2TaskId,
)
from lmcache.v1.platform import create_event_notifier

from lmshm_lmcache.arena import Arena, find_arena
from lmshm_lmcache.config import LmshmL2AdapterConfig
from lmshm_lmcache.keys import key_text, parse_key
from lmshm_lmcache.link import Connection, WorkerLink
from lmshm_lmcache.wire import IF_ABSENT, MAX_BATCH_OBJECTS, Answer, decode, encode

if TYPE_CHECKING:
    from lmcache.v1.distributed.internal_api import L1MemoryDesc
    from lmcache.v1.memory_management import MemoryObj

logger = init_logger(__name__)

# Larger objects go in lines of their own, and so to several threads of the worker at a time.
_BATCH_BYTES = 1 << 20
# Of one line, far enough below its limit.
_LINE_BYTES = 48 * 1024
_INFO_S = 1.0
_CALL_S = 30.0


class LmshmL2Adapter(L2AdapterInterface):
    """Thread safe. Nothing blocks but delete(), list_l2_keys() and get_usage(), each within a limit."""

    def __init__(
        self,
        config: LmshmL2AdapterConfig | dict[str, Any],
        l1_memory_desc: L1MemoryDesc | None = None,
    ) -> None:
        """Raises ArenaError, LinkError and ValueError, which say what to change."""
        super().__init__()
        self._config = (
            config
            if isinstance(config, LmshmL2AdapterConfig)
            else LmshmL2AdapterConfig.from_dict(config)
        )
        if l1_memory_desc is None:
            raise ValueError("LMCache has not said where its pool is; this needs LMCache 0.5.6 or newer")
        self._arena: Arena = find_arena(l1_memory_desc.ptr, l1_memory_desc.size)
        # Options of each object of a PUT and a GET.
        checksums = self._config.checksums
        self._put_options = (
            f" io={self._config.io} sync={self._config.sync}{'' if checksums else ' crc=0'}{IF_ABSENT}"
        )
        self._get_options = f" io={self._config.io}{'' if checksums else ' verify=0'}"
        directory = f" dir={encode(self._config.directory)}" if self._config.directory else ""
        self._link = WorkerLink(
            opener=self._opener(),
            hello=f"HELLO 2{directory}",
            attach=f"{encode(self._arena.name)} {self._arena.segment_size} {self._arena.identity}",
            timeout_s=self._config.timeout_s,
            log=logger.warning,
        )
        self._lock = threading.Lock()
        self._next_task: L2TaskId = 0
        self._stores: dict[L2TaskId, L2StoreResult] = {}
        self._lookups: dict[L2TaskId, Bitmap] = {}
        self._loads: dict[L2TaskId, Bitmap] = {}
        self._locked: dict[ObjectKey, int] = {}  # how many lookups hold it
        self._delete_later: set[ObjectKey] = set()  # once nothing holds it
        self._info: dict[str, str] = {}
        self._counts = {"stored": 0, "loaded": 0, "missed": 0, "failed": 0}
        self._last_error = ""
        self._store_event = create_event_notifier()
        self._lookup_event = create_event_notifier()
        self._load_event = create_event_notifier()
        # In a directory, keys are those of LMCache's own file adapters.
        engine = self._read_info().get("engine", "directory")
        self._is_directory = engine not in ("redis", "s3")
        logger.info("%s serves the pool %s as an L2 tier", self._link.worker, self._arena.name)

    def _opener(self) -> Callable[[], Connection]:
        config = self._config
        if config.socket is not None:
            path = config.socket
            return lambda: Connection.connect(path, config.timeout_s)
        command = config.command()
        return lambda: Connection.spawn(command, config.timeout_s)

    # -- event descriptors --

    def get_store_event_fd(self) -> int:
        return self._store_event.fileno()

    def get_lookup_and_lock_event_fd(self) -> int:
        return self._lookup_event.fileno()

    def get_load_event_fd(self) -> int:
        return self._load_event.fileno()

    # -- store --

    def submit_store_task(self, keys: list[ObjectKey], objects: list[MemoryObj]) -> L2TaskId:
        """Objects that are there already are not stored again, and do not count as stored: what a key names
        does not change."""
        task = self._take_task()
        todo: list[tuple[ObjectKey, int, int]] = []
        for key, obj in zip(keys, objects, strict=True):
            place = self._place(obj)
            if place is None:
                self._fail("store", Answer("EFAULT", "an object is not in the server's pool"))
                self._finish_store(task, [], [], success=False)
                return task
            todo.append((key, *place))

        def finish(answers: list[Answer]) -> None:
            new = [(key, size) for (key, _, size), answer in zip(todo, answers, strict=True) if answer.ok]
            success = all(answer.ok or answer.errno == "EEXIST" for answer in answers)
            self._finish_store(task, [key for key, _ in new], [size for _, size in new], success)

        self._transfer("PUT", todo, self._put_options, finish)
        return task

    def _finish_store(
        self, task: L2TaskId, keys: list[ObjectKey], sizes: list[int], success: bool
    ) -> None:
        if keys:
            self._notify_keys_stored(keys, sizes)
        with self._lock:
            self._counts["stored"] += len(keys)
            self._stores[task] = L2StoreResult(success, sum(sizes))
        self._store_event.notify()

    def pop_completed_store_tasks(self) -> dict[L2TaskId, L2StoreResult]:
        with self._lock:
            done, self._stores = self._stores, {}
        return done

    # -- lookup and lock --

    def submit_lookup_and_lock_task(
        self, keys: list[ObjectKey], group_layout_descs: dict[int, MemoryLayoutDesc]
    ) -> L2TaskId:
        """A lock holds off delete(). What the worker removes to keep to its limit is a miss when it is
        loaded."""
        task = self._take_task()
        keys = list(keys)

        def found(present: list[bool] | None) -> None:
            bitmap = Bitmap(len(keys))
            with self._lock:
                for at, there in enumerate(present or []):
                    if there:
                        bitmap.set(at)
                        self._locked[keys[at]] = self._locked.get(keys[at], 0) + 1
                self._lookups[task] = bitmap
            self._lookup_event.notify()

        self._exists(keys, found)
        return task

    def query_lookup_and_lock_result(self, task_id: L2TaskId) -> Bitmap | None:
        with self._lock:
            return self._lookups.pop(task_id, None)

    def submit_unlock(self, keys: list[ObjectKey]) -> None:
        free: list[ObjectKey] = []
        with self._lock:
            for key in keys:
                held = self._locked.get(key, 0) - 1
                if held > 0:
                    self._locked[key] = held
                    continue
                self._locked.pop(key, None)
                if key in self._delete_later:
                    self._delete_later.discard(key)
                    free.append(key)
        if free:
            self._remove(free, lambda: None)

    # -- load --

    def submit_load_task(self, keys: list[ObjectKey], objects: list[MemoryObj]) -> L2TaskId:
        """One that is damaged, or of another size than its place, is a miss, and is removed so that it
        can be stored anew."""
        task = self._take_task()
        places = [self._place(obj) for obj in objects]
        todo = [(key, *place) for key, place in zip(keys, places, strict=True) if place is not None]
        indices = [at for at, place in enumerate(places) if place is not None]
        if len(todo) < len(keys):
            self._fail("load", Answer("EFAULT", "an object is not in the server's pool"))

        def loaded(answers: list[Answer]) -> None:
            bitmap = Bitmap(len(keys))
            good: list[ObjectKey] = []
            useless: list[ObjectKey] = []
            for at, (key, _, size), answer in zip(indices, todo, answers):
                if answer.ok and answer.words[0] == str(size):
                    bitmap.set(at)
                    good.append(key)
                elif answer.ok or answer.errno in ("EMSGSIZE", "EBADMSG"):
                    logger.warning(
                        "%s is not what the server stored (%s, %d bytes expected): removed",
                        key,
                        answer.text or f"{answer.words[0]} bytes",
                        size,
                    )
                    useless.append(key)
            if good:
                self._notify_keys_accessed(good)
            if useless:
                self._remove(useless, lambda: None)
            with self._lock:
                self._counts["loaded"] += len(good)
                self._counts["missed"] += len(keys) - len(good)
                self._loads[task] = bitmap
            self._load_event.notify()

        self._transfer("GET", todo, self._get_options, loaded)
        return task

    def query_load_result(self, task_id: L2TaskId) -> Bitmap | None:
        with self._lock:
            return self._loads.pop(task_id, None)

    # -- delete, list, usage --

    def delete(self, keys: list[ObjectKey]) -> None:
        """Those that a lookup holds are deleted when they are unlocked."""
        with self._lock:
            now = [key for key in keys if key not in self._locked]
            self._delete_later.update(key for key in keys if key in self._locked)
        if not now:
            return
        done = threading.Event()
        self._remove(now, done.set)
        if not done.wait(_CALL_S):
            logger.warning("the worker has not deleted %d objects in %.0f s", len(now), _CALL_S)

    def list_l2_keys(
        self, model_name: str | None = None, page_size: int = 500, cursor: str | None = None
    ) -> KeyListPage:
        if page_size <= 0:
            raise ValueError(f"page_size must be positive, not {page_size}")
        if cursor is not None and not cursor.replace(".", "", 1).isdecimal():
            raise ValueError(f"{cursor!r} is no cursor of this adapter")
        prefix = f" {encode(model_name + '@')}" if model_name else ""
        entries: list[KeyEntry] = []
        at = cursor or "-"
        while len(entries) < page_size:
            limit = min(page_size - len(entries), 1000)
            answer = self._link.call(f"LIST {limit} {at}{prefix if at == '-' else ''}", _CALL_S)
            if answer.errno == "ESTALE":
                raise ValueError(f"the cursor {at!r} is not known any more: list from the beginning")
            if not answer.ok:
                raise RuntimeError(f"the worker cannot list its keys: {answer.text}")
            entries += self._entries(answer.words[1:])
            at = answer.words[0]
            if at == "-":
                return KeyListPage(tuple(entries), None)
        return KeyListPage(tuple(entries), at)

    def _entries(self, words: Sequence[str]) -> list[KeyEntry]:
        keys = [key for key in (parse_key(decode(word)) for word in words) if key is not None]
        done = threading.Event()
        sizes: list[int | None] = []

        def took(found: list[int | None]) -> None:
            sizes.extend(found)
            done.set()

        self._sizes(keys, took)
        if not done.wait(_CALL_S):
            raise RuntimeError(f"the worker has not said the sizes of {len(keys)} objects")
        return [
            KeyEntry(key.to_encoded_object_key(), size)
            for key, size in zip(keys, sizes)
            if size is not None
        ]

    def get_usage(self) -> AdapterUsage:
        """What the worker counts, where it counts (it was given a limit, or told to count): this holds
        across restarts, and knows what the worker removed by itself. Else what LMCache counts. The
        bytes of each salt are LMCache's count in either case."""
        usage = super().get_usage()
        info = self._read_info()
        if info.get("counted") != "1":
            return usage
        return AdapterUsage(
            total_bytes_used=int(info.get("dir_used_bytes", 0)),
            total_capacity_bytes=int(info.get("max_bytes", 0)),
            bytes_by_cache_salt=MappingProxyType(dict(usage.bytes_by_cache_salt)),
        )

    def report_status(self) -> dict[str, Any]:
        status = self._link.status()
        info = self._read_info()
        with self._lock:
            counts = dict(self._counts)
            error = self._last_error
        words = ("fs", "objects", "used_bytes", "max_bytes", "evictions", "errors", "hits", "misses")
        return {
            "is_healthy": bool(status["connected"] and status["answering"]),
            "type": "LmshmL2Adapter",
            "place": self._config.socket or self._config.root or self._config.store,
            "pool": self._arena.name,
            "link": status,
            "objects": counts,
            "last_error": error,
            "worker_info": {word: info[word] for word in words if word in info},
        }

    def close(self) -> None:
        self._link.close()
        self._store_event.close()
        self._lookup_event.close()
        self._load_event.close()

    # -- requests --

    def _take_task(self) -> L2TaskId:
        with self._lock:
            self._next_task += 1
            return self._next_task - 1

    def _place(self, obj: MemoryObj) -> tuple[int, int] | None:
        """Offset in the segment and length in bytes; None: it is not in the pool."""
        size = obj.get_size()
        offset = self._arena.offset(obj.data_ptr, size)
        return None if offset is None else (offset, size)

    def _text(self, key: ObjectKey) -> str:
        return encode(key_text(key, self._is_directory))

    def _fail(self, what: str, answer: Answer) -> None:
        text = f"{what}: {answer.errno} {answer.text}"
        with self._lock:
            self._counts["failed"] += 1
            # Once, not for each object of a worker that is gone.
            new, self._last_error = text != self._last_error, text
        if new:
            logger.warning("%s", text)

    def _transfer(
        self,
        verb: str,
        todo: list[tuple[ObjectKey, int, int]],
        options: str,
        then: Callable[[list[Answer]], None],
    ) -> None:
        """Moves all of them, and calls `then` with one answer for each."""
        if not todo:
            then([])
            return
        answers: list[Answer] = [Answer("EPROTO", "no answer")] * len(todo)
        lots = self._lots(
            [f"{self._text(key)} {offset} {size}{options}" for key, offset, size in todo],
            [size for _, _, size in todo],
        )
        left = len(lots)

        def take(begin: int, count: int, answer: Answer) -> None:
            nonlocal left
            items = answer.items() if answer.ok else [answer] * count
            answers[begin : begin + count] = items
            for item in items:
                if not item.ok and item.errno not in ("ENOENT", "EEXIST"):
                    self._fail(verb.lower(), item)
            with self._lock:
                left -= 1
                last = left == 0
            if last:
                then(answers)

        for begin, words in lots:
            self._link.submit(
                f"{verb} {' ; '.join(words)}",
                partial(take, begin, len(words)),
            )

    @staticmethod
    def _lots(words: list[str], sizes: list[int]) -> list[tuple[int, list[str]]]:
        """Where each line begins, and what is in it."""
        lots: list[tuple[int, list[str]]] = []
        room = line = 0
        for at, (word, size) in enumerate(zip(words, sizes)):
            full = room < size or line + len(word) > _LINE_BYTES
            if not lots or full or len(lots[-1][1]) == MAX_BATCH_OBJECTS:
                lots.append((at, []))
                room, line = _BATCH_BYTES, 0
            lots[-1][1].append(word)
            room -= size
            line += len(word) + 3
        return lots

    def _exists(
        self,
        keys: list[ObjectKey],
        then: Callable[[list[bool] | None], None],
    ) -> None:
        """Calls `then` with one answer a key; None: nothing is known."""
        self._digits("EXISTS", keys, then)

    def _digits(
        self,
        verb: str,
        keys: list[ObjectKey],
        then: Callable[[list[bool] | None], None],
    ) -> None:
        lots = self._lots([self._text(key) for key in keys], [0] * len(keys))
        digits: list[bool] = [False] * len(keys)
        left = len(lots)
        known = True
        if not lots:
            then([])
            return

        def take(begin: int, answer: Answer) -> None:
            nonlocal left, known
            if answer.ok:
                found = [digit == "1" for digit in answer.words[0]]
                digits[begin : begin + len(found)] = found
            else:
                self._fail(verb.lower(), answer)
            with self._lock:
                known = known and answer.ok
                left -= 1
                last = left == 0
            if last:
                then(digits if known else None)

        for begin, words in lots:
            self._link.submit(
                f"{verb} {' '.join(words)}",
                partial(take, begin),
                repeatable=verb != "REMOVE",
            )

    def _sizes(self, keys: list[ObjectKey], then: Callable[[list[int | None]], None]) -> None:
        """The length of each object; None: it is not there."""
        sizes: list[int | None] = [None] * len(keys)
        left = len(keys)
        if not keys:
            then([])
            return

        def take(at: int, answer: Answer) -> None:
            nonlocal left
            if answer.ok:
                sizes[at] = int(answer.words[0])
            with self._lock:
                left -= 1
                last = left == 0
            if last:
                then(sizes)

        for at, key in enumerate(keys):
            self._link.submit(f"STAT {self._text(key)}", partial(take, at))

    def _remove(self, keys: list[ObjectKey], then: Callable[[], None]) -> None:
        """Removes those that are there, and tells LMCache."""

        def sized(sizes: list[int | None]) -> None:
            there = [(key, size) for key, size in zip(keys, sizes) if size is not None]
            self._digits("REMOVE", [key for key, _ in there], lambda removed: told(there, removed))

        def told(there: list[tuple[ObjectKey, int]], removed: list[bool] | None) -> None:
            gone = [pair for pair, yes in zip(there, removed or []) if yes]
            if gone:
                self._notify_keys_deleted([key for key, _ in gone], [size for _, size in gone])
            then()

        self._sizes(keys, sized)

    def _read_info(self) -> dict[str, str]:
        """The last that is known, where the worker does not answer."""
        answer = self._link.call("INFO", _INFO_S)
        with self._lock:
            if answer.ok:
                self._info = answer.named()
            return self._info
