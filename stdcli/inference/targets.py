"""What is to be made of each input, and whether it can be: settled before any model is loaded."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache, partial
from pathlib import Path

from stdcli.config.inpaint import FROM_ALPHA, InpaintConfig
from stdcli.config.schema import StylizeConfig
from stdcli.errors import ConfigError, MediaError, ResourceError
from stdcli.inference.input_masks import Mask, plan_mask
from stdcli.inference.job import Job, read_metadata
from stdcli.inference.outputs import find_inputs, given_values, is_made_by, is_numbered, output_paths
from stdcli.inference.sinks import FramesSink, Sink, VideoSink, check_frames
from stdcli.media.containers import encoding_for
from stdcli.media.embedded_recipe import KEY
from stdcli.media.image import Picture, check_image, read_image
from stdcli.media.mux import Companions, find_companions
from stdcli.media.output import check_length, existing_folder
from stdcli.media.probe import VideoInfo, cut, probe
from stdcli.media.sequence import Numbered, check_pattern, probe_sequence, sequence_files
from stdcli.media.sources import MediaSource, is_pattern, left_out_note
from stdcli.media.video import encoding_notes
from stdcli.media.video_codecs import Encoding

PNG_BYTES_PER_PIXEL = 1.5
CHECKED_PICTURES = 16
"""Of so many inputs each is looked at before the model is loaded; of more, each at its turn."""


@dataclass(frozen=True)
class Clip:
    """A clip on its way: what comes in, what goes out.

    Attributes:
        info: of the frames; without `alpha` where the result cannot keep it.
        encoding: of the result's pictures; None for numbered pictures.
        companions: sound and the rest.
        numbered: names of the results; None for a video file.
        notes: what the user should know.
    """

    info: VideoInfo
    encoding: Encoding | None
    companions: Companions
    numbered: Numbered | None
    notes: tuple[str, ...]

    def open_sink(self, output: Path, job: Job, *, recipe: str | None) -> Sink:
        """Where the frames go; `recipe` is JSON to be stored inside."""
        if self.numbered is not None:
            return FramesSink(self.numbered, job, text={} if recipe is None else {KEY: recipe})
        return VideoSink(
            output,
            job,
            info=self.info,
            encoding=self.encoding,
            companions=self.companions,
            comment=recipe,
        )


@dataclass(frozen=True)
class Target:
    """One input and where its result goes.

    Attributes:
        source: the input.
        path: of the result.
        clip: what is special about clips; None for pictures.
        mask: where to repaint; None for everywhere.
    """

    source: MediaSource
    path: Path
    clip: Clip | None
    mask: Mask | None = None


@dataclass(frozen=True)
class JobPlan:
    """What a run will do.

    Attributes:
        targets: what is to be made.
        styles: style pictures.
        finished: results that an earlier run of the same command has made.
        refused: inputs among several that cannot be had, with the reason.
        left_out: a sentence that names pictures and clips of kinds that are not read; None for none.
    """

    targets: list[Target]
    styles: list[Picture]
    finished: list[Path]
    refused: list[tuple[MediaSource, MediaError]]
    left_out: str | None = None


def plan(
    config: StylizeConfig, names: Sequence[str], *, output: str | None, overwrite: bool, metadata: bool
) -> JobPlan:
    """Find all inputs and settle what becomes of each; nothing is loaded and nothing written.

    Args:
        config: the user's values.
        names: files, folders, globs, numbered pictures.
        output: what the user asked for; see `output_paths`.
        overwrite: whether results may replace files.
        metadata: whether a record goes beside each result.

    Raises:
        ConfigError: values that do not fit the inputs, or no style.
        MediaError: the only input, or a style picture, cannot be read; a result cannot be written.
        ResourceError: not enough disk space.
    """
    inpaints = isinstance(config, InpaintConfig)
    if not inpaints:
        check_styled(config)
    left_out: list[Path] = []
    sources = [source for name in names for source in find_inputs(name, left_out=left_out)]
    if inpaints and len(sources) > 1:
        raise MediaError("one input at a time", where=names[0], got=f"{len(sources)} files")
    styles = [read_style(path) for path in config.style]
    protected = _styles_and_mask(config)
    others = [*protected, *_student_files(config)]

    given = given_values(config)

    @cache
    def is_finished(source: MediaSource, path: Path) -> bool:
        return len(sources) > 1 and not overwrite and is_made_by(path, given, source, others)

    paths = output_paths(
        sources,
        output,
        overwrite=overwrite,
        metadata=metadata,
        lossless=inpaints,
        protected=protected,
        is_finished=is_finished,
    )
    targets, finished, refused = [], [], []
    for source, path in zip(sources, paths, strict=True):
        if is_finished(source, path):
            finished.append(path)
            continue
        try:
            if source.kind == "image" and len(sources) <= CHECKED_PICTURES:
                check_image(source.path)
            clip = None if source.kind == "image" else _plan_clip(config, source, path, overwrite)
        except MediaError as error:
            if len(sources) == 1:
                raise
            refused.append((source, error))
            continue
        mask = _plan_mask(config, source, clip) if inpaints else None
        targets.append(Target(source, path, clip, mask))
    return JobPlan(targets, styles, finished, refused, left_out_note(left_out))


def _plan_mask(config: InpaintConfig, source: MediaSource, clip: Clip | None) -> Mask:
    info = None if clip is None else clip.info
    measure = partial(_measure, config, rate=info and info.fps)
    return plan_mask(config, source.path, clip=info, measure=measure)


def _student_files(config: StylizeConfig) -> list[Path]:
    """Files of a local student, which may be trained further under the same name."""
    path = Path(config.student or "").expanduser()
    try:
        if config.student is None or not path.is_dir():
            return [path] if config.student is not None and path.is_file() else []
    except OSError:  # a name too long for anything; loading says so
        return []
    inner = path / "student"
    return sorted((inner if inner.is_dir() else path).rglob("*.safetensors"))


def check_styled(config: StylizeConfig) -> None:
    """Refuse to restyle in no style.

    Raises:
        ConfigError: neither a style picture nor a prompt.
    """
    if not config.style and not config.prompt:
        raise ConfigError(
            "no style to paint in", [("--style", "name a picture")], hint="stdcli stylize IN --style REF"
        )


def read_style(path: str | Path) -> Picture:
    """Read a style picture.

    Raises:
        MediaError: it cannot be read.
    """
    try:
        return read_image(Path(path))
    except MediaError as error:
        error.where = f"--style {path}"
        raise


def _plan_clip(config: StylizeConfig, source: MediaSource, path: Path, overwrite: bool) -> Clip:
    info = _measure(config, source)
    if is_numbered(source, path):
        return _plan_frames(config, source, path, info, overwrite)
    encoding = encoding_for(
        path,
        (info.height, info.width),
        alpha=info.alpha,
        codec=config.codec,
        crf=config.crf,
        pixels=config.pix_fmt,
    )
    companions = find_companions(source.path if source.kind == "video" else None, path, audio=config.audio)
    _check_space(path, info, encoding.codec.bytes_per_pixel)
    notes = (*info.notes, *companions.notes, *encoding_notes(info, encoding))
    return Clip(replace(info, alpha=encoding.alpha), encoding, companions, None, notes)


def _plan_frames(
    config: StylizeConfig, source: MediaSource, path: Path, info: VideoInfo, overwrite: bool
) -> Clip:
    check_pattern(path)
    given = [
        (f"--{name}", "belongs to video files")
        for name in ("codec", "crf")
        if getattr(config, name) is not None
    ]
    if given:
        raise ConfigError("numbered pictures are not coded as a video", given)
    numbered = Numbered(path)
    if source.kind == "sequence":
        numbered = Numbered(path, Numbered.starting_at(source.path).first + info.first)
    check_length(numbered.file(info.frames - 1))
    _check_apart(numbered, info.frames, [source.path, *_styles_and_mask(config)])
    if read_metadata(path.parent).get("results") != str(numbered):
        check_frames(numbered, info.frames, overwrite=overwrite)
    _check_space(path, info, PNG_BYTES_PER_PIXEL)
    sound = ("numbered pictures hold no sound: it is left out",) if info.has_audio and config.audio else ()
    return Clip(info, None, Companions(), numbered, (*info.notes, *sound))


def _measure(config: StylizeConfig, source: MediaSource, *, rate: Fraction | None = None) -> VideoInfo:
    """What a clip is, cut as the user said; `rate` is that of numbered pictures."""
    fps = None if config.fps is None else Fraction(config.fps)
    if source.kind == "sequence":
        info = probe_sequence(source.path, fps=rate or fps)
    else:
        info = probe(source.path, fps=fps)
    start, duration = (
        None if value is None else Fraction(str(value)) for value in (config.start, config.duration)
    )
    return cut(info, start_s=start, duration_s=duration)


def _styles_and_mask(config: StylizeConfig) -> list[Path]:
    paths = [Path(style) for style in config.style]
    if isinstance(config, InpaintConfig) and config.mask not in (None, FROM_ALPHA):
        paths.append(Path(config.mask).expanduser())
    return paths


def _check_apart(numbered: Numbered, frames: int, inputs: Sequence[Path]) -> None:
    """Refuse numbered results that would replace what is still to be read."""
    files = [file for path in inputs for file in (sequence_files(path) if is_pattern(path) else [path])]
    folder = numbered.pattern.parent.resolve()
    names = {file.name for file in files if file.parent.resolve() == folder}
    for file in map(numbered.file, range(frames)):
        if file.name in names:
            raise MediaError("an output is an input of this run", where=file, hint="choose another name")


def _check_space(path: Path, info: VideoInfo, bytes_per_pixel: float) -> None:
    """Refuse what the disk surely cannot hold: a clip is there twice, as segments and joined."""
    folder = existing_folder(path)
    needed = 2 * info.frames * info.width * info.height * bytes_per_pixel
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ResourceError(
            "the disk is too small for the result",
            where=folder,
            got=f"{free / 1e9:.2f} GB free",
            expected=f"about {needed / 1e9:.2f} GB",
            hint="free some space, or write elsewhere with -o",
        )
