"""Models of any size whose values were never written: zeros that take no disk, but memory once they are read.

What is measured on them is how loading goes about its work, not what comes out.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from stdcli.models.diffusers_api import UNet2DConditionModel
from stdcli.models.unet_denoiser import LORA_TARGETS

MEASURED = """
import json, sys, threading, time
from pathlib import Path
from stdcli.models.load import load_model
from stdcli.models.spec import ModelSpec

def anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))

over, peak = threading.Event(), [0]
def watch():
    while not over.wait(0.01):
        peak[0] = max(peak[0], anonymous())
before = anonymous()
thread = threading.Thread(target=watch, daemon=True)
thread.start()
began = time.process_time()
model, *student = sys.argv[1:]
chosen = {"student": student[0]} if student else {}
bundle = load_model(ModelSpec(model, device="cpu", dtype="bfloat16", **chosen))
taken = time.process_time() - began
over.set()
thread.join()
weights = sum(p.nbytes for p in bundle.network.denoiser.network.parameters())
told = {"cpu_s": taken, "peak": peak[0] - before, "left": anonymous() - before, "weights": weights}
print(json.dumps(told))
"""


def write_sparse(path: Path, shapes: Mapping[str, Sequence[int]]) -> Path:
    """A safetensors file of zeros in float16."""
    header, at = {}, 0
    for name, shape in shapes.items():
        end = at + 2 * math.prod(shape)
        header[name], at = {"dtype": "F16", "shape": list(shape), "data_offsets": [at, end]}, end
    text = json.dumps(header).encode()
    text = text.ljust(-(-len(text) // 8) * 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    os.truncate(path, 8 + len(text) + at)
    return path


def save_sparse_model(folder: Path, like: Path, config: Mapping[str, object]) -> Path:
    """A folder with a UNet of this config in half precision; all else is as in another folder."""
    shutil.copytree(like, folder, ignore=shutil.ignore_patterns("unet"))
    with torch.device("meta"):
        unet = UNet2DConditionModel(**config)
    (folder / "unet").mkdir()
    (folder / "unet" / "config.json").write_text(unet.to_json_string())
    shapes = {name: tuple(value.shape) for name, value in unet.state_dict().items()}
    write_sparse(folder / "unet" / "diffusion_pytorch_model.safetensors", shapes)
    return folder


def save_sparse_lora(path: Path, model: Path, *, rank: int) -> Path:
    """A LoRA on all layers that `stdcli distill` gives one, by diffusers' names."""
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(model / "unet"))
    shapes: dict[str, tuple[int, ...]] = {}
    for name, module in unet.named_modules():
        if name.endswith(LORA_TARGETS) and hasattr(module, "weight"):
            out, inputs, *kernel = module.weight.shape
            shapes[f"unet.{name}.lora_A.weight"] = (rank, inputs, *kernel)
            shapes[f"unet.{name}.lora_B.weight"] = (out, rank, *(1 for _ in kernel))
    return write_sparse(path, shapes)


def measure_loading(model: Path, student: Path | None = None) -> dict[str, float]:
    """What a process of its own takes: `cpu_s`; anonymous bytes at `peak` and `left`; bytes of `weights`."""
    command = [sys.executable, "-c", MEASURED, str(model), *([] if student is None else [str(student)])]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)
