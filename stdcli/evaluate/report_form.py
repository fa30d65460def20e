"""The form of report.json, by which reports of other people are checked before anything is made of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stdcli.disk.opening import own_path
from stdcli.errors import MediaError

Id = Annotated[str, Field(pattern=r"^\w[\w.-]*$", max_length=200)]
"""Part of a file's name in reports that are made of this one."""
Size = Annotated[int, Field(ge=1)]
Number = float | None
Better = Literal["higher", "lower"]


class _Part(BaseModel):
    """What later versions add is kept."""

    model_config = ConfigDict(extra="allow", strict=True)


class _Style(_Part):
    id: Id
    sha256: str
    file: str | None = None


class _Content(_Style):
    kind: Literal["picture", "clip"]
    size: Annotated[list[Size], Field(min_length=2, max_length=2)]
    frames: Size
    fps: Number


class _Method(_Part):
    id: Id
    title: str
    family: str
    settings: dict[str, Any]
    hashes: dict[str, str]


class _Missing(_Part):
    what: str
    fetch: str


class _Metric(_Part):
    id: Id
    name: str
    title: str
    group: str
    better: Better
    range: Annotated[list[Number], Field(min_length=2, max_length=2)]
    unit: str
    protocol: str
    weights: dict[str, str]
    cite: str
    missing: _Missing | None


class _Result(_Part):
    method: str
    content: str
    style: str
    values: dict[str, Number]
    file: str | None = None


class _Row(_Part):
    method: str
    metric: str
    mean: Number
    sd: Number
    count: Annotated[int, Field(ge=0)]


class _Baseline(_Part):
    metric: str
    content: str
    value: Number


class _Report(_Part):
    title: str
    machine: str
    versions: dict[str, str]
    contents: list[_Content]
    styles: list[_Style]
    methods: list[_Method]
    metrics: list[_Metric]
    results: list[_Result]
    table: list[_Row]
    floors: list[_Baseline]

    def strays(self) -> Iterator[str]:
        """Names that stand for nothing in the report."""
        ids = {
            kind: {part.id for part in getattr(self, f"{kind}s")} for kind in ("content", "style", "method")
        }
        ids["metric"] = {part.id for part in self.metrics}
        for part in (*self.results, *self.table, *self.floors):
            named = [(kind, getattr(part, kind)) for kind in ids if hasattr(part, kind)]
            named += [("metric", name) for name in getattr(part, "values", ())]
            yield from (f"{kind} {name}" for kind, name in named if name not in ids[kind])


def check_form(data: Mapping[str, Any], where: Path) -> None:
    """Refuse what cannot be a report, or could reach beyond the folder that it is in.

    Args:
        data: of report.json.
        where: that file.

    Raises:
        MediaError: a value is missing or of another kind, a name stands for nothing, or a picture lies
            outside of the folder or behind a link.
    """
    try:
        report = _Report.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        got = f"{'.'.join(map(str, first['loc']))}: {first['msg'].removeprefix('Input should ')}"
        raise MediaError("not a report that is understood", where=where, got=got) from error
    stray = next(report.strays(), None)
    if stray is not None:
        raise MediaError("not a report that is understood", where=where, got=f"{stray}, which is not in it")
    for part in (*report.contents, *report.styles, *report.results):
        if part.file is not None:
            own_path(where.parent, part.file, MediaError)
