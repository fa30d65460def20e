"""Accelerate keeps its state in the process; tests that need other settings begin anew."""

from __future__ import annotations

from accelerate.state import AcceleratorState, GradientState, PartialState


def forget_accelerator() -> None:
    """As if no accelerator had been made in this process."""
    AcceleratorState._reset_state()
    PartialState._reset_state()
    GradientState._reset_state()
