"""How much main memory is free for this process: the system's word, and the limit of its container.

A container's limit is that of its control groups (cgroups, version 1 or 2), which kill without a word.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

UNLIMITED = 2**60
"""Bytes from which on a limit is none: version 1 says so with the largest number of pages."""


@dataclass(frozen=True)
class Room:
    """Main memory.

    Attributes:
        free_bytes: what can still be taken without swapping; the system's file cache counts as free.
        total_bytes: of the machine, or the container's limit.
        swap_bytes: free swap; 0 in a container, whose own share of it is unknown.
        limited: whether a container's limit is what counts.
    """

    free_bytes: int
    total_bytes: int
    swap_bytes: int
    limited: bool

    def __str__(self) -> str:
        of = "this container may use" if self.limited else "there are"
        return f"{self.free_bytes / 2**30:.1f} GiB free of {self.total_bytes / 2**30:.1f} GiB that {of}"


def measure_room(root: Path = Path("/")) -> Room:
    """What is free now.

    Args:
        root: where `proc` and `sys` are mounted.
    """
    memory, swap = psutil.virtual_memory(), psutil.swap_memory()
    room = Room(memory.available, memory.total, swap.free, limited=False)
    for limit, used in _limits(root):
        left = max(0, limit - used)
        if limit < UNLIMITED and left < room.free_bytes:
            room = Room(left, limit, 0, limited=True)
    return room


def _limits(root: Path) -> Iterator[tuple[int, int]]:
    """(limit, used) in bytes of every group that this process is in."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, name = (*line.split(":", 2), "", "")[:3]
        if not controllers:
            yield from _climb(root / "sys/fs/cgroup", name, "memory.max", "memory.current", "")
        elif "memory" in controllers.split(","):
            folder = root / "sys/fs/cgroup/memory"
            yield from _climb(folder, name, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_")


def _climb(root: Path, name: str, limit: str, usage: str, prefix: str) -> Iterator[tuple[int, int]]:
    """Of a group and those it is in; a container sees its own group as the root, by whatever name."""
    innermost = root / name.strip("/")
    for group in (innermost, *innermost.parents):
        if group == root or root in group.parents:
            with suppress(ValueError):  # no such file, or "max"
                yield int(_read(group / limit)), int(_read(group / usage)) - _cached(group, prefix)


def _cached(group: Path, prefix: str) -> int:
    """File cache of a group, which the kernel gives back when it is needed."""
    wanted = {f"{prefix}inactive_file", f"{prefix}active_file"}
    rows = [line.split() for line in _read(group / "memory.stat").splitlines()]
    return sum(int(row[1]) for row in rows if len(row) == 2 and row[0] in wanted)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
