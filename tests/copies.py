"""Deep copies of networks, several times as quick as `copy.deepcopy` alone."""

from __future__ import annotations

import copy
from typing import TypeVar

from torch import nn

T = TypeVar("T")


def copy_of(thing: T, *networks: nn.Module) -> T:
    """A deep copy of whatever holds `networks`.

    Most of the time goes into the dozen dicts of hooks that every module has and nearly none fills: those are
    made anew beforehand.
    """
    held = (value for network in networks for module in network.modules() for value in vars(module).values())
    empty = (value for value in held if isinstance(value, dict) and not value)
    return copy.deepcopy(thing, {id(value): type(value)() for value in empty})
