# SPDX-License-Identifier: Apache-2.0
"""The server's pool as the worker attaches it: the named segment that an address of this process
belongs to. The kernel knows its name, so nobody has to configure it."""

from __future__ import annotations

import os
from dataclasses import dataclass

_SHM = "/dev/shm/"


class ArenaError(RuntimeError):
    """The pool is nothing that a worker could attach. The text says what to change."""


@dataclass(frozen=True)
class Arena:
    """A range of this process's memory that is also in a named segment."""

    address: int
    size: int
    """Bytes."""
    name: str
    """With the leading slash."""
    base: int
    """Of `address` in the segment, in bytes."""
    segment_size: int
    identity: str
    """boot:device:inode, see ATTACH."""

    def offset(self, address: int, size: int) -> int | None:
        """Where in the segment that memory is; None: not in the pool."""
        begin = address - self.address
        if begin < 0 or size < 0 or begin + size > self.size:
            return None
        return self.base + begin


def find_arena(address: int, size: int) -> Arena:
    """The arena at `address`. Raises ArenaError."""
    areas = [_parse(line) for line in _maps()]
    first = next((at for at, area in enumerate(areas) if area.begin <= address < area.end), None)
    if first is None:
        raise ArenaError(f"the server's pool at {address:#x} is not mapped")
    area = areas[first]
    if not area.path.startswith(_SHM) or not area.shared:
        raise ArenaError(
            f"the server's pool at {address:#x} is {area.path or 'anonymous memory'}, which no other"
            " process can attach: start the server with --no-l1-use-lazy and --shm-name NAME"
        )
    if area.path.endswith(" (deleted)"):
        raise ArenaError(
            f"the server's pool {area.path} has lost its name: another process removed it. Start the"
            " server anew, with a --shm-name of its own"
        )
    # Pinning a part, or placing it on a NUMA node, divides a mapping.
    end = area.end
    for other in areas[first + 1 :]:
        follows = other.begin == end and other.offset == area.offset + end - area.begin
        if not follows or other.inode != area.inode:
            break
        end = other.end
    if address + size > end:
        raise ArenaError(
            f"the server's pool of {size} bytes at {address:#x} is not one segment: {area.path} ends"
            f" after {end - address} bytes"
        )
    status = os.stat(area.path)
    if status.st_ino != area.inode:
        raise ArenaError(
            f"{area.path} is not the server's pool any more: another process has made a new segment of"
            " that name. Start the server anew, with a --shm-name of its own"
        )
    return Arena(
        address=address,
        size=size,
        name="/" + area.path[len(_SHM) :],
        base=area.offset + address - area.begin,
        segment_size=status.st_size,
        identity=f"{_boot_id()}:{status.st_dev}:{status.st_ino}",
    )


@dataclass(frozen=True)
class _Area:
    begin: int
    end: int
    shared: bool
    offset: int
    inode: int
    path: str


def _parse(line: str) -> _Area:
    fields = line.rstrip("\n").split(maxsplit=5)
    begin, end = (int(part, 16) for part in fields[0].split("-"))
    path = fields[5] if len(fields) > 5 else ""
    return _Area(begin, end, fields[1][3] == "s", int(fields[2], 16), int(fields[4]), path)


def _maps() -> list[str]:
    with open("/proc/self/maps") as file:
        return file.readlines()


def _boot_id() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip().replace("-", "")
    except OSError:
        return "-"
