"""Putting a clip together: coded pictures, with the sound, subtitles, chapters and tags of their source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from stdcli.errors import MediaError
from stdcli.media.containers import container_of, stream_plan
from stdcli.media.encode import write_failure
from stdcli.media.ffmpeg import input_file, last_lines, run_ffmpeg
from stdcli.media.probe import VideoInfo, count_packets
from stdcli.media.video_codecs import Encoding

MIN_CLOCK_HZ = 10_000  # frames fall on the clock exactly, a delay to a tenth of a millisecond


@dataclass(frozen=True)
class Companions:
    """What comes along from a source beside its pictures.

    Attributes:
        source: the file; None for a silent clip.
        options: ffmpeg's output options for its streams.
        notes: what the user should know, such as sound that is re-encoded.
    """

    source: Path | None = None
    options: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def find_companions(source: Path | None, output: Path, *, audio: bool = True) -> Companions:
    """See what of a source can come along into `output`, by trying.

    Args:
        source: where sound, subtitles, chapters and tags come from; None for nothing.
        output: the result; its suffix chooses the container.
        audio: whether sound is wanted; subtitles, chapters and tags come in any case.

    Raises:
        MediaError: see `stream_plan`.
    """
    if source is None:
        return Companions()
    options, notes = stream_plan(source, output, container_of(output), audio=audio)
    return Companions(source, tuple(options), tuple(notes))


def join(
    parts: Sequence[Path],
    target: Path,
    *,
    output: Path,
    info: VideoInfo,
    encoding: Encoding,
    count: int,
    companions: Companions,
    comment: str | None,
) -> None:
    """Write a whole clip.

    Frame k is shown at exactly start + k / fps: segments' own clocks are rounded to that grid.

    Args:
        parts: files by `PictureWriter`, all in one folder, in order.
        target: file to write; replaced if it exists.
        output: the name it will have; its suffix chooses the container, and errors name it.
        info: rate and start; `first` and `is_cut` say which part of the source's sound belongs to it.
        encoding: of the parts.
        count: frames in all parts together.
        companions: sound and the rest.
        comment: for the container's comment tag; the recipe as JSON, where `read_recipe` finds it.

    Raises:
        MediaError: ffmpeg failed, or frames were lost.
        ResourceError: the disk is full.
    """
    container = container_of(output)
    listing = parts[0].with_name("segments.txt")
    listing.write_text("ffconcat version 1.0\n" + "".join(f"file {part.name}\n" for part in parts))
    pictures = ["-f", "concat", *input_file(listing, formats=("concat", "mov", "matroska"))]
    source = [] if companions.source is None else [*_window(info, count), *input_file(companions.source)]
    prior = ["-copypriorss", "0"] if info.is_cut and source else []  # copied sound begins where it should
    tags = [] if companions.source is None else ["-map_metadata", "1", "-map_chapters", "1"]
    tags += [] if comment is None else ["-metadata", f"comment={comment}"]
    coding = ["-map", "0:v:0", "-c:v", "copy", "-bsf:v", f"setts={_grid(info)}"]
    if encoding.codec.tag and container.muxer in ("mp4", "mov"):
        coding += ["-tag:v", encoding.codec.tag]
    ending = [*container.muxer_options, "-f", container.muxer, f"file:{target}"]
    done = run_ffmpeg(
        "-y", "-loglevel", "warning", *pictures, *source, *coding, *companions.options, *prior, *tags, *ending
    )
    if done.code != 0:
        raise write_failure(output, last_lines(done.log))
    stored = count_packets(target)
    if stored != count:
        raise MediaError("frames were lost in writing", where=output, got=stored, expected=count)


def _grid(info: VideoInfo) -> str:
    """Options that put every timestamp on the grid of frames, later by the clip's start."""
    start_s = 0 if info.first else info.start_s
    rate = f"{info.fps.numerator}/{info.fps.denominator}"
    clock_hz = info.fps.numerator
    while clock_hz < MIN_CLOCK_HZ:
        clock_hz *= 2

    def shifted(stamp: str) -> str:
        return f"round((round({stamp}*TB_OUT*{rate})/({rate})+{float(start_s):.9f})/TB_OUT)"

    return f"time_base=1/{clock_hz}:prescale=1:pts='{shifted('PTS')}':dts='{shifted('DTS')}'"


def _window(info: VideoInfo, count: int) -> list[str]:
    """Which part of the source's sound goes with the pictures; all of it unless the clip is cut."""
    if not info.is_cut:
        return []
    begin_s = info.start_s + info.first / info.fps if info.first else Fraction(0)
    length_s = count / info.fps + (0 if info.first else info.start_s)
    return ["-ss", f"{float(begin_s):.6f}", "-t", f"{float(length_s):.6f}"]
