"""The pictures of a training run: what is trained on, what is kept back, what could not be read."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stdcli.console import Console
from stdcli.data.split import is_held_out
from stdcli.errors import ConfigError, MediaError
from stdcli.teacher.pictures import PictureSet, list_pictures, load_pictures

MIN_PICTURES = 8  # of each kind; with fewer a network learns them by heart
SHOWN_UNREADABLE = 10


@dataclass(frozen=True)
class TrainingData:
    """Photos and artworks, each split by file name.

    Attributes:
        content: photos that are trained on.
        art: artworks that are trained on.
        held_content: photos that never are.
        held_art: artworks that never are.
    """

    content: PictureSet
    art: PictureSet
    held_content: PictureSet
    held_art: PictureSet

    @property
    def digest(self) -> str:
        """SHA-256 over the names that are trained on; what is in the files is not looked at."""
        names = "\n".join((*self.content.names, "", *self.art.names))
        return hashlib.sha256(names.encode("utf-8", "surrogateescape")).hexdigest()

    def metadata(self) -> dict[str, Any]:
        """Counts and unreadable files, for run.json."""
        return {
            "photos": _count(self.content, self.held_content),
            "artworks": _count(self.art, self.held_art),
            "names_sha256": self.digest,
        }


def find_folders(data: str | None, style_data: str | None) -> tuple[Path, Path]:
    """The folders of photos and of artworks.

    Args:
        data: a folder of photos, or one that holds `content/` and `style/`.
        style_data: a folder of artworks; None where `data` holds both, or where photos serve as both.

    Raises:
        ConfigError: no folder given, or artworks given twice.
        MediaError: no such folder.
    """
    if data is None:
        raise ConfigError("no pictures to train on", [("data", "is missing")], hint="--data FOLDER")
    root = Path(data)
    content, style = root / "content", root / "style"
    has_both = content.is_dir() and style.is_dir()
    if has_both and style_data is not None:
        problem = f"{root} holds style/ already; give --data {content} to use other artworks"
        raise ConfigError("artworks given twice", [("style_data", problem)])
    photos, artworks = (content, style) if has_both else (root, Path(style_data or data))
    for folder in (photos, artworks):
        if not folder.is_dir():
            raise MediaError("no such folder of pictures", where=folder)
    return photos, artworks


def load_data(photos: Path, artworks: Path, *, console: Console) -> TrainingData:
    """Read both folders.

    Args:
        photos: folder of photos.
        artworks: folder of artworks; the same folder is read once.
        console: told what could not be read.

    Raises:
        MediaError: no pictures, or fewer than `MIN_PICTURES` readable ones to train on.
    """
    folders = dict.fromkeys((photos, artworks))
    files = {folder: list_pictures(folder) for folder in folders}
    sides = {}
    with console.progress("pictures", sum(map(len, files.values()))) as progress:
        for folder, paths in files.items():
            train = load_pictures(paths, held_out=False, progress=progress)
            held = load_pictures(paths, held_out=True, progress=progress)
            _check(train, held, folder, console)
            sides[folder] = (train, held)
    (content, held_content), (art, held_art) = sides[photos], sides[artworks]
    return TrainingData(content, art, held_content, held_art)


def count_pictures(photos: Path, artworks: Path) -> tuple[int, int]:
    """How many picture files the two folders hold, going by names and opening none.

    Raises:
        MediaError: no pictures, or fewer than `MIN_PICTURES` files to train on.
    """
    counts = []
    for folder in (photos, artworks):
        files = list_pictures(folder)
        held = sum(is_held_out(path.name) for path in files)
        _check_count(folder, len(files) - held, held)
        counts.append(len(files))
    return counts[0], counts[1]


def _check(train: PictureSet, held: PictureSet, folder: Path, console: Console) -> None:
    skipped = (*train.skipped, *held.skipped)
    listed = "; ".join(f"{name}: {reason}" for name, reason in skipped[:SHOWN_UNREADABLE])
    more = f"; and {len(skipped) - SHOWN_UNREADABLE} more" if len(skipped) > SHOWN_UNREADABLE else ""
    unreadable = f"{len(skipped)} unreadable ({listed}{more})" if skipped else ""
    _check_count(folder, len(train), len(held), unreadable)
    if skipped:
        console.warning(f"{folder}: {unreadable}")


def _check_count(folder: Path, train: int, held: int, unreadable: str = "") -> None:
    if train < MIN_PICTURES:
        raise MediaError(
            "too few pictures to train on",
            where=folder,
            got=", ".join(filter(None, (f"{train}, {held} held out", unreadable))),
            expected=f"at least {MIN_PICTURES}",
        )


def _count(train: PictureSet, held: PictureSet) -> dict[str, Any]:
    return {
        "train": len(train),
        "held_out": len(held),
        "unreadable": [list(item) for item in (*train.skipped, *held.skipped)],
    }
