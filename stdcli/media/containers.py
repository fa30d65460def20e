"""What each video container holds, and which of a source's streams it takes as they are."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from stdcli.errors import ConfigError, MediaError
from stdcli.media.ffmpeg import input_file, last_lines, run_ffmpeg
from stdcli.media.probe import Kind, list_streams
from stdcli.media.video_codecs import Encoding, choose_encoding


@dataclass(frozen=True)
class Container:
    """A file format for results.

    Attributes:
        muxer: ffmpeg's name.
        codecs: what pictures may be coded with, the usual one first.
        alpha_codec: the usual one for transparent clips; None if there is none.
        audio, subtitle: encoder where a stream cannot be copied.
        muxer_options: further options.
    """

    muxer: str
    codecs: tuple[str, ...]
    alpha_codec: str | None
    audio: str
    subtitle: str
    muxer_options: tuple[str, ...] = ()


FAST_START = ("-movflags", "+faststart", "-write_tmcd", "0")
REPEATABLE = ("-fflags", "+bitexact")  # no random identifiers, no date

CONTAINERS = {
    ".mp4": Container("mp4", ("h264", "hevc", "av1", "vp9"), None, "aac", "mov_text", FAST_START),
    ".m4v": Container("mp4", ("h264", "hevc"), None, "aac", "mov_text", FAST_START),
    ".mov": Container("mov", ("h264", "hevc", "prores"), "prores", "aac", "mov_text", FAST_START),
    ".mkv": Container(
        "matroska", ("h264", "hevc", "vp9", "av1", "prores", "ffv1"), "ffv1", "aac", "srt", REPEATABLE
    ),
    ".webm": Container("webm", ("vp9", "av1"), "vp9", "libopus", "webvtt", REPEATABLE),
}


def container_of(path: Path) -> Container:
    """The container a suffix stands for.

    Raises:
        MediaError: none; for .gif, why.
    """
    container = CONTAINERS.get(path.suffix.lower())
    if container is None and path.suffix.lower() == ".gif":
        hint = f"write {path.stem}.mp4"
        raise MediaError("GIF holds 256 colours, no sound and no exact frame rate", where=path, hint=hint)
    if container is None:
        raise MediaError("no video container has this suffix", where=path, expected=" ".join(CONTAINERS))
    return container


def encoding_for(
    path: Path,
    size_px: tuple[int, int],
    *,
    alpha: bool,
    codec: str | None = None,
    crf: int | None = None,
    pixels: str | None = None,
) -> Encoding:
    """How the pictures of a result are coded: as asked, else as is usual in its container.

    Args:
        path: the result; its suffix chooses the container.
        size_px: (H, W).
        alpha: whether the clip has transparency, which asks for a codec that keeps it, where there is one.
        codec: name asked for, or None.
        crf, pixels: see `choose_encoding`.

    Raises:
        ConfigError: the container cannot hold the codec, or see `choose_encoding`.
        MediaError: see `container_of`.
    """
    container = container_of(path)
    alpha = alpha and container.alpha_codec is not None
    if codec is None:
        codec = container.alpha_codec if alpha else container.codecs[0]
    if codec not in container.codecs:
        problem = f"{path.suffix} holds {', '.join(container.codecs)}; got {codec}"
        raise ConfigError("the container cannot hold this codec", [("--codec", problem)])
    return choose_encoding(codec, size_px, alpha=alpha, crf=crf, pixels=pixels)


def stream_plan(
    source: Path, path: Path, container: Container, *, audio: bool = True
) -> tuple[list[str], list[str]]:
    """Find out by trying which sound and subtitle streams can be copied; re-encode the others.

    Args:
        source: the file they come from, ffmpeg's input 1.
        path: the result, for messages.
        container: of the result.
        audio: whether sound is wanted.

    Returns:
        (output options, notes).

    Raises:
        MediaError: `source` cannot be read, or none of its sound can be copied or re-encoded.
    """
    options: list[str] = []
    notes: list[str] = []
    for kind, letter, encoder in (("Audio", "a", container.audio), ("Subtitle", "s", container.subtitle)):
        if kind == "Audio" and not audio:
            continue
        count, lost = 0, None
        for index, codec in enumerate(list_streams(source, kind)):
            name, specifier = f"{kind.lower()} stream {index + 1} ({codec})", f"{letter}:{index}"
            choice = "copy"
            if _refusal(source, specifier, "copy", container, stored_as=(kind, codec)):
                choice = encoder
                refusal = _refusal(source, specifier, encoder, container)
                fate = "was left out" if refusal else f"was re-encoded with {encoder}"
                notes.append(f"{name} {fate}: {path.suffix} cannot hold it as it is")
                if refusal:
                    lost = lost or (name, refusal)
                    continue
            options += ["-map", f"1:{specifier}", f"-c:{letter}:{count}", choice]
            count += 1
        if kind == "Audio" and lost and not count:
            hint = (
                "add --no-audio"
                if path.suffix.lower() == ".mkv"
                else f"write {path.stem}.mkv, or add --no-audio"
            )
            raise MediaError(f"{lost[0]} cannot be kept", where=path, got=lost[1], hint=hint)
    return options, notes


def _refusal(
    source: Path,
    specifier: str,
    encoder: str,
    container: Container,
    *,
    stored_as: tuple[Kind, str] | None = None,
) -> str | None:
    """Why the beginning of a stream cannot be stored so, or come back as `stored_as`; None if it can."""
    with tempfile.TemporaryDirectory() as folder:
        trial = Path(folder) / "trial"
        target = ["-frames", "1", "-f", container.muxer, f"file:{trial}"]
        choice = ["-map", f"0:{specifier}", "-c", encoder]
        done = run_ffmpeg("-loglevel", "error", *input_file(source), *choice, *target)
        if done.code != 0:
            return last_lines(done.log, 2)
        if stored_as and list_streams(trial, stored_as[0]) != [stored_as[1]]:
            return f"{container.muxer} does not say which codec it holds"  # MOV does so with WMA
    return None
