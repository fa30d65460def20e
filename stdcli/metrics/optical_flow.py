"""Flows of a clip: found by OpenCV, or read from files that any other program wrote.

A `.flo` file (Middlebury): float32 202021.25, which reads "PIEH", int32 width, int32 height, then u and v of
each pixel as float32, row by row; all little endian. Values above 1e9 stand for unknown.

Legend: F frames, H W pixels.
"""

from __future__ import annotations

from hashlib import sha256
from itertools import pairwise
from pathlib import Path

import numpy as np

from stdcli.disk.reading import read_bytes
from stdcli.disk.writing import write_durably
from stdcli.errors import MediaError
from stdcli.metrics.metric import Flows, NotMeasurable
from stdcli.metrics.optional_packages import load_extra

DIS = "opencv-dis-medium"
LEAST_PX = 16
"""Two patches of 8 px; wide pictures of fewer rows crash OpenCV 5.0 (segmentation fault)."""
MAGIC, HEADER_BYTES, LONGEST_PX = b"PIEH", 12, 99_999
MAX_FLOW_BYTES = 2**31  # of 16384x16384 pixels
DIRECTIONS = ("forward", "backward")


def dis_flows(frames: np.ndarray) -> Flows:
    """Flows both ways between neighbouring frames, by OpenCV's DIS, preset "medium", on its own grey.

    Args:
        frames: uint8 [F, H, W, 3].

    Raises:
        NotMeasurable: a side is below 16 pixels.
        ResourceError: OpenCV is not installed.
    Source: Kroeger 2016, "Fast optical flow using dense inverse search".
    """
    cv2 = load_extra("cv2")
    if min(frames.shape[1:3]) < LEAST_PX:
        raise NotMeasurable(f"optical flow needs frames of at least {LEAST_PX} px")
    grays = [cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY) for frame in frames]
    dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    none = np.empty((0, *frames.shape[1:3], 2), np.float32)
    forward = [dis.calc(before, after, None)[None] for before, after in pairwise(grays)]
    backward = [dis.calc(after, before, None)[None] for before, after in pairwise(grays)]
    return Flows(np.concatenate([none, *backward]), np.concatenate([none, *forward]), DIS)


def folder_flows(folder: Path, num_frames: int, size_px: tuple[int, int]) -> Flows:
    """Flows from files `forward/00000.flo`, `backward/00000.flo` and on, one for each pair of frames.

    Args:
        folder: holds `forward/` (frame i to i + 1) and `backward/` (frame i + 1 to i), both numbered by i.
        num_frames: of the clip.
        size_px: (H, W) of the result, which flows must have.

    Returns:
        Flows whose method names the first 12 digits of the hash of all files, in order.

    Raises:
        MediaError: a file is missing, too many, damaged or of another size.
    """
    digest, found = sha256(), {}
    for direction in DIRECTIONS:
        paths = _numbered(folder / direction, num_frames - 1)
        flows = [np.empty((0, *size_px, 2), np.float32)]
        for path in paths:
            data = _read(path)
            digest.update(data)
            flows.append(_sized(_parse(data, path), size_px, path)[None])
        found[direction] = np.concatenate(flows)
    return Flows(**found, method=f"files sha256:{digest.hexdigest()[:12]}")


def _numbered(folder: Path, count: int) -> list[Path]:
    wanted = [folder / f"{i:05d}.flo" for i in range(count)]
    present = sorted(folder.glob("*.flo"))
    if present == wanted:
        return wanted
    missing = next((path.name for path in wanted if path not in present), None)
    raise MediaError(
        f"flows do not fit the clip: {missing} is missing" if missing else "flows do not fit the clip",
        where=folder,
        got=f"{len(present)} .flo files",
        expected=f"{count}, one for each pair of frames" + (f", to {wanted[-1].name}" if wanted else ""),
        hint="write forward/00000.flo (frame 0 to 1), backward/00000.flo (frame 1 to 0), and so on",
    )


def _sized(flow: np.ndarray, size_px: tuple[int, int], path: Path) -> np.ndarray:
    if flow.shape[:2] == tuple(size_px):
        return flow
    (height, width), (wanted_height, wanted_width) = flow.shape[:2], size_px
    raise MediaError(
        "a flow has another size than the result",
        where=path,
        got=f"{width}x{height}",
        expected=f"{wanted_width}x{wanted_height}",
        hint="find the flow of the source at the size of the result",
    )


def read_flo(path: Path) -> np.ndarray:
    """A flow from a `.flo` file.

    Returns:
        float32 [H, W, 2], pixels, x then y.

    Raises:
        MediaError: the file cannot be read, is none of this kind, or is cut or too long.
    """
    return _parse(_read(path), path)


def _read(path: Path) -> bytes:
    try:
        return read_bytes(path, MediaError, limit=MAX_FLOW_BYTES)
    except MediaError as error:
        raise MediaError(f"cannot read a flow: {error.what}", where=path, got=error.got) from error


def _parse(data: bytes, path: Path) -> np.ndarray:
    if data[:4] != MAGIC:
        raise MediaError("not a .flo file", where=path, got=f"first bytes {data[:4]!r}", expected=repr(MAGIC))
    if len(data) < HEADER_BYTES:
        raise MediaError("a damaged .flo file: its header is cut", where=path)
    width, height = (int(side) for side in np.frombuffer(data, "<i4", 2, offset=4))
    if not (0 < width <= LONGEST_PX and 0 < height <= LONGEST_PX):
        raise MediaError("a damaged .flo file: an impossible size", where=path, got=f"{width}x{height}")
    expected = HEADER_BYTES + 8 * width * height
    if len(data) != expected:
        raise MediaError(
            f"a damaged .flo file of {width}x{height}",
            where=path,
            got=f"{len(data)} bytes",
            expected=f"{expected} bytes",
        )
    flow = np.frombuffer(data, "<f4", offset=HEADER_BYTES)
    return flow.reshape(height, width, 2).astype(np.float32)


def write_flo(path: Path, flow: np.ndarray) -> None:
    """A flow to a `.flo` file; its folder is created.

    Args:
        flow: [H, W, 2], pixels, x then y; written as float32.

    Raises:
        MediaError: the file cannot be written.
        ValueError: another shape.
    """
    if flow.ndim != 3 or flow.shape[2] != 2 or flow.size == 0:
        raise ValueError(f"expected a flow [H, W, 2], got {list(flow.shape)}")
    size = np.array(flow.shape[1::-1], "<i4").tobytes()
    try:
        write_durably(path, MAGIC + size + flow.astype("<f4").tobytes())
    except OSError as error:
        raise MediaError(f"cannot write a flow: {error.strerror}", where=path) from error
