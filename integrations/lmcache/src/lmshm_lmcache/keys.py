# SPDX-License-Identifier: Apache-2.0
"""LMCache's ObjectKey as the key of an object, and back.

In a directory, its file is then the one that LMCache's own `fs` adapter would make, so that both can
serve the same directory. Elsewhere it is the text that LMCache's adapters for Redis and Valkey use.
"""

from __future__ import annotations

from lmcache.v1.distributed.api import ObjectKey


def key_text(key: ObjectKey, directory: bool) -> str:
    """`model@rank@group@hash`, all in hex, and `@salt` where there is one."""
    rank = f"{key.kv_rank:#010x}" if directory else f"{key.kv_rank:08x}"
    text = f"{key.model_name}@{rank}@{key.object_group_id:x}@{key.chunk_hash.hex()}"
    return f"{text}@{key.cache_salt}" if key.cache_salt else text


def parse_key(text: str) -> ObjectKey | None:
    """None: the object was not stored by an LMCache server."""
    parts = text.split("@")
    if len(parts) not in (4, 5):
        return None
    try:
        return ObjectKey(
            chunk_hash=bytes.fromhex(parts[3]),
            model_name=parts[0],
            kv_rank=int(parts[1], 16),
            object_group_id=int(parts[2], 16),
            cache_salt=parts[4] if len(parts) == 5 else "",
        )
    except ValueError:
        return None
