"""Fusing a student into full-size SDXL, beside loading it: `pytest tests/benchmarks/test_fusing.py -s`.

Its UNet is full-size, of zeros; text encoders and autoencoder, which no student changes, are small.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.real_configs import SDXL
from tests.sparse_models import measure_loading, save_sparse_lora, save_sparse_model
from tests.tiny_models import save_tiny_sdxl

GIB = 2**30


@pytest.mark.timeout(1800)
def test_fusing_rank_64_takes_no_longer_than_loading_and_a_third_of_a_gib(tmp_path: Path) -> None:
    model = save_sparse_model(tmp_path / "sdxl", save_tiny_sdxl(tmp_path / "tiny"), SDXL)
    student = save_sparse_lora(tmp_path / "student.safetensors", model, rank=64)
    plain, fused = measure_loading(model), measure_loading(model, student)
    for name, told in (("plain", plain), ("fused", fused)):
        sizes = f"{told['peak'] / GIB:.2f} GiB at most, {told['left'] / GIB:.2f} left"
        sys.stdout.write(f"\n{name}: {told['cpu_s']:.1f} s of CPU, {sizes}")
    # zeros from no disk, and no text encoders: all of SDXL takes some three times as long to load (44 s)
    assert fused["cpu_s"] - plain["cpu_s"] <= 3 * plain["cpu_s"]
    assert fused["peak"] - plain["peak"] <= 0.3 * GIB
    assert fused["left"] - plain["left"] <= 0.3 * GIB
