"""How a clip is to look: interlaced or not, in which colours, going by what ffmpeg says of its pictures.

What differs from progressive BT.709 is brought there by filters while decoding. Knows nothing of files.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from stdcli.errors import MediaError
from stdcli.media.ffmpeg import run_ffmpeg

COLOR_MATRICES = {"gbr", "bt709", "fcc", "bt470bg", "smpte170m", "smpte240m", "ycgco"} | {
    "bt2020nc", "bt2020c", "ictcp", "chroma-derived-nc", "chroma-derived-c",
}  # fmt: skip
OTHER_PRIMARIES = {  # by ffmpeg's names
    "bt470m", "bt470bg", "smpte170m", "smpte240m", "film", "bt2020", "smpte428", "smpte431", "smpte432",
    "ebu3213",
}  # fmt: skip
HDR = {"smpte2084": "PQ", "arib-std-b67": "HLG"}
SCENE_LIGHT = ("linear", "log100", "log316")
"""Transfers whose numbers no screen shows as they are."""
FIELD_ORDERS = {
    "top first": "tff",
    "bottom first": "bff",
    "top coded first (swapped)": "bff",
    "bottom coded first (swapped)": "tff",
}
FIELD_FLAG = re.compile(r"showinfo.* i:([TB]) ")
FIELD_FLAGS = {"T": "tff", "B": "bff"}
HD_WIDTH, SD_HEIGHT = 1280, 576  # an untagged clip is BT.709 from HD on, BT.601 below: what players assume
WHOLE_CHROMA = ("yuv444p16le", "yuva444p16le", "gbrp16le", "gbrap16le")
WHITE_NITS = 203
"""Brightness that counts as white in HDR (ITU-R BT.2408)."""


@dataclass(frozen=True)
class Appearance:
    """What the description of a video stream says of how it looks.

    Attributes:
        matrix: of its YUV; None where it names none or an unknown one.
        primaries, transfer: ffmpeg's names; "unknown" where it names none.
        parity: which field is shown first, "tff" or "bff"; None for progressive pictures.
    """

    matrix: str | None = None
    primaries: str = "unknown"
    transfer: str = "unknown"
    parity: str | None = None

    @classmethod
    def described(cls, description: str, shown: str = "") -> Appearance:
        """Read off what ffmpeg tells.

        Args:
            description: of the stream, as in `yuv420p10le(tv, bt2020nc/bt2020/smpte2084, top first), 16x9`.
            shown: lines of its filter `showinfo` about the first frame, which count where the container does
                not say whether the clip is interlaced.
        """
        details = re.search(r", \w+\(((?:[^()]|\([^()]*\))*)\), \d+x\d+", description)
        matrix, primaries, transfer, parity = None, "unknown", "unknown", None
        for part in details[1].split(", ") if details else ():
            names = part.split("/")
            if part in FIELD_ORDERS:
                parity = FIELD_ORDERS[part]
            elif len(names) == 3:
                matrix, primaries, transfer = names
            elif part in COLOR_MATRICES:
                matrix = primaries = transfer = part
            elif part == "progressive":
                parity = part
        if parity is None and (frame := FIELD_FLAG.search(shown)):
            parity = FIELD_FLAGS[frame[1]]
        parity = None if parity == "progressive" else parity
        if primaries == "unknown" and matrix in ("bt2020nc", "bt2020c", "ictcp"):
            primaries = "bt2020"
        return cls(matrix if matrix in COLOR_MATRICES else None, primaries, transfer, parity)

    def assumed_matrix(self, width: int, height: int) -> Literal["bt601", "bt709"] | None:
        """The YUV matrix to read with where none is named, by the size in pixels."""
        if self.matrix:
            return None
        longer, shorter = max(width, height), min(width, height)
        return "bt709" if longer >= HD_WIDTH or shorter > SD_HEIGHT else "bt601"

    @property
    def is_mapped(self) -> bool:
        """Whether its colours are other than those of BT.709."""
        return self.primaries in OTHER_PRIMARIES or self.transfer in (*HDR, *SCENE_LIGHT)

    def deinterlacer(self) -> tuple[str, ...]:
        """Filters that make one whole picture of each pair of fields; none for progressive pictures."""
        return (f"bwdif=mode=send_frame:parity={self.parity}:deint=all",) if self.parity else ()

    def mapping(self, assumed: str | None, *, alpha: bool, odd_sides: bool = False) -> tuple[str, ...]:
        """Filters that bring its colours to BT.709, in 16 bits of RGB; none where they are that already.

        Of HDR, what is darker than white keeps its light up to 0.3 of it, the rest is compressed smoothly.

        Args:
            assumed: see `assumed_matrix`.
            alpha: whether transparency is kept.
            odd_sides: whether a side is odd, which zscale takes of whole chroma only.
        """
        if not self.is_mapped or not _has_zscale():
            return ()
        whole = (f"format={'|'.join(WHOLE_CHROMA)}",) if odd_sides else ()
        matrix = {"bt601": "min=smpte170m:", "bt709": "min=bt709:", None: ""}[assumed]
        usual = "bt2020" if self.transfer in HDR and self.primaries == "unknown" else "bt709"
        primaries = self.primaries if self.primaries in OTHER_PRIMARIES else usual
        source = f"zscale={matrix}pin={primaries}:m=gbr:r=full"
        if self.transfer in HDR:
            light = f"{source}:p={primaries}:tin={self.transfer}:t=linear:npl={WHITE_NITS},format=gbrpf32le"
            shown = "zscale=tin=linear:t=iec61966-2-1:m=gbr:r=full,format=gbrp16le"
            return (*whole, light, "zscale=p=bt709", "tonemap=mobius:desat=0", shown)
        curve = self.transfer if self.transfer in (*SCENE_LIGHT, "iec61966-2-1") else "bt709"
        shown = "bt709" if curve == "bt709" else "iec61966-2-1"
        mapped = f"{source}:tin={curve}:p=bt709:t={shown}"
        return (*whole, mapped, f"format=gbr{'a' if alpha else ''}p16le")

    def notes(self, path: Path) -> tuple[str, ...]:
        """What the user should know.

        Raises:
            MediaError: it is HDR, and this ffmpeg cannot map it.
        """
        notes = (
            [f"{path.name} is interlaced: each pair of fields becomes one frame (bwdif)"]
            if self.parity
            else []
        )
        if self.transfer in HDR:
            if not _has_zscale():
                hint = "pip install --upgrade imageio-ffmpeg, and leave IMAGEIO_FFMPEG_EXE unset"
                what = "HDR cannot be mapped to the standard range: this ffmpeg has no zscale"
                raise MediaError(what, where=path, got=HDR[self.transfer], hint=hint)
            if self.matrix == "bt2020c":
                what = "HDR of constant luminance cannot be mapped to the standard range"
                raise MediaError(what, where=path, got=f"{HDR[self.transfer]}, {self.matrix}")
            notes.append(f"{path.name} is HDR ({HDR[self.transfer]}): mapped to the standard range")
        elif self.is_mapped and not _has_zscale():
            notes.append(
                f"{path.name}: colours of {self.primaries} are not mapped: this ffmpeg has no zscale"
            )
        return tuple(notes)


@cache
def _has_zscale() -> bool:
    return " zscale " in run_ffmpeg("-filters").output
