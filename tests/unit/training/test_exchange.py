"""Gradients of several processes against the mean in plain numbers."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import pytest
import torch
from torch import nn

from stdcli.training.exchange import average_gradients


@dataclass
class Meeting:
    """Threads that stand where processes do: everybody's tensor is there before anybody goes on."""

    num_processes: int
    sent: list[torch.Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._all_here = threading.Barrier(self.num_processes)

    def reduce(self, tensor: torch.Tensor, *, reduction: str) -> torch.Tensor:
        assert reduction == "mean"
        self.sent.append(tensor)
        self._all_here.wait(timeout=20)
        return torch.stack(self.sent).mean(0)


def parameters_of(gradients: list[torch.Tensor | None]) -> list[nn.Parameter]:
    shapes = [(2, 3), (4,), ()]
    made = [nn.Parameter(torch.zeros(shape)) for shape in shapes]
    for parameter, gradient in zip(made, gradients, strict=True):
        parameter.grad = gradient
    return made


def exchanged(*ranks: list[torch.Tensor | None]) -> tuple[list[list[nn.Parameter]], Meeting]:
    meeting, held = Meeting(len(ranks)), [parameters_of(gradients) for gradients in ranks]
    threads = [threading.Thread(target=average_gradients, args=(one, meeting)) for one in held]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    return held, meeting


@pytest.mark.parametrize("num_ranks", [2, 3])
def test_every_process_has_the_mean_by_one_message(num_ranks: int) -> None:
    generator = torch.Generator().manual_seed(0)
    ranks = [
        [torch.randn(shape, generator=generator) for shape in ((2, 3), (4,), ())] for _ in range(num_ranks)
    ]
    expected = [sum(rank[k].double() for rank in ranks) / num_ranks for k in range(3)]
    held, meeting = exchanged(*ranks)
    assert len(meeting.sent) == num_ranks
    for one in held:
        for parameter, mean in zip(one, expected, strict=True):
            torch.testing.assert_close(parameter.grad.double(), mean, rtol=1e-6, atol=1e-7)


def test_who_has_none_counts_as_zero_and_what_nobody_has_stays_without() -> None:
    ours = [torch.full((2, 3), 6.0), None, None]
    held, _ = exchanged(ours, [None, torch.full((4,), 2.0), None])
    for first, second, third in held:
        assert torch.equal(first.grad, torch.full((2, 3), 3.0))
        assert torch.equal(second.grad, torch.ones(4))
        assert third.grad is None


def test_alone_nothing_is_sent_or_touched() -> None:
    gradient = torch.ones(2, 3)
    one, meeting = parameters_of([gradient, None, None]), Meeting(1)
    average_gradients(one, meeting)
    assert one[0].grad is gradient and one[1].grad is None and not meeting.sent
