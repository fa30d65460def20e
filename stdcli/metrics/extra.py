"""Packages of the extra `eval`: imported where they are used, missed with the line that installs them."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from stdcli.errors import ResourceError

PACKAGES = {"cv2": "OpenCV", "skimage": "scikit-image"}


def load_extra(module: str) -> ModuleType:
    """A module of an optional package, such as `cv2` or `skimage.color`.

    Raises:
        ResourceError: the package is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise ResourceError(
            f"this measure needs {PACKAGES[module.split('.')[0]]}, which is not installed",
            hint="pip install 'stdcli[eval]'",
        ) from error
