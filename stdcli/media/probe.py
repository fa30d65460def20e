"""What a clip is, exactly: displayed size, frame rate as a fraction, number of frames, streams.

There is no ffprobe: the first frame is decoded for the size as displayed, and the timestamps of all packets
are listed (a copy, not a decode) for rate and count. Where packets may not be frames one for one, the clip is
decoded. Knows nothing of pixels.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Literal, NamedTuple

from stdcli.errors import MediaError
from stdcli.media.appearance import Appearance
from stdcli.media.conversions import to_clip
from stdcli.media.ffmpeg import Finished, input_file, last_lines, run_ffmpeg
from stdcli.media.rates import constant_rate
from stdcli.media.video_codecs import has_alpha

VIDEO_STREAM = "0:V:0"  # V leaves cover pictures out
PACKETS_ARE_FRAMES = {"mov", "matroska"}, {"h264", "hevc", "vp9", "av1", "prores", "mjpeg"}
AS_TABLE = ("-f", "framecrc", "-")
AS_PACKETS = ("-c", "copy", "-copyinkf")
KEY_FLAG, DISCARD_FLAG = 0x1, 0x4

SIZE = re.compile(r"^#dimensions 0: (\d+)x(\d+)$", re.MULTILINE)
PIXEL_ASPECT = re.compile(r"^#sar 0: (\d+)/(\d+)$", re.MULTILINE)
TIME_BASE = re.compile(r"^#tb 0: (\d+)/(\d+)$", re.MULTILINE)
STREAM = re.compile(r"^ +Stream #0:(\d+)[^:]*: (Video|Audio|Subtitle): (\w+)(.*)$")
RATE = re.compile(r"([\d.]+)(k?) (?:fps|tbr)")
ROTATION = re.compile(r"display ?matrix: rotation of (-?[\d.]+) degrees", re.IGNORECASE)
START = re.compile(r"^  Duration: .*, start: (-?[\d.]+)", re.MULTILINE)
TRUNCATED = re.compile(r"partial file|File ended prematurely")
STILL_STREAM = re.compile(r"\((?:attached pic|timed thumbnails|still image)\)")
FLAGS = re.compile(r", F=0x([0-9A-Fa-f]+)")


Kind = Literal["Audio", "Subtitle"]


@dataclass(frozen=True)
class VideoInfo:
    """A clip as it is to be read and written again.

    Attributes:
        width, height: in pixels as displayed, rotation applied.
        fps: frames per second, exact.
        frames: number of frames; None if not known.
        duration_s: how long the pictures last; None if not known.
        start_s: how much later than the rest (sound) the pictures start.
        pixel_aspect: width of a pixel over its height.
        rotation: counter-clockwise in degrees, already applied.
        filters: ffmpeg's, which each frame passes first, such as a deinterlacer.
        mapping: filters that bring its colours to BT.709; none where they are.
        assumed_matrix: YUV matrix to read with where the file names none; None where it does.
        audio, subtitles: codec of each stream.
        resample: whether `fps` was asked for and differs from the clip's own.
        alpha: whether it has transparency.
        first: index of the first frame that counts; `frames` counts from there.
        is_cut: whether only a part was asked for.
        seekable: whether decoding may begin in the middle and meet the very same frames.
        decoder: ffmpeg's input options for reading it whole.
        path: the file; None if there is none.
        notes: what the user should know.
    """

    width: int
    height: int
    fps: Fraction
    frames: int | None = None
    duration_s: float | None = None
    start_s: Fraction = Fraction(0)
    pixel_aspect: Fraction = Fraction(1)
    rotation: float = 0.0
    filters: tuple[str, ...] = ()
    mapping: tuple[str, ...] = ()
    assumed_matrix: Literal["bt601", "bt709"] | None = None
    audio: tuple[str, ...] = ()
    subtitles: tuple[str, ...] = ()
    resample: bool = False
    alpha: bool = False
    first: int = 0
    is_cut: bool = False
    seekable: bool = False
    decoder: tuple[str, ...] = ()
    path: Path | None = None
    notes: tuple[str, ...] = ()

    @property
    def has_audio(self) -> bool:
        """Whether there is any sound."""
        return bool(self.audio)


class Stream(NamedTuple):
    """One line of ffmpeg's description of an input, with the lines that belong to it."""

    index: int
    kind: str
    codec: str
    description: str


class Timestamps(NamedTuple):
    """When frames are shown: ascending ticks of `tick_s` seconds."""

    ticks: list[int]
    tick_s: Fraction


def probe(path: Path, *, fps: Fraction | None = None) -> VideoInfo:
    """Measure a clip.

    Args:
        path: any video file that ffmpeg reads.
        fps: rate to resample to, by repeating and dropping frames at their times; None keeps the clip's own.

    Returns:
        Its facts.

    Raises:
        MediaError: no such file, no video in it, damaged, `fps` not positive, or frames not equally spaced in
            time (variable frame rate) while `fps` is None.
    """
    path = Path(path)
    if fps is not None and fps <= 0:
        raise MediaError("a frame rate must be positive", where=path, got=fps)
    first = _first_frame(path)
    size, aspect = SIZE.search(first.output), PIXEL_ASPECT.search(first.output)
    streams = _streams(first.log)
    picked = re.search(r"Stream #0:(\d+) -> #0:0", first.log)
    if size is None or picked is None:
        raise MediaError("the video cannot be read", where=path, got=last_lines(first.log))
    video = next(stream for stream in streams if stream.index == int(picked[1]))
    stated = [Fraction(number) * (1000 if kilo else 1) for number, kilo in RATE.findall(video.description)]
    times, own_rate = _timing(path, first.log, video, stated)
    rate = fps or own_rate
    if rate is None:
        raise _variable_rate(path, times, stated)
    count = len(times.ticks) if rate == own_rate else _count_resampled(path, rate)
    width, height = int(size[1]), int(size[2])
    look = Appearance.described(video.description, first.log)
    assumed = look.assumed_matrix(width, height)
    start = START.search(first.log)
    rotation = ROTATION.search(video.description)
    return VideoInfo(
        width=width,
        height=height,
        fps=rate,
        frames=count,
        duration_s=float(count / rate),
        start_s=max(Fraction(0), times.ticks[0] * times.tick_s - Fraction(start[1] if start else 0)),
        pixel_aspect=Fraction(int(aspect[1]), int(aspect[2])) if aspect and int(aspect[1]) else Fraction(1),
        rotation=float(rotation[1]) if rotation else 0.0,
        filters=look.deinterlacer(),
        mapping=look.mapping(assumed, alpha=_has_alpha(video), odd_sides=bool(width % 2 or height % 2)),
        assumed_matrix=assumed,
        audio=tuple(stream.codec for stream in streams if stream.kind == "Audio"),
        subtitles=tuple(stream.codec for stream in streams if stream.kind == "Subtitle"),
        resample=rate != own_rate,
        alpha=_has_alpha(video),
        seekable=_is_indexed(first.log, video) and look.parity is None,
        decoder=_decoder(video),
        path=path,
        notes=(*look.notes(path), *_stream_note(path, streams)),
    )


def cut(info: VideoInfo, *, start_s: Fraction | None, duration_s: Fraction | None) -> VideoInfo:
    """A part of a clip.

    Args:
        info: of the whole clip.
        start_s: from the first frame; the nearest frame is the first of the part.
        duration_s: of the part, at most what is there; None for up to the end.

    Returns:
        The same facts, with `first`, `frames`, `duration_s` and `is_cut` of the part.

    Raises:
        MediaError: nothing of the clip lies there.
    """
    if start_s is None and duration_s is None:
        return info
    first = round((start_s or 0) * info.fps)
    rest = info.frames - first
    frames = rest if duration_s is None else min(rest, max(1, round(duration_s * info.fps)))
    if rest < 1:
        raise MediaError(
            "the clip ends before --start",
            where=info.path,
            got=f"{float(start_s):g} s",
            expected=f"less than {info.duration_s:.6g} s",
        )
    return replace(info, first=first, frames=frames, duration_s=float(frames / info.fps), is_cut=True)


def list_streams(path: Path, kind: Kind) -> list[str]:
    """The codec of each stream of a kind, in order.

    Raises:
        MediaError: the file cannot be read.
    """
    described = run_ffmpeg(*input_file(path))
    if "Input #0" not in described.log:
        raise MediaError("cannot be read as sound or video", where=path, got=last_lines(described.log, 1))
    return [stream.codec for stream in _streams(described.log) if stream.kind == kind]


def count_packets(path: Path) -> int:
    """Number of coded pictures in a file that has one video stream."""
    return len(_listing(path, *AS_PACKETS)[1])


def _first_frame(path: Path) -> Finished:
    if not path.exists():
        raise MediaError("no such video", where=path)
    if path.is_dir():
        raise MediaError("a folder, not a video", where=path)
    done = run_ffmpeg(*input_file(path), "-map", VIDEO_STREAM, "-vf", "showinfo", "-frames:v", "1", *AS_TABLE)
    if done.code == 0:
        return done
    if "Format not on whitelist" in done.log:
        what = "not a video file, whatever its suffix says: a list of files, or an unknown container"
        raise MediaError(what, where=path, got=last_lines(done.log, 1), expected="one file that holds all")
    if "matches no streams" in done.log:
        raise MediaError("there is no video in this file", where=path)
    raise MediaError("not a video that can be read", where=path, got=last_lines(done.log, 2))


def _streams(log: str) -> list[Stream]:
    """Streams of the only input, in order; lines about a stream (rotation) follow it.

    ffmpeg prints the streams of a group (a video with its time code) before the others.
    """
    found: list[Stream] = []
    for line in log.partition("Stream mapping:")[0].splitlines():
        if start := STREAM.match(line):
            found.append(Stream(int(start[1]), start[2], start[3], start[4]))
        elif found:
            found[-1] = found[-1]._replace(description=f"{found[-1].description}\n{line}")
    return sorted(found)


def _timing(
    path: Path, log: str, video: Stream, stated: list[Fraction]
) -> tuple[Timestamps, Fraction | None]:
    """Timestamps of all frames, and the constant rate they have, if any."""
    if _is_indexed(log, video):
        times = _packet_times(path)
        rate = constant_rate(times.ticks, times.tick_s, stated) if times else None
        if times and rate:
            return times, rate
    times = _decoded_times(path)
    return times, constant_rate(times.ticks, times.tick_s, stated)


def _stream_note(path: Path, streams: list[Stream]) -> tuple[str, ...]:
    count = sum(s.kind == "Video" and not STILL_STREAM.search(s.description) for s in streams)
    if count < 2:
        return ()
    return (f"{path.name} has {count} video streams: the first is restyled, the others are left out",)


def _is_indexed(log: str, video: Stream) -> bool:
    """Whether every packet is a frame and has its time, so that counting and seeking need no decoding."""
    containers, codecs = PACKETS_ARE_FRAMES
    return any(f"Input #0, {name}" in log for name in containers) and video.codec in codecs


def _has_alpha(video: Stream) -> bool:
    named = re.match(r"[^,]*, (\w+)", video.description)
    in_side_data = re.search(r"alpha_mode *: 1", video.description, re.IGNORECASE)
    return bool(in_side_data) or bool(named and has_alpha(named[1]))


def _decoder(video: Stream) -> tuple[str, ...]:
    """ffmpeg's own VP8 and VP9 decoders skip transparency; libvpx reads it."""
    if video.codec in ("vp8", "vp9") and _has_alpha(video):
        return ("-c:v", "libvpx-vp9" if video.codec == "vp9" else "libvpx")
    return ()


def _count_resampled(path: Path, fps: Fraction) -> int:
    return len(_listing(path, "-vf", f"fps={fps}", "-fps_mode", "passthrough")[1])


def _packet_times(path: Path) -> Timestamps | None:
    """When packets are shown; None where a decoder may leave some out (a cut inside a group of pictures)."""
    listing, lines = _listing(path, *AS_PACKETS)
    flags = [int(match[1], 16) if (match := FLAGS.search(line)) else KEY_FLAG for line in lines]
    if not flags[0] & KEY_FLAG or any(flag & DISCARD_FLAG for flag in flags):
        return None
    times = _parse_times(listing, lines)
    first_shown = int(lines[0].split(",")[2])
    return times if times.ticks[0] == first_shown else None


def _decoded_times(path: Path) -> Timestamps:
    return _parse_times(*_listing(path, "-fps_mode", "passthrough", "-enc_time_base", "demux"))


def _listing(path: Path, *options: str) -> tuple[str, list[str]]:
    """ffmpeg's table of packets or frames, whole and without its header."""
    arguments = ["-map", VIDEO_STREAM, *options, "-copyts", *AS_TABLE]
    done = run_ffmpeg("-loglevel", "error", *input_file(path), *arguments)
    lines = [line for line in done.output.splitlines() if not line.startswith("#")]
    if done.code != 0 or not lines or TRUNCATED.search(done.log):
        hint = f"to keep what is there: {to_clip(path, path.with_name(f'{path.stem}-rest.mp4'))}"
        got = last_lines(done.log, 1)
        raise MediaError("the video is damaged or truncated", where=path, got=got, hint=hint)
    return done.output, lines


def _parse_times(listing: str, lines: list[str]) -> Timestamps:
    base = TIME_BASE.search(listing)
    return Timestamps(sorted(int(line.split(",")[2]) for line in lines), Fraction(int(base[1]), int(base[2])))


def _variable_rate(path: Path, times: Timestamps, stated: list[Fraction]) -> MediaError:
    gaps = [float((b - a) * times.tick_s) for a, b in zip(times.ticks, times.ticks[1:], strict=False)]
    got = f"gaps from {1000 * min(gaps):.4g} to {1000 * max(gaps):.4g} ms" if gaps else "a single frame"
    rate = round(stated[-1]) if stated and round(stated[-1]) > 0 else 30
    return MediaError(
        "the frames are not equally spaced in time (variable frame rate)",
        where=path,
        got=got,
        hint=f"add --fps {rate} to resample to a constant rate; the length stays",
    )
