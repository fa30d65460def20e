"""stdcli: few-step stylization of pictures and videos by distilled diffusion models."""

__version__ = "0.1.0"
__all__ = ["Bank", "StdcliError", "Stylizer", "__version__", "measure", "open_bank"]

_MODULES = {
    "Bank": "stdcli.bank.reader",
    "StdcliError": "stdcli.errors",
    "Stylizer": "stdcli.inference.stylizer",
    "measure": "stdcli.evaluate.one_result",
    "open_bank": "stdcli.bank.reader",
}
"""Public names and where they are: a module is imported when its name is first used. `__init__.pyi` says the
same to type checkers."""


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module 'stdcli' has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(_MODULES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
