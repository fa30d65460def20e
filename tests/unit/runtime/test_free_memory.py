"""Free main memory: the system's word, and that of the control groups, laid out as the kernel does."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from stdcli.runtime.free_memory import measure_room

MIB = 2**20


def write(root: Path, files: dict[str, object]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{text}\n")
    return root


def v2(group: str, *, limit: object, used: int, cached: int = 0) -> dict[str, object]:
    place = f"sys/fs/cgroup{group}"
    stat = f"anon {used}\nfile 99\ninactive_file {cached}\nactive_file {cached}"
    return {f"{place}/memory.max": limit, f"{place}/memory.current": used, f"{place}/memory.stat": stat}


def test_without_groups_the_system_is_believed(tmp_path) -> None:
    room = measure_room(tmp_path)
    assert room.total_bytes == psutil.virtual_memory().total and not room.limited
    assert 0 < room.free_bytes <= room.total_bytes
    assert "that there are" in str(room)


def test_of_nested_groups_the_tightest_counts_and_file_cache_is_free(tmp_path) -> None:
    files = v2("/a/b", limit="max", used=5 * MIB) | v2("/a", limit=64 * MIB, used=50 * MIB, cached=7 * MIB)
    room = measure_room(write(tmp_path, {"proc/self/cgroup": "0::/a/b", **files}))
    assert (room.free_bytes, room.total_bytes) == (64 * MIB - 50 * MIB + 14 * MIB, 64 * MIB)
    assert room.limited and room.swap_bytes == 0


@pytest.mark.parametrize("name", ["/", "/docker/0123"])
def test_a_container_that_sees_its_group_as_the_root(tmp_path, name) -> None:
    files = v2("", limit=32 * MIB, used=40 * MIB)
    assert measure_room(write(tmp_path, {"proc/self/cgroup": f"0::{name}", **files})).free_bytes == 0


def test_groups_of_version_1(tmp_path) -> None:
    place = "sys/fs/cgroup/memory/c"
    files = {
        "proc/self/cgroup": "12:cpu,cpuacct:/c\n9:memory:/c\n1:name=systemd:/c\n0::/c",
        f"{place}/memory.limit_in_bytes": 100 * MIB,
        f"{place}/memory.usage_in_bytes": 60 * MIB,
        f"{place}/memory.stat": f"active_file 1\ntotal_inactive_file {8 * MIB}\ntotal_active_file {2 * MIB}",
    }
    assert measure_room(write(tmp_path, files)).free_bytes == 50 * MIB
    write(tmp_path, {f"{place}/memory.limit_in_bytes": 9223372036854771712})
    assert not measure_room(tmp_path).limited
