"""How much memory this process has used."""

import sys

import pytest
import torch

from stdcli.runtime.peak_memory import forget_peak, peak_bytes

CPU, MIB = torch.device("cpu"), 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the peak cannot be forgotten")
def test_the_peak_is_of_what_was_used_and_can_be_forgotten() -> None:
    forget_peak()
    before = peak_bytes(CPU)
    block = torch.ones(64 * MIB // 4)  # 64 MiB, written to
    risen = peak_bytes(CPU)
    assert 60 * MIB < risen - before < 80 * MIB
    del block
    assert peak_bytes(CPU) > risen - MIB  # the kernel rounds
    forget_peak()
    assert peak_bytes(CPU) < risen - 50 * MIB
