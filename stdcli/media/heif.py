"""HEIC and HEIF pictures, which Pillow reads with the package pillow-heif, where that is installed."""

from __future__ import annotations

HEIF_SUFFIXES = frozenset({".heic", ".heif", ".hif"})
INSTALL = 'pip install "stdcli[heif]"'


def heif_formats() -> tuple[str, ...]:
    """Pillow's names of the formats that the package adds; none where it is not installed."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return ()
    register_heif_opener()
    return ("HEIF",)
