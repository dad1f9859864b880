# SPDX-License-Identifier: Apache-2.0
"""
Objects in Redis, Valkey and S3 as the real LMCache puts and gets them: its in-process connectors, made
by its own loader and factory of what a configuration says, and its L2 adapters of the multiprocess
mode. As lmcache_files.py, which has the objects; what is said on stdout is JSON.

    lmcache_stores.py write CONFIG              stores objects, prints the list of them
    lmcache_stores.py read CONFIG < LIST        loads them, prints what is wrong: [] is nothing
    lmcache_stores.py list CONFIG               the list alone

CONFIG is a YAML file with a remote_url, or the JSON object that --l2-adapter takes.
"""

import asyncio
import json
import os
import sys

from lmcache_files import (
    CHUNK_TOKENS,
    HEAD_SIZE,
    HEADS,
    HIDDEN,
    LAYERS,
    MODELS,
    Item,
    allocator,
    engine_items,
    fill,
    matches,
    mp_described,
    mp_items,
    mp_objects,
    stdout,
    wait,
)

import torch  # noqa: E402
from lmcache.utils import CacheEngineKey  # noqa: E402
from lmcache.v1 import protocol  # noqa: E402
from lmcache.v1.config import LMCacheEngineConfig  # noqa: E402
from lmcache.v1.memory_management import MemoryFormat  # noqa: E402
from lmcache.v1.metadata import LMCacheMetadata  # noqa: E402
from lmcache.v1.storage_backend.connector import CreateConnector  # noqa: E402
from lmcache.v1.storage_backend.local_cpu_backend import LocalCPUBackend  # noqa: E402

# --- in-process


def any_shape():
    """What redis:// keeps: it says with each object what it is."""
    items = engine_items(False)
    F = MemoryFormat
    for model in MODELS:
        for name, dtypes, shapes, fmt in [
            ("float", [torch.float], [[2, LAYERS, 7, HIDDEN]], F.KV_2LTD),
            ("double", [torch.double], [[2, 3, HIDDEN]], F.KV_2TD),
            ("uint8", [torch.uint8], [[1, 5, 16, 640]], F.KV_MLA_FMT),
            ("fp8_e5m2", [torch.float8_e5m2], [[2, LAYERS, CHUNK_TOKENS, HIDDEN]], F.KV_2LTD),
            ("half", [torch.half], [[77, 256]], F.EC_TD),
            ("bfloat16", [torch.bfloat16], [[31, 128]], F.HS_TD),
            # Two groups of layers, of different heads.
            ("half", [torch.half, torch.uint8], [[2, 1, 8, 64], [2, 1, 8, 16]], F.KV_2LTD),
        ]:
            seed = len(items)
            dtype = next(d for d in dtypes)
            key = CacheEngineKey(model, 2, 1, 0x2000_0000 + seed, dtype)
            items.append(Item(seed, key, key.to_string() + ".data", shapes, dtypes, fmt))
    return items


def whole_chunks():
    """What the others keep: chunks of one size."""
    return [item for item in engine_items(True) if item.shapes[0][2] == CHUNK_TOKENS]


def connector_items(config):
    """Of external://, which is its ShmFileConnector, as of the others: chunks of one size."""
    return any_shape() if config.remote_url.startswith("redis") else whole_chunks()


def connector(config):
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
    # ShmFileConnector wants the named segment that the configuration describes.
    shared = config.remote_url.startswith("external:")
    backend = LocalCPUBackend(config, metadata, memory_allocator=None if shared else allocator())
    loop = asyncio.new_event_loop()
    made = CreateConnector(config.remote_url, loop, backend, config, metadata)
    return loop, backend, made


def described(items):
    rows = [item.described() for item in items]
    for row, item in zip(rows, items, strict=True):
        row["key"] = item.key.to_string()
        del row["file"]
    return rows


def write(config):
    loop, backend, made = connector(config)
    items = connector_items(config)

    async def all_of_them():
        for item in items:
            protocol.init_remote_metadata_info(len(item.shapes))
            obj = backend.allocate([torch.Size(s) for s in item.shapes], item.dtypes, item.fmt)
            fill(obj, item.seed)
            await made.put(item.key, obj)

    loop.run_until_complete(all_of_them())
    return described(items)


def read(config, listed):
    loop, _, made = connector(config)
    wrong = []

    async def all_of_them():
        for item, said in zip(connector_items(config), listed, strict=True):
            protocol.init_remote_metadata_info(len(item.shapes))
            if not await made.exists(item.key):
                wrong.append({"key": said["key"], "why": "does not exist"})
                continue
            obj = await made.get(item.key)
            if obj is None:
                wrong.append({"key": said["key"], "why": "not found"})
                continue
            if not matches(obj, item.seed, said["bytes"]):
                wrong.append({"key": said["key"], "why": "other bytes"})
            elif [list(s) for s in obj.get_shapes()] != item.shapes:
                wrong.append({"key": said["key"], "why": f"shapes {obj.get_shapes()}"})
            elif obj.get_dtypes() != item.dtypes or obj.get_memory_format() != item.fmt:
                wrong.append({"key": said["key"], "why": f"{obj.get_dtypes()} {obj.get_memory_format()}"})
            obj.ref_count_down()

    loop.run_until_complete(all_of_them())
    return wrong


# --- multiprocess


def adapter(said):
    from lmcache.v1.distributed.l2_adapters.config import get_l2_adapter_config_class
    from lmcache.v1.distributed.l2_adapters.factory import create_l2_adapter_from_registry

    config = get_l2_adapter_config_class(said["type"]).from_dict(said)
    return create_l2_adapter_from_registry(config)


def mp_write(said):
    items, _ = mp_items()
    _pool, objects = mp_objects(items)
    for item, obj in zip(items, objects):
        fill(obj, item.seed)
    made = adapter(said)
    made.submit_store_task([item.key for item in items], objects)
    done = wait(made.pop_completed_store_tasks)
    assert all(result.is_successful() for result in done.values()), done
    made.close()
    return mp_described()


def mp_read(said, listed):
    items, _ = mp_items()
    _pool, objects = mp_objects(items)
    for obj in objects:
        view = memoryview(obj.byte_array).cast("B")
        view[:] = bytes(len(view))
    made = adapter(said)
    keys = [item.key for item in items]
    layout = {}
    look = made.submit_lookup_and_lock_task(keys, layout)
    there = wait(lambda: made.query_lookup_and_lock_result(look))
    task = made.submit_load_task(keys, objects)
    found = wait(lambda: made.query_load_result(task))
    wrong = []
    for i, (item, obj, row) in enumerate(zip(items, objects, listed, strict=True)):
        if not there.test(i) or not found.test(i):
            wrong.append({"key": row["text"], "why": "not found"})
        elif not matches(obj, item.seed, row["bytes"]):
            wrong.append({"key": row["text"], "why": "other bytes"})
    made.close()
    return wrong


def main(argv):
    command, where = argv[1:]
    if where.startswith("{"):
        said = json.loads(where)
        if command == "list":
            return mp_described()
        return mp_write(said) if command == "write" else mp_read(said, json.load(sys.stdin))
    config = LMCacheEngineConfig.from_file(where)
    config.validate()
    if command == "list":
        return described(connector_items(config))
    return write(config) if command == "write" else read(config, json.load(sys.stdin))


if __name__ == "__main__":
    json.dump(main(sys.argv), stdout, ensure_ascii=False)
    stdout.write("\n")
    stdout.flush()
    os._exit(0)  # LMCache leaves threads
