"""How much memory this process has used."""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress
from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")
_FORGET = Path("/proc/self/clear_refs")  # "5" sets the peak to what is used now


def forget_peak() -> None:
    """Let `peak_bytes` count from now on, where the system can: for GPUs, and on Linux."""
    if torch.cuda.is_initialized():
        for index in range(torch.cuda.device_count()):
            torch.cuda.reset_peak_memory_stats(index)
    with suppress(OSError):  # no such file elsewhere
        _FORGET.write_text("5", encoding="ascii")


def give_back() -> None:
    """Return what was freed to the system, where the C library keeps it (glibc) and can be asked to."""
    with suppress(AttributeError, OSError, TypeError):  # another C library, or none by that name
        ctypes.CDLL(None).malloc_trim(0)


def peak_bytes(device: torch.device) -> int:
    """The most so far: of the GPU's memory by tensors, or of main memory by this process.

    On Linux a process's own peak, which `getrusage` does not give: there it begins with the parent's.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if _STATUS.is_file():
        lines = _STATUS.read_text(encoding="ascii", errors="replace").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
