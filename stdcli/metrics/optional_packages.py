"""Packages of the extra `eval`: imported where they are used, missed with the line that installs them."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from stdcli.errors import ResourceError

PACKAGES = {
    "cv2": ("optical flow", "OpenCV"),
    "matplotlib": ("a report", "matplotlib"),
    "skimage": ("this measure", "scikit-image"),
}
"""Package -> what needs it, and its name."""


def load_extra(module: str) -> ModuleType:
    """A module of an optional package, such as `cv2`, `skimage.color` or `matplotlib.figure`.

    Raises:
        ResourceError: the package is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        purpose, package = PACKAGES[module.split(".")[0]]
        what = f"{purpose} needs {package}, which is not installed"
        raise ResourceError(what, hint="pip install 'stdcli[eval]'") from error
