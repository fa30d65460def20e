"""HTML from Python calls: whatever is not `Markup` is escaped, so no text of a user can become markup."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

VOID = ("br", "img", "input")


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def tag(name: str, /, *children: object, **attributes: object) -> Markup:
    """An element.

    Args:
        name: of the element.
        children: `Markup`, kept; None, left out; anything else, escaped text.
        attributes: `class_` is `class`, other underscores are dashes; None leaves one out, True gives it no
            value.

    Returns:
        The element as HTML.
    """
    start = "".join(f" {_attribute(key, value)}" for key, value in attributes.items() if value is not None)
    if name in VOID:
        return Markup(f"<{name}{start}>")
    return Markup(f"<{name}{start}>{join(children)}</{name}>")


def join(parts: Iterable[object], between: str = "") -> Markup:
    """Parts one after another; what is not `Markup` is escaped, None is left out."""
    return Markup(between.join(_text(part) for part in parts if part is not None))


def _text(part: object) -> str:
    return part if isinstance(part, Markup) else escape(str(part))


def _attribute(key: str, value: object) -> str:
    name = key.rstrip("_").replace("_", "-")
    return name if value is True else f'{name}="{escape(str(value))}"'
