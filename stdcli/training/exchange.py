"""Gradients of several processes, averaged: one message per trained set of weights and step.

Weights belong to a set, not to a module: sets may share a module and its graph, as roles on one base do. So
nothing wraps the networks; whoever takes a step exchanges what is about to be used.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from accelerate import Accelerator
from torch import Tensor, nn


def average_gradients(parameters: Sequence[nn.Parameter], accelerator: Accelerator) -> None:
    """Give every process the mean of all processes' gradients; a process without one counts as zero.

    What no process has a gradient of stays without.

    Args:
        parameters: float32, the same on every process and in the same order.
        accelerator: of this process.
    """
    if accelerator.num_processes == 1:
        return
    has_gradient = torch.tensor([p.grad is not None for p in parameters], dtype=torch.float32)
    flat = torch.cat(
        [
            has_gradient.to(parameters[0].device),
            *(torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in parameters),
        ]
    )
    flat = accelerator.reduce(flat, reduction="mean")
    shares, sums = flat.split([len(parameters), len(flat) - len(parameters)])
    parts = sums.split([p.numel() for p in parameters])
    for parameter, share, part in zip(parameters, shares.tolist(), parts, strict=True):
        parameter.grad = part.view_as(parameter).clone() if share else None


@torch.no_grad()
def share_from_first(tensors: Iterable[Tensor], accelerator: Accelerator) -> None:
    """Give every process the first one's values, in place.

    Args:
        tensors: the same on every process but for their values.
        accelerator: of this process.
    """
    if accelerator.num_processes > 1:
        for tensor in tensors:
            torch.distributed.broadcast(tensor, src=0)
