# SPDX-License-Identifier: Apache-2.0
"""LmshmL2Adapter with LMCache's own classes around it, on a real worker."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import threading
import unittest

from lmcache.v1.distributed.l2_adapters import create_l2_adapter
from lmcache.v1.distributed.l2_adapters.fs_l2_adapter import (
    FSL2Adapter,
    FSL2AdapterConfig,
)
from lmcache.v1.distributed.l2_adapters.plugin_l2_adapter import PluginL2AdapterConfig
from lmcache.v1.distributed.l2_adapters.resp_l2_adapter import RESPL2AdapterConfig
from scene import Scene, key, pattern, until

from lmshm_lmcache import LmshmL2Adapter, LmshmL2AdapterConfig
from lmshm_lmcache.arena import ArenaError, find_arena


class Recorder:
    def __init__(self) -> None:
        self.stored: list[tuple[object, int]] = []
        self.accessed: list[object] = []
        self.deleted: list[object] = []

    def on_l2_keys_stored(self, keys, sizes):  # type: ignore[no-untyped-def]
        self.stored.extend(zip(keys, sizes, strict=True))

    def on_l2_keys_accessed(self, keys):  # type: ignore[no-untyped-def]
        self.accessed.extend(keys)

    def on_l2_keys_deleted(self, keys):  # type: ignore[no-untyped-def]
        self.deleted.extend(keys)


class Objects(Scene):
    def test_what_is_stored_is_found_and_loaded_byte_for_byte(self) -> None:
        adapter = self.adapter()
        for size in (1, 4096, 70_001, 1 << 20, 5_000_000):
            keys = [key(size * 10 + at) for at in range(3)]
            self.assertEqual(self.store(adapter, keys, self.filled(3, size)), 3 * size)
            self.assertEqual(self.lookup(adapter, [*keys, key(9)]), [True, True, True, False])
            places = self.filled(3, size, seed=100)
            self.assertEqual(self.load(adapter, keys, places), [True] * 3)
            for at, obj in enumerate(places):
                self.assertEqual(bytes(obj.byte_array), pattern(at, size))

    def test_many_small_objects_go_in_one_task(self) -> None:
        adapter = self.adapter()
        keys = [key(at) for at in range(3000)]
        self.assertEqual(self.store(adapter, keys, self.filled(3000, 300)), 900_000)
        self.assertEqual(self.lookup(adapter, keys), [True] * 3000)
        places = self.objects(3000, 300)
        self.assertEqual(self.load(adapter, keys, places), [True] * 3000)
        for at, obj in enumerate(places):
            self.assertEqual(bytes(obj.byte_array), pattern(at, 300))

    def test_a_task_of_nothing_is_completed(self) -> None:
        adapter = self.adapter()
        self.assertEqual(self.store(adapter, [], []), 0)
        self.assertEqual(self.lookup(adapter, []), [])
        self.assertEqual(self.load(adapter, [], []), [])

    def test_what_is_there_is_not_stored_again(self) -> None:
        adapter = self.adapter()
        self.store(adapter, [key(1)], self.filled(1, 5000))
        self.assertEqual(self.store(adapter, [key(1), key(2)], self.filled(2, 5000)), 5000)

    def test_listeners_hear_of_stores_loads_and_deletes(self) -> None:
        adapter = self.adapter()
        recorder = Recorder()
        adapter.register_listener(recorder)  # type: ignore[arg-type]
        keys = [key(1, "alice"), key(2, "bob")]
        self.store(adapter, keys, self.filled(2, 6000))
        self.assertEqual(sorted(recorder.stored, key=str), sorted([(k, 6000) for k in keys], key=str))
        self.assertEqual(dict(adapter.get_usage().bytes_by_cache_salt), {"alice": 6000, "bob": 6000})
        self.load(adapter, [*keys, key(3)], self.objects(3, 6000))
        self.assertEqual(recorder.accessed, keys)
        adapter.delete([keys[0], key(3)])
        self.assertEqual(recorder.deleted, [keys[0]])
        self.assertEqual(dict(adapter.get_usage().bytes_by_cache_salt), {"bob": 6000})
        self.assertEqual(self.lookup(adapter, keys), [False, True])

    def test_what_is_locked_is_deleted_once_it_is_unlocked(self) -> None:
        adapter = self.adapter()
        self.store(adapter, [key(1)], self.filled(1, 4096))
        self.assertEqual(self.lookup(adapter, [key(1)]), [True])
        self.assertEqual(self.lookup(adapter, [key(1)]), [True])
        adapter.delete([key(1)])
        self.assertEqual(self.load(adapter, [key(1)], self.objects(1, 4096)), [True])
        adapter.submit_unlock([key(1)])
        self.assertEqual(self.load(adapter, [key(1)], self.objects(1, 4096)), [True])
        adapter.submit_unlock([key(1)])
        until(lambda: not os.listdir(self.directory))

    def test_all_keys_are_listed_by_model_and_in_pages(self) -> None:
        adapter = self.adapter()
        ours = [key(at) for at in range(25)]
        others = [key(at, model="qwen") for at in range(5)]
        self.store(adapter, [*ours, *others], self.filled(30, 2000))
        self.assertEqual(len(adapter.list_l2_keys().entries), 30)
        found = []
        cursor = None
        while True:
            page = adapter.list_l2_keys("meta-llama/Llama-3.1-8B", page_size=7, cursor=cursor)
            self.assertLessEqual(len(page.entries), 7)
            found += page.entries
            cursor = page.next_page_token
            if cursor is None:
                break
        self.assertEqual(
            {entry.key.chunk_hash_hex for entry in found}, {k.chunk_hash.hex() for k in ours}
        )
        self.assertEqual({entry.size_bytes for entry in found}, {2000})
        for bad in ("nonsense", "77.3"):
            with self.assertRaises(ValueError):
                adapter.list_l2_keys(cursor=bad)
        with self.assertRaises(ValueError):
            adapter.list_l2_keys(page_size=0)


class Directories(Scene):
    def test_lmcaches_file_adapter_reads_ours_and_we_read_its(self) -> None:
        adapter = self.adapter()
        theirs = FSL2Adapter(FSL2AdapterConfig(self.directory))
        self.addCleanup(theirs.close)
        keys = [key(1), key(2, "salt")]
        self.store(adapter, keys[:1], self.filled(1, 9000, seed=1))
        self.assertEqual(self.store(theirs, keys[1:], self.filled(1, 9000, seed=2)), 9000)  # type: ignore[arg-type]
        for reader in (adapter, theirs):
            self.assertEqual(self.lookup(reader, keys), [True, True])  # type: ignore[arg-type]
            places = self.objects(2, 9000)
            self.assertEqual(self.load(reader, keys, places), [True, True])  # type: ignore[arg-type]
            self.assertEqual(
                [bytes(obj.byte_array) for obj in places], [pattern(1, 9000), pattern(2, 9000)]
            )

    def test_a_changed_byte_is_a_miss_and_not_wrong_data(self) -> None:
        adapter = self.adapter()
        self.store(adapter, [key(1)], self.filled(1, 100_000))
        (name,) = os.listdir(self.directory)
        with open(os.path.join(self.directory, name), "r+b") as file:
            file.seek(50_000)
            byte = file.read(1)
            file.seek(50_000)
            file.write(bytes([byte[0] ^ 1]))
        self.assertEqual(self.load(adapter, [key(1)], self.objects(1, 100_000)), [False])
        until(lambda: not os.listdir(self.directory))
        self.assertEqual(self.store(adapter, [key(1)], self.filled(1, 100_000)), 100_000)

    def test_an_object_of_another_size_is_a_miss(self) -> None:
        adapter = self.adapter()
        for stored, wanted in ((8000, 4000), (4000, 8000)):
            self.assertEqual(self.store(adapter, [key(1)], self.filled(1, stored)), stored)
            self.assertEqual(self.load(adapter, [key(1)], self.objects(1, wanted)), [False])
            until(lambda: not os.listdir(self.directory))

    def test_the_limit_holds_by_itself_and_survives_a_restart(self) -> None:
        limit = 20_000_000
        first = LmshmL2Adapter(
            {"root": self.directory, "max_bytes": limit}, self.manager.get_l1_memory_desc()
        )
        try:
            objects = self.filled(1, 1 << 20)
            for at in range(40):
                self.assertGreater(self.store(first, [key(at)], objects), 0)
        finally:
            first.close()
        sizes = [
            os.stat(os.path.join(self.directory, name)).st_blocks * 512
            for name in os.listdir(self.directory)
        ]
        self.assertLessEqual(sum(sizes), limit)
        second = self.adapter(max_bytes=limit)
        until(lambda: second.get_usage().total_capacity_bytes == limit)
        usage = second.get_usage()
        self.assertGreater(usage.total_bytes_used, limit // 2)
        self.assertLessEqual(usage.total_bytes_used, limit)
        self.assertEqual(self.lookup(second, [key(0), key(39)]), [False, True])


@unittest.skipUnless(shutil.which("redis-server"), "redis-server is not installed")
class Engines(Scene):
    def redis(self) -> tuple[str, int]:
        """A server's Unix socket and port, until the end of the test."""
        path = os.path.join(self.directory, "redis.sock")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        server = subprocess.Popen(
            ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--unixsocket", path]
            + ["--save", "", "--dir", self.directory],
            stdout=subprocess.DEVNULL,
        )
        self.addCleanup(server.wait)
        self.addCleanup(server.terminate)
        until(lambda: os.path.exists(path))
        return path, port

    def test_a_redis_server_keeps_the_objects(self) -> None:
        path, _ = self.redis()
        for layout in ("lmshm", "payload"):
            with self.subTest(layout):
                url = f"redis+unix://{path}?layout={layout}&prefix={layout}:"
                adapter = self.adapter(store=url)
                keys = [key(at, "salt") for at in range(3)]
                self.assertEqual(self.store(adapter, keys, self.filled(3, 70_000)), 210_000)
                self.assertEqual(self.lookup(adapter, [*keys, key(9)]), [True] * 3 + [False])
                recorder = Recorder()
                adapter.register_listener(recorder)  # type: ignore[arg-type]
                again = [keys[0], key(8, "salt")]
                self.assertEqual(self.store(adapter, again, self.filled(2, 70_000)), 70_000)
                self.assertEqual(recorder.stored, [(again[1], 70_000)])
                adapter.delete(again[1:])
                places = self.objects(3, 70_000)
                self.assertEqual(self.load(adapter, keys, places), [True] * 3)
                for at, obj in enumerate(places):
                    self.assertEqual(bytes(obj.byte_array), pattern(at, 70_000))
                self.assertEqual(len(adapter.list_l2_keys().entries), 3)
                adapter.delete(keys[:1])
                adapter.submit_unlock(keys)
                until(lambda adapter=adapter: len(adapter.list_l2_keys().entries) == 2)

    def test_of_many_tasks_at_the_same_time_every_new_object_is_told_to_listeners(self) -> None:
        path, _ = self.redis()
        adapter = self.adapter(store=f"redis+unix://{path}")
        recorder = Recorder()
        adapter.register_listener(recorder)  # type: ignore[arg-type]
        objects = self.filled(100, 3000)
        keys = [key(at) for at in range(1300)]
        # More than the worker has under way at a time, of one object, of few, and of many.
        lots = [keys[at : at + 1] for at in range(300)]
        lots += [keys[at : at + 4] for at in range(300, 1100, 4)]
        lots += [keys[1100:1200], keys[1200:]]
        tasks = [adapter.submit_store_task(lot, objects[: len(lot)]) for lot in lots]
        self.assertEqual(self.stored(adapter, tasks), [3000 * len(lot) for lot in lots])
        self.assertEqual(sorted(recorder.stored, key=str), sorted([(k, 3000) for k in keys], key=str))

    def test_every_new_object_is_told_while_connections_break(self) -> None:
        path, port = self.redis()
        objects = self.filled(4, 90_000)
        keys = [key(at) for at in range(200)]
        for layout in ("lmshm", "payload", "lmcache-redis"):
            with self.subTest(layout), socket.create_connection(("127.0.0.1", port)) as killer:
                adapter = self.adapter(store=f"redis+unix://{path}?layout={layout}&prefix={layout}:")
                recorder = Recorder()
                adapter.register_listener(recorder)  # type: ignore[arg-type]
                for at in range(0, 200, 4):
                    tasks = [adapter.submit_store_task([keys[at + i]], [objects[i]]) for i in range(4)]
                    killer.sendall(b"CLIENT KILL TYPE normal SKIPME yes\r\n")
                    self.assertEqual(self.stored(adapter, tasks), [90_000] * 4)
                    self.assertTrue(killer.recv(100).startswith(b":"))
                expected = [(k, 90_000) for k in keys]
                self.assertEqual(sorted(recorder.stored, key=str), sorted(expected, key=str))

    def test_lmcaches_adapter_for_redis_reads_ours_and_we_read_its(self) -> None:
        path, port = self.redis()
        ours = self.adapter(store=f"redis+unix://{path}?layout=payload")
        config = RESPL2AdapterConfig.from_dict({"host": "127.0.0.1", "port": port})
        theirs = create_l2_adapter(config)
        self.addCleanup(theirs.close)
        keys = [key(at, salt) for at, salt in enumerate(("", "tenant", "", "tenant"))]
        self.assertEqual(self.store(ours, keys[:2], self.filled(2, 33_000)), 66_000)
        self.assertEqual(self.store(theirs, keys[2:], self.filled(2, 33_000, seed=2)), 66_000)  # type: ignore[arg-type]
        for reader in (ours, theirs):
            self.assertEqual(self.lookup(reader, [*keys, key(99)]), [True] * 4 + [False])  # type: ignore[arg-type]
            places = self.objects(4, 33_000)
            self.assertEqual(self.load(reader, keys, places), [True] * 4)  # type: ignore[arg-type]
            for at, obj in enumerate(places):
                self.assertEqual(bytes(obj.byte_array), pattern(at, 33_000))


class Failures(Scene):
    def test_a_worker_that_is_killed_is_replaced_and_nothing_is_lost(self) -> None:
        adapter = self.adapter()
        recorder = Recorder()
        adapter.register_listener(recorder)  # type: ignore[arg-type]
        size = 1 << 20
        objects = self.filled(8, size)
        stored = 0
        for at in range(12):
            if at % 3 == 1:
                pid = adapter.report_status()["link"]["worker_pid"]
                threading.Timer(0.002, os.kill, (pid, signal.SIGKILL)).start()
            if self.store(adapter, [key(at * 8 + i) for i in range(8)], objects) >= 0:
                stored += 1
                # Also those that the worker that was killed had stored already.
                told = {k for k, _ in recorder.stored[-8:]}
                self.assertEqual(told, {key(at * 8 + i) for i in range(8)})
                places = self.objects(8, size)
                result = self.load(adapter, [key(at * 8 + i) for i in range(8)], places)
                for i, good in enumerate(result):
                    if good:
                        self.assertEqual(bytes(places[i].byte_array), pattern(i, size))
                self.manager.free(places)
        self.assertGreater(stored, 6)
        self.assertGreaterEqual(adapter.report_status()["link"]["reconnects"], 1)

    def test_a_worker_that_comes_back_is_used_again(self) -> None:
        path = os.path.join(self.directory, "socket")
        store = os.path.join(self.directory, "store")
        os.mkdir(store)

        def start() -> subprocess.Popen[bytes]:
            process = subprocess.Popen(
                [os.environ["LMSHM_WORKER"], "--listen", f"unix:{path}", "--root", store],
                stdout=subprocess.PIPE,
            )
            assert process.stdout is not None
            self.assertIn(b"LISTENING", process.stdout.readline())
            self.addCleanup(process.stdout.close)
            return process

        worker = start()
        adapter = self.adapter(socket=path)
        self.assertEqual(self.store(adapter, [key(1)], self.filled(1, 4096)), 4096)
        worker.terminate()
        worker.wait()
        until(lambda: not adapter.report_status()["is_healthy"])
        until(lambda: self.store(adapter, [key(2)], self.filled(1, 4096)) == -1)
        self.assertEqual(self.lookup(adapter, [key(1)]), [False])
        worker = start()
        self.addCleanup(worker.wait)
        self.addCleanup(worker.terminate)
        until(lambda: adapter.report_status()["is_healthy"])
        self.assertEqual(self.load(adapter, [key(1)], self.objects(1, 4096)), [True])

    def test_a_stopped_worker_of_ours_is_killed_when_time_is_up(self) -> None:
        adapter = self.adapter(timeout_s=1.0)
        self.store(adapter, [key(1)], self.filled(1, 4096))
        pid = adapter.report_status()["link"]["worker_pid"]
        os.kill(pid, signal.SIGSTOP)
        self.assertEqual(self.load(adapter, [key(1)], self.objects(1, 4096)), [False])
        until(lambda: self.load(adapter, [key(1)], self.objects(1, 4096)) == [True])
        self.assertNotEqual(adapter.report_status()["link"]["worker_pid"], pid)

    def test_closing_in_the_middle_leaves_no_worker(self) -> None:
        adapter = LmshmL2Adapter({"root": self.directory}, self.manager.get_l1_memory_desc())
        pid = adapter.report_status()["link"]["worker_pid"]
        for at in range(20):
            adapter.submit_store_task([key(at)], self.filled(1, 1 << 20))
        adapter.close()
        with self.assertRaises(ProcessLookupError):
            os.kill(pid, 0)

    def test_an_object_outside_the_pool_is_refused(self) -> None:
        adapter = self.adapter()
        inside = self.filled(1, 4096)[0]

        class Outside:
            data_ptr = inside.data_ptr - (1 << 40)

            def get_size(self) -> int:
                return 4096

        self.assertEqual(self.store(adapter, [key(1)], [Outside()]), -1)  # type: ignore[list-item]
        self.assertEqual(self.load(adapter, [key(1)], [Outside()]), [False])  # type: ignore[list-item]


class Settings(Scene):
    def test_lmcache_makes_it_from_its_own_configuration(self) -> None:
        spec = {
            "type": "plugin",
            "module_path": "lmshm_lmcache",
            "class_name": "LmshmL2Adapter",
            # Made if it is missing, as LMCache's own adapters make theirs.
            "adapter_params": {"root": f"{self.directory}/not/there"},
        }
        config = PluginL2AdapterConfig.from_dict(spec)
        adapter = create_l2_adapter(config, l1_memory_desc=self.manager.get_l1_memory_desc())
        self.addCleanup(adapter.close)
        self.assertIsInstance(adapter, LmshmL2Adapter)
        self.assertEqual(self.store(adapter, [key(1)], self.filled(1, 4096)), 4096)  # type: ignore[arg-type]

    def test_what_is_wrong_is_said(self) -> None:
        for params, word in (
            ({}, "one of"),
            ({"root": "/a", "store": "redis://h"}, "one of"),
            ({"root": "/a", "max_byte": 1}, "max_byte"),
            ({"root": "/a", "max_bytes": "1 GB"}, "max_bytes"),
            ({"root": "/a", "sync": "yes"}, "sync"),
            ({"socket": "/a", "max_bytes": 1}, "max_bytes"),
            ({"root": "/a", "timeout_s": 0}, "timeout_s"),
        ):
            with self.subTest(params), self.assertRaisesRegex(ValueError, word):
                LmshmL2AdapterConfig.from_dict(params)

    def test_a_pool_without_a_name_is_refused_with_the_fix(self) -> None:
        import ctypes

        memory = ctypes.create_string_buffer(1 << 20)
        with self.assertRaisesRegex(ArenaError, "--shm-name"):
            find_arena(ctypes.addressof(memory), 1 << 20)

    def test_a_pool_whose_name_is_anothers_is_refused(self) -> None:
        path = f"/dev/shm/{self.name}"
        with open(path + ".new", "wb") as file:
            file.truncate(self.pool_bytes)
        os.replace(path + ".new", path)
        with self.assertRaises(ArenaError):
            self.adapter()


if __name__ == "__main__":
    unittest.main(verbosity=2)
