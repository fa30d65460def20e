"""Choice of device and dtype, each with its reason.

Knows torch and nothing else. A device that does not exist is an error, never a silent fallback; what `auto`
picks is told in `DeviceChoice.reason`, which commands print and record.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from stdcli.errors import ResourceError

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
BFLOAT16_CAPABILITY = 8  # compute capability (major) of the first NVIDIA GPUs with bfloat16 units


@dataclass(frozen=True)
class DeviceChoice:
    """Where a model runs.

    Attributes:
        device: torch device, with an index on CUDA.
        dtype: dtype of the denoiser's weights.
        reason: one line for the user, "device: why; dtype: why".
    """

    device: torch.device
    dtype: torch.dtype
    reason: str


def choose(device: str = "auto", dtype: str = "auto", *, float16_ok: bool = True) -> DeviceChoice:
    """Pick a device and a dtype, or check the ones asked for.

    `auto` takes cuda, then mps, then cpu; of several GPUs that of the launcher's LOCAL_RANK, else the first.
    Its dtype is the fastest one that the hardware computes natively: on CUDA bfloat16 from compute
    capability 8 on, else float16; on MPS float16; on a CPU bfloat16 with AMX or AVX512-BF16 units, else
    float32 (emulated bfloat16 is many times slower than float32).

    Args:
        device: "auto", "cpu", "mps", "cuda" or "cuda:N".
        dtype: "auto", "float32", "float16" or "bfloat16".
        float16_ok: False for models that were never tried in float16; `auto` then takes float32 in its place.

    Raises:
        ResourceError: no such device here, an unknown name, or float16 on a CPU.
    """
    picked, why_device = _pick_device(device)
    picked_dtype, why_dtype = _pick_dtype(picked, dtype, float16_ok=float16_ok)
    name = str(picked_dtype).removeprefix("torch.")
    return DeviceChoice(picked, picked_dtype, f"{picked}: {why_device}; {name}: {why_dtype}")


def available() -> list[str]:
    """Names of the devices that exist here, best first."""
    names = [f"cuda:{i}" for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    if torch.backends.mps.is_available():
        names.append("mps")
    return [*names, "cpu"]


def machine_of(device: torch.device) -> str:
    """What decides how fast a device is, by name: `cuda: NVIDIA H200`, or `cpu, 8 threads`."""
    if device.type == "cuda":
        return f"cuda: {torch.cuda.get_device_name(device)}"
    return f"cpu, {torch.get_num_threads()} threads" if device.type == "cpu" else device.type


def _pick_device(name: str) -> tuple[torch.device, str]:
    found = available()
    own_gpu = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"  # launchers give every process its own GPU
    if name == "auto":
        return torch.device(own_gpu if own_gpu in found else found[0]), "the best device here"
    wanted = own_gpu if name == "cuda" else name
    if wanted not in found:
        raise ResourceError(
            "no such device", got=name, expected=f"one of auto, {', '.join(found)}", hint="--device auto"
        )
    return torch.device(wanted), "as asked"


def _pick_dtype(device: torch.device, name: str, *, float16_ok: bool) -> tuple[torch.dtype, str]:
    if name == "auto":
        return _auto_dtype(device, float16_ok=float16_ok)
    if name not in DTYPES:
        raise ResourceError("unknown dtype", got=name, expected=f"one of auto, {', '.join(DTYPES)}")
    if name == "float16" and device.type == "cpu":
        raise ResourceError(
            "float16 is not computed natively by CPUs",
            got="float16",
            expected="float32 or bfloat16",
            hint="--dtype auto",
        )
    if name == "bfloat16" and device.type == "cpu" and not _cpu_bfloat16():
        return DTYPES[name], "as asked, though this CPU emulates it slowly"
    return DTYPES[name], "as asked"


def _auto_dtype(device: torch.device, *, float16_ok: bool) -> tuple[torch.dtype, str]:
    if device.type == "cpu":
        units = _cpu_bfloat16()
        if units:
            return torch.bfloat16, f"this CPU has {units}"
        return torch.float32, "this CPU has neither AMX nor AVX512-BF16"
    if device.type == "cuda" and torch.cuda.get_device_capability(device)[0] >= BFLOAT16_CAPABILITY:
        return torch.bfloat16, "this GPU computes it natively"
    if not float16_ok:
        return torch.float32, "no native bfloat16, and this model was not made for float16"
    return torch.float16, "half precision that this GPU computes natively"


def _cpu_bfloat16() -> str | None:
    if torch.cpu._is_amx_tile_supported():
        return "AMX"
    return "AVX512-BF16" if torch.cpu._is_avx512_bf16_supported() else None
