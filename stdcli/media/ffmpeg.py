"""Running the ffmpeg binary that imageio-ffmpeg brings (or IMAGEIO_FFMPEG_EXE names).

Everything about processes and their messages; nothing about frames. Inputs are opened as local files only, of
formats that are known to refer to no others.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, NamedTuple

from stdcli.errors import MediaError

ADDRESS = re.compile(r"\[[^\]]* @ 0x[0-9a-f]+\] ")  # which of ffmpeg's objects speaks
AFTERMATH = re.compile(
    r"^frame=|Task finished|Terminating thread|Nothing was written|Conversion failed|Last message rep"
)


MAX_PIXELS = 150_000_000
"""Of a frame; a damaged header may claim any size."""


FORMATS = ("mov", "matroska", "avi", "mpegts", "mpeg", "mpegvideo", "flv", "asf", "ogg", "wav")
"""What an input may be: containers that hold all there is, and no lists of files (DASH, HLS, ffconcat)."""


class Finished(NamedTuple):
    """A run that has ended."""

    code: int
    output: str
    log: str


def ffmpeg_command(*arguments: str) -> list[str]:
    """A whole command line: the binary, the options every run has, and `arguments`.

    Raises:
        MediaError: there is no binary.
    """
    import imageio_ffmpeg

    try:
        binary = imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError as error:
        hint = "pip install imageio-ffmpeg, or set IMAGEIO_FFMPEG_EXE to an ffmpeg 6.1 or newer"
        raise MediaError("no ffmpeg was found", hint=hint) from error
    return [binary, "-hide_banner", "-nostdin", "-nostats", *arguments]


def input_file(path: Path, *, formats: Sequence[str] = FORMATS) -> list[str]:
    """Options that open `path` as a file, whatever its name looks like.

    It may be of `formats` only, going by its content, none of which names further files, and whatever it
    refers to is looked for among local files.

    Args:
        path: the input.
        formats: ffmpeg's names of the demuxers that may read it.
    """
    return _input(f"file:{path}", "file", formats)


def input_pipe(*options: str) -> list[str]:
    """Options that read raw frames, described by `options`, from standard input."""
    return ["-f", "rawvideo", *options, *_input("pipe:0", "pipe", ("rawvideo",))]


def _input(address: str, protocol: str, formats: Sequence[str]) -> list[str]:
    """The only place that opens anything: no demuxer that follows a list to other files, no network."""
    limits = ["-format_whitelist", ",".join(formats), "-protocol_whitelist", protocol]
    return [*limits, "-max_pixels", str(MAX_PIXELS), "-i", address]


def run_ffmpeg(*arguments: str) -> Finished:
    """Run to the end; the caller judges the exit code."""
    command = ffmpeg_command(*arguments)
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    return Finished(done.returncode, _decoded(done.stdout), _decoded(done.stderr))


def start_ffmpeg(*arguments: str, log: IO[bytes], writes: bool) -> subprocess.Popen[bytes]:
    """Start a run whose standard output (or, with `writes`, input) is a pipe.

    It has a session of its own, so Ctrl-C reaches only the caller, who decides what becomes of it.

    Args:
        arguments: as for `run_ffmpeg`.
        log: binary file that receives its messages.
        writes: whether the caller writes to it; else the caller reads from it.
    """
    return subprocess.Popen(
        ffmpeg_command(*arguments),
        stdin=subprocess.PIPE if writes else subprocess.DEVNULL,
        stdout=subprocess.DEVNULL if writes else subprocess.PIPE,
        stderr=log,
        start_new_session=True,
    )


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a run at once, if it has not ended, and close its pipes."""
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(OSError):  # what was still in the buffer has nowhere to go
                pipe.close()


def last_lines(log: str | IO[bytes], count: int = 4) -> str:
    """What ffmpeg said last of any use, for an error message."""
    if not isinstance(log, str):
        log.seek(0)
        log = _decoded(log.read())
    lines = [line.strip() for line in ADDRESS.sub("", log).splitlines() if line.strip()]
    lines = [line for line in lines if not AFTERMATH.search(line)] or lines
    return "; ".join(lines[-count:]) or "ffmpeg gave no reason"


def _decoded(data: bytes) -> str:
    return data.decode("utf-8", errors="replace")
