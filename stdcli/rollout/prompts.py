"""The text of a path: one prompt a file, or a list of which each path draws one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stdcli.data.files import File
from stdcli.disk.reading import iter_objects, read_text
from stdcli.errors import ConfigError

MAX_CAPTION_BYTES = 2**20
"""Of a caption beside a picture; text encoders read the first hundred words."""


@dataclass(frozen=True)
class Prompts:
    """Prompts by file, or a list of which each path draws one; neither is no prompt at all."""

    listed: tuple[str, ...] = ()
    by_name: dict[str, str] | None = None
    sidecars: bool = False

    def of(self, file: File, draw: float) -> str | None:
        """The prompt of a path.

        Args:
            file: where it starts.
            draw: in [0, 1), chooses among the listed.

        Raises:
            ConfigError: a sidecar or an entry is missing.
        """
        if self.listed:
            return self.listed[int(draw * len(self.listed))]
        if self.by_name is not None:
            for name in (file.name, file.path.name):
                if name in self.by_name:
                    return self.by_name[name]
            raise ConfigError("a sample has no prompt", [("prompts", f"no entry for {file.name}")])
        if self.sidecars:
            path = file.path.with_suffix(".txt")
            if not path.exists():
                raise ConfigError("a sample has no prompt", [("prompts", f"{path}: no such file")])
            try:
                return read_text(path, ConfigError, limit=MAX_CAPTION_BYTES).strip()
            except ConfigError as error:
                raise ConfigError("a caption cannot be read", [("prompts", _line(error))]) from error
        return None


def read_prompts(name: str) -> Prompts:
    """What `prompts` means.

    Raises:
        ConfigError: no such file, or neither text nor lines of JSON.
    """
    if name == "none":
        return Prompts()
    if name == "sidecar":
        return Prompts(sidecars=True)
    path = Path(name).expanduser()
    try:
        if path.suffix != ".jsonl":
            lines = read_text(path, ConfigError).split("\n")
            prompts = Prompts(tuple(line.strip() for line in lines if line.strip()))
        else:
            rows = [row for _, row in iter_objects(path, ConfigError)]
            prompts = Prompts(by_name={str(row["file_name"]): str(row["text"]) for row in rows})
    except (ConfigError, KeyError) as error:
        problem = _line(error) if isinstance(error, ConfigError) else f"{path}: a line without {error}"
        expected = "none, sidecar, a .txt of one prompt per line, or a .jsonl of file_name and text"
        raise ConfigError("no prompts here", [("prompts", problem)], expected=expected) from error
    if not (prompts.listed or prompts.by_name):
        raise ConfigError("no prompts here", [("prompts", f"{path} is empty")])
    return prompts


def _line(error: ConfigError) -> str:
    return f"{error.where}: {error.what}" + ("" if error.got is None else f" ({error.got})")
