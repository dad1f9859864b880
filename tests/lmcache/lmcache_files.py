# SPDX-License-Identifier: Apache-2.0
"""
Files, keys, headers and configurations as the real LMCache makes and reads them, for tests that compare
them with ours. LMCache 0.5.x with torch for CPUs must be importable. What is said on stdout is JSON.

    lmcache_files.py write CONNECTOR DIR          stores objects in DIR, prints the list of them
    lmcache_files.py read CONNECTOR DIR < LIST    loads them, prints what is wrong: [] is nothing
    lmcache_files.py list CONNECTOR               the list alone
    lmcache_files.py headers                      RemoteMetadata.serialize() of many chunks
    lmcache_files.py config FILE                  what LMCache's loader makes of a configuration
    lmcache_files.py golden DIR                   writes tests/golden/lmcache_*.tsv anew

CONNECTOR is fs (with save_chunk_meta, the default), fs-plain (without), mp-fs, mp-fs_native or
mp-fs_native-odirect. The bytes of an object follow from its seed: byte i is (7 i + 13 seed) mod 256.
"""

import asyncio
import json
import logging
import mmap
import os
import sys
import time

# LMCache logs to stdout.
stdout = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
os.environ.setdefault("LMCACHE_LOG_LEVEL", "ERROR")
logging.disable(logging.WARNING)

import torch  # noqa: E402
from lmcache.utils import CacheEngineKey  # noqa: E402
from lmcache.v1.config import LMCacheEngineConfig  # noqa: E402
from lmcache.v1.memory_allocators.tensor_memory_allocator import (  # noqa: E402
    TensorMemoryAllocator,
)
from lmcache.v1.memory_management import MemoryFormat  # noqa: E402
from lmcache.v1.metadata import LMCacheMetadata  # noqa: E402
from lmcache.v1.storage_backend.local_cpu_backend import LocalCPUBackend  # noqa: E402

POOL_BYTES = 64 << 20
CHUNK_TOKENS = 16
LAYERS, HEADS, HEAD_SIZE = 2, 2, 16
HIDDEN = HEADS * HEAD_SIZE
NAMES = {
    torch.half: "half",
    torch.bfloat16: "bfloat16",
    torch.float: "float",
    torch.double: "double",
    torch.uint8: "uint8",
    torch.float8_e4m3fn: "fp8_e4m3",
    torch.float8_e5m2: "fp8_e5m2",
}
MODELS = ["meta-llama/Llama-3.1-8B", "Qwen/Qwen2.5-7B-Instruct", "local model: 7B (awq)"]


def payload(seed, size):
    return bytes((7 * i + 13 * seed) % 256 for i in range(256)) * (size // 256 + 1)


def fill(obj, seed):
    view = memoryview(obj.byte_array).cast("B")
    view[:] = payload(seed, len(view))[: len(view)]


def matches(obj, seed, size):
    view = memoryview(obj.byte_array).cast("B")
    return len(view) == size and bytes(view) == payload(seed, size)[:size]


def allocator():
    # Aligned to pages, as O_DIRECT wants it.
    buffer = torch.frombuffer(mmap.mmap(-1, POOL_BYTES), dtype=torch.uint8)
    return TensorMemoryAllocator(buffer, align_bytes=4096)


class Item:
    """One object: what it is called, and what it looks like."""

    def __init__(self, seed, key, name, shapes, dtypes, fmt):
        self.seed, self.key, self.name = seed, key, name
        self.shapes, self.dtypes, self.fmt = shapes, dtypes, fmt

    def described(self):
        size = sum(torch.Size(s).numel() * d.itemsize for s, d in zip(self.shapes, self.dtypes))
        return {
            "seed": self.seed,
            "key": self.name[: -len(".data")].replace("-SEP-", "/"),
            "file": self.name,
            "bytes": size,
            "shape": "+".join(",".join(str(n) for n in s) for s in self.shapes),
            "dtype": "+".join(NAMES[d] for d in self.dtypes),
            "format": self.fmt.name,
        }


# --- in-process: fs://


def engine_items(plain):
    """72 keys as engines make them: whole chunks, partial ones, with tags, of layers."""
    items = []
    dtypes = [torch.half, torch.bfloat16]
    for model in MODELS:
        for dtype in dtypes:
            for worker in range(3):
                for kind in ("whole", "partial", "tagged", "layer"):
                    seed = len(items)
                    configs = {"lmcache.tag.user": "a b%c", "lmcache.tag.t": ""}
                    key = CacheEngineKey(
                        model_name=model,
                        world_size=4,
                        worker_id=worker,
                        chunk_hash=0x1000_0000_0000_0000 + 0x9E3779B97F4A7C15 * seed % (1 << 60),
                        dtype=dtype,
                        request_configs=configs if kind == "tagged" else None,
                    )
                    tokens = 5 if kind == "partial" else CHUNK_TOKENS
                    shape, fmt = [2, LAYERS, tokens, HIDDEN], MemoryFormat.KV_2LTD
                    of = dtype
                    if not plain and kind == "layer":
                        key = key.split_layers(LAYERS)[seed % LAYERS]
                        shape, fmt = [tokens, 2, HIDDEN], MemoryFormat.KV_T2D
                    elif not plain and kind == "tagged" and worker == 2:
                        shape, fmt = [1, LAYERS, tokens, HIDDEN], MemoryFormat.KV_MLA_FMT
                        of = torch.float8_e4m3fn
                    name = key.to_string().replace("/", "-SEP-") + ".data"
                    items.append(Item(seed, key, name, [shape], [torch.bfloat16 if plain else of], fmt))
    return items


def engine_connector(directory, plain):
    from lmcache.v1.storage_backend.connector.fs_connector import FSConnector

    extra = {"save_chunk_meta": False} if plain else {}
    config = LMCacheEngineConfig.from_defaults(chunk_size=CHUNK_TOKENS, extra_config=extra)
    metadata = LMCacheMetadata(
        model_name="m",
        world_size=1,
        local_world_size=1,
        worker_id=0,
        local_worker_id=0,
        kv_dtype=torch.bfloat16,
        kv_shape=(LAYERS, 2, CHUNK_TOKENS, HEADS, HEAD_SIZE),
        chunk_size=CHUNK_TOKENS,
    )
    backend = LocalCPUBackend(config, metadata, memory_allocator=allocator())
    loop = asyncio.new_event_loop()
    return loop, backend, FSConnector(loop, backend, config, base_paths_str=directory)


def engine_write(directory, plain):
    loop, backend, connector = engine_connector(directory, plain)
    items = engine_items(plain)
    for item in items:
        obj = backend.allocate([torch.Size(s) for s in item.shapes], item.dtypes, item.fmt)
        fill(obj, item.seed)
        loop.run_until_complete(connector.put(item.key, obj))
        obj.ref_count_down()
    return [item.described() for item in items]


def engine_read(directory, plain, listed):
    loop, _, connector = engine_connector(directory, plain)
    wrong = []
    for item, said in zip(engine_items(plain), listed, strict=True):
        obj = loop.run_until_complete(connector.get(item.key))
        if obj is None:
            wrong.append({"key": said["key"], "why": "not found"})
            continue
        if not matches(obj, item.seed, said["bytes"]):
            wrong.append({"key": said["key"], "why": "other bytes"})
        elif list(obj.get_shape()) != item.shapes[0]:
            wrong.append({"key": said["key"], "why": f"shape {list(obj.get_shape())}"})
        elif not plain and (obj.get_dtype(), obj.get_memory_format()) != (item.dtypes[0], item.fmt):
            wrong.append({"key": said["key"], "why": f"{obj.get_dtype()} {obj.get_memory_format()}"})
        obj.ref_count_down()
    return wrong


# --- multiprocess: fs and fs_native

MP_SHAPE = [2, 2, 20, 40]  # 6,400 bytes: no multiple of 4096


def mp_items():
    from lmcache.v1.distributed.api import ObjectKey
    from lmcache.v1.distributed.l2_adapters.fs_l2_adapter import _object_key_to_filename
    from lmcache.v1.distributed.l2_adapters.native_connector_l2_adapter import (
        _object_key_to_string,
    )

    items, texts = [], []
    for model in MODELS:
        for world, rank in ((1, 0), (8, 7), (255, 254)):
            for group in (0, 26):
                for salt in ("", "tenant-a", "m\u00fcller%20#1", "x" * 64):
                    seed = len(items)
                    key = ObjectKey(
                        chunk_hash=bytes((seed * 31 + i * 7) % 256 for i in range(32)),
                        model_name=model,
                        kv_rank=ObjectKey.ComputeKVRank(world, rank, world % 8 + 1, rank % 8),
                        object_group_id=group,
                        cache_salt=salt,
                    )
                    name = _object_key_to_filename(key)
                    items.append(
                        Item(seed, key, name, [MP_SHAPE], [torch.bfloat16], MemoryFormat.KV_2LTD)
                    )
                    texts.append(_object_key_to_string(key))
    return items, texts


def mp_described():
    items, texts = mp_items()
    return [
        item.described()
        | {
            "text": text,
            "model": item.key.model_name,
            "kvRank": item.key.kv_rank,
            "group": item.key.object_group_id,
            "hash": item.key.chunk_hash.hex(),
            "salt": item.key.cache_salt,
        }
        for item, text in zip(items, texts, strict=True)
    ]


def mp_adapter(kind, directory):
    from lmcache.v1.distributed.l2_adapters import fs_l2_adapter, fs_native_l2_adapter

    if kind == "mp-fs":
        return fs_l2_adapter.FSL2Adapter(fs_l2_adapter.FSL2AdapterConfig(directory))
    config = fs_native_l2_adapter.FSNativeL2AdapterConfig(
        directory, use_odirect=kind.endswith("-odirect")
    )
    return fs_native_l2_adapter._create_fs_native_l2_adapter(config)


def wait(poll):
    end = time.monotonic() + 60
    while time.monotonic() < end:
        result = poll()
        if result:
            return result
        time.sleep(0.01)
    raise TimeoutError("the adapter does not finish")


def mp_objects(items):
    pool = allocator()
    objects = []
    for item in items:
        obj = pool.allocate([torch.Size(s) for s in item.shapes], item.dtypes, item.fmt)
        assert obj is not None
        objects.append(obj)
    return pool, objects


def mp_write(kind, directory):
    items, _ = mp_items()
    _pool, objects = mp_objects(items)
    for item, obj in zip(items, objects):
        fill(obj, item.seed)
    adapter = mp_adapter(kind, directory)
    adapter.submit_store_task([item.key for item in items], objects)
    wait(adapter.pop_completed_store_tasks)
    adapter.close()
    return mp_described()


def mp_read(kind, directory, listed):
    items, _ = mp_items()
    _pool, objects = mp_objects(items)
    for obj in objects:
        memoryview(obj.byte_array).cast("B")[:] = b"\0" * len(memoryview(obj.byte_array).cast("B"))
    adapter = mp_adapter(kind, directory)
    task = adapter.submit_load_task([item.key for item in items], objects)
    found = wait(lambda: adapter.query_load_result(task))
    wrong = []
    for i, (item, obj, said) in enumerate(zip(items, objects, listed, strict=True)):
        if not found.test(i):
            wrong.append({"key": said["key"], "why": "not found"})
        elif not matches(obj, item.seed, said["bytes"]):
            wrong.append({"key": said["key"], "why": "other bytes"})
    adapter.close()
    return wrong


# --- headers and configurations


def headers():
    from lmcache.v1 import protocol

    F = MemoryFormat
    rows = []
    for fmt, shapes, dtypes in [
        (F.KV_2LTD, [[2, 32, 256, 1024]], [torch.bfloat16]),
        (F.KV_2LTD, [[2, 32, 17, 1024]], [torch.half]),
        (F.KV_T2D, [[256, 2, 1024]], [torch.half]),
        (F.KV_2TD, [[2, 256, 1024]], [torch.float]),
        (F.KV_MLA_FMT, [[1, 61, 256, 576]], [torch.float8_e4m3fn]),
        (F.KV_MLA_FMT, [[1, 61, 256, 576]], [torch.float8_e5m2]),
        (F.KV_MLA_FMT, [[1, 27, 64, 640]], [torch.uint8]),
        (F.BINARY, [[12345, 0, 0, 0]], [torch.uint8]),
        (F.EC_TD, [[77, 3584]], [torch.double]),
        (F.HS_TD, [[256, 5120]], [torch.float]),
        (F.KV_2LTD, [[2, 1, 8, 64], [1, 1, 8, 16]], [torch.half, torch.uint8]),
        (F.KV_2LTD, [[2, 1, 8, 64]] * 3, [torch.bfloat16, torch.float, torch.bfloat16]),
    ]:
        protocol.init_remote_metadata_info(len(shapes))
        sizes = [[n for n in s if n > 0] for s in shapes]
        length = sum(torch.Size(s).numel() * d.itemsize for s, d in zip(sizes, dtypes))
        packed = protocol.RemoteMetadata(
            length, [torch.Size(s) for s in shapes], dtypes, fmt
        ).serialize()
        rows.append(
            {
                "length": length,
                "format": fmt.name,
                "dtype": "+".join(NAMES[d] for d in dtypes),
                "shape": "+".join(",".join(str(n) for n in s) for s in sizes),
                "header": packed.hex(),
            }
        )
    return rows


def config(file):
    loaded = LMCacheEngineConfig.from_file(file)
    loaded.validate()
    names = ["chunk_size", "local_cpu", "max_local_cpu_size", "cache_policy", "remote_url"]
    said = {name: getattr(loaded, name) for name in names}
    return said | {"extra_config": loaded.extra_config}


def golden(directory):
    """What the tests compare with that have no LMCache at hand."""
    import tempfile
    from lmcache import __version__

    def write(name, what, rows):
        columns = list(rows[0])
        with open(os.path.join(directory, f"lmcache_{name}.tsv"), "w") as file:
            file.write(f"# {what}, as LMCache {__version__} makes them (tests/lmcache/lmcache_files.py).\n")
            file.write("# " + "\t".join(columns) + "\n")
            for row in rows:
                file.write("\t".join(str(row[name]) for name in columns) + "\n")

    with tempfile.TemporaryDirectory() as made:
        files = engine_write(made, False)
        for row in files:
            content = open(os.path.join(made, row["file"]), "rb").read()
            row["header"] = content[: -row["bytes"]].hex()
            assert content[-row["bytes"] :] == payload(row["seed"], row["bytes"])[: row["bytes"]]
    write("fs", "Files of the fs connector with save_chunk_meta", files)
    write("headers", "Headers of the fs and redis connectors", headers())
    names = ["seed", "model", "kvRank", "group", "hash", "salt", "text", "key", "file"]
    rows = [{name: row[name] for name in names} for row in mp_described()]
    write("objects", "Keys of the multiprocess mode", rows)
    return "written"


def main(argv):
    command, rest = argv[1], argv[2:]
    if command == "golden":
        return golden(rest[0])
    if command == "headers":
        return headers()
    if command == "config":
        return config(rest[0])
    kind = rest[0]
    plain = kind == "fs-plain"
    if command == "list":
        return mp_described() if kind.startswith("mp-") else [
            item.described() for item in engine_items(plain)
        ]
    if command == "write":
        return mp_write(*rest) if kind.startswith("mp-") else engine_write(rest[1], plain)
    assert command == "read", command
    listed = json.load(sys.stdin)
    return mp_read(*rest, listed) if kind.startswith("mp-") else engine_read(rest[1], plain, listed)


if __name__ == "__main__":
    json.dump(main(sys.argv), stdout, ensure_ascii=False)
    stdout.write("\n")
    stdout.flush()
    os._exit(0)  # LMCache leaves threads
