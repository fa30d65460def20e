"""stdcli: few-step stylization of pictures and videos by distilled diffusion models."""

from __future__ import annotations

TYPE_CHECKING = False  # as type checkers know it; importing typing would take most of the time of this import
if TYPE_CHECKING:
    from typing import Any

    from stdcli.bank.reader import Bank, open_bank
    from stdcli.errors import StdcliError
    from stdcli.evaluate.one_result import measure
    from stdcli.inference.stylizer import Stylizer

__version__ = "0.1.0"
__all__ = ["Bank", "StdcliError", "Stylizer", "__version__", "measure", "open_bank"]

_MODULES = {
    "Bank": "stdcli.bank.reader",
    "StdcliError": "stdcli.errors",
    "Stylizer": "stdcli.inference.stylizer",
    "measure": "stdcli.evaluate.one_result",
    "open_bank": "stdcli.bank.reader",
}
"""Public names and where they are: a module is imported when its name is first used."""


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'stdcli' has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(_MODULES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
