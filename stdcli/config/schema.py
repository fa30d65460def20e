"""Schemas: one frozen pydantic model per task, unknown keys refused.

A task's class holds what a user may set; `config/tasks.py` lists the tasks. In a task's class None means "not
set: the model's own recipe decides". Knows nothing of files, layers or torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fractions import Fraction
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from stdcli.config.quantities import split_scale


class Section(BaseModel):
    """Base of every schema: frozen, closed, finite numbers only, and `no` is never a number.

    YAML reads `no` as False and pydantic takes False for 0, hence the check. Subclasses yield contradictions
    from `conflicts`; all of them are reported at once.
    """

    mutually_exclusive: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Values that say the same in another way: where a layer gives one, what lower layers say of the others
    is dropped."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_bool_for_number(cls, value: Any, info: Any) -> Any:
        if _holds_bool(value) and not _admits_bool(cls.model_fields[info.field_name].annotation):
            raise ValueError(
                "a truth value (yes, no, true, false) where another kind of value belongs; quote text"
            )
        return value

    @model_validator(mode="after")
    def _refuse_conflicts(self) -> Section:
        found = list(self.conflicts())
        if found:
            message = "; ".join(f"{path}: {reason}" for path, reason in found)
            raise PydanticCustomError("conflicts", "{message}", {"message": message, "problems": found})
        return self

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """Yield (field, reason) for values that are right alone and wrong together."""
        yield from ()


def _holds_bool(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return any(_holds_bool(item) for item in value)
    return isinstance(value, bool)


def _admits_bool(annotation: Any) -> bool:
    if get_origin(annotation) is Literal:
        return False
    return annotation in (bool, Any) or any(_admits_bool(part) for part in get_args(annotation))


def split_numbers(value: Any) -> Any:
    """ "739,559" -> ["739", "559"], and one number -> a list of one."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",")]
    return [value] if isinstance(value, int | float) else value


def wrap_text(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _keep_bytes(value: Any, check: ValidatorFunctionWrapHandler) -> Any:
    """Names of files need not be UTF-8: Python keeps their bytes as surrogates, which pydantic refuses."""
    try:
        if isinstance(value, str):
            value.encode()
    except UnicodeEncodeError:
        return value
    return check(value)


def _check_text(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("is not UTF-8 text") from None
    return value


def _without_point(value: float) -> float:
    """A whole number as an int, which it is shown and stored as."""
    return int(value) if value == int(value) else value


def _check_decreasing(value: tuple[float, ...]) -> tuple[float, ...]:
    if any(later >= earlier for earlier, later in pairwise(value)):
        raise ValueError("must decrease: the path runs from noise to the picture")
    return value


def _check_lora(value: str) -> str:
    split_scale(value)
    return value


def _check_frame_rate(value: Any) -> Any:
    """A number or fraction of frames per second, kept as text so that 30000/1001 stays exact."""
    if not isinstance(value, str | int | float):
        return value
    try:
        rate = Fraction(str(value))
    except (ValueError, ZeroDivisionError):
        raise ValueError("must be a number or a fraction, such as 25 or 30000/1001") from None
    if not 0 < rate <= 1000:
        raise ValueError("must be more than 0 and at most 1000 frames per second")
    return str(rate)


def _read_seconds(value: Any) -> Any:
    """ "1:02.5" -> 62.5; plain numbers stay."""
    if not isinstance(value, str) or ":" not in value:
        return value
    parts = value.split(":")
    try:
        return sum(float(part) * 60**index for index, part in enumerate(reversed(parts)))
    except ValueError:
        raise ValueError("must be seconds or h:m:s, such as 62.5 or 1:02.5") from None


_DTYPE_ALIASES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16", "half": "float16"}

Count = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Text = Annotated[str, Field(min_length=1), WrapValidator(_keep_bytes)]
Prompt = Annotated[
    str, BeforeValidator(lambda value: _check_text(value) if isinstance(value, str) else value)
]
Texts = Annotated[tuple[Text, ...], BeforeValidator(wrap_text)]
Numbers = Annotated[tuple[float, ...], BeforeValidator(split_numbers)]
Timestep = Annotated[
    float, Field(ge=1), AfterValidator(_without_point), PlainSerializer(lambda t: t)
]  # of flow models any number
Timesteps = Annotated[
    tuple[Timestep, ...],
    Field(min_length=1),
    BeforeValidator(split_numbers),
    AfterValidator(_check_decreasing),
]
FrameRate = Annotated[str, BeforeValidator(_check_frame_rate)]
Seconds = Annotated[float, Field(ge=0), BeforeValidator(_read_seconds)]
PositiveSeconds = Annotated[float, Field(gt=0), BeforeValidator(_read_seconds)]
Temporal = Literal["off", "blend", "flow"]
VideoCodec = Literal["h264", "hevc", "vp9", "av1", "prores", "ffv1"]
Loras = Annotated[tuple[Annotated[Text, AfterValidator(_check_lora)], ...], BeforeValidator(wrap_text)]
Steps = Annotated[int, Field(ge=1, le=1000)]
Strength = Annotated[float, Field(gt=0, le=1)]
Guidance = Annotated[float, Field(ge=0)]
Gamma = Annotated[float, Field(ge=0, le=1)]
Sampler = Literal["jump", "renoise"]
Final = Literal["level0", "x0"]
Pooled = Literal["zero", "keep"]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Device = Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")]
Dtype = Annotated[
    Literal["auto", "float32", "bfloat16", "float16"],
    BeforeValidator(lambda value: _DTYPE_ALIASES.get(value, value) if isinstance(value, str) else value),
]


def sampling_conflicts(
    *, steps: int | None, timesteps: tuple[float, ...] | None, gamma: float | None, sampler: str | None
) -> Iterator[tuple[str, str]]:
    """Contradictions among the sampling values that recipes and tasks share."""
    if steps is not None and timesteps is not None and steps != len(timesteps):
        yield "timesteps", f"{len(timesteps)} timesteps cannot be {steps} steps; give one of the two"
    if gamma and sampler == "renoise":
        yield "gamma", "belongs to the sampler 'jump'; 'renoise' already draws fresh noise at every step"


class StylizeConfig(Section):
    """`stdcli stylize`: repaint pictures and videos in a style."""

    mutually_exclusive: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "timesteps": ("steps",),
        "steps": ("timesteps",),
        "strength": ("timesteps",),
    }

    model: Text = "embedded"
    """'embedded', a folder, a single file or a Hub id."""
    base: Text | None = None
    """Folder or Hub id with the configs and tokenizers of a single-file model."""
    student: Text | None = None
    """A distilled student of the model: the folder of a run, a folder, a LoRA file or a Hub id; 'none' is the
    model itself. Not set: the embedded model's own student, other models none."""
    style: Texts = ()
    """Style pictures."""
    style_weights: Numbers | None = None
    """One weight per style picture; only their ratio counts."""
    style_scale: Annotated[float, Field(ge=0)] | None = None
    """Strength of the style tokens (IP-Adapter scale); 0 switches them off."""
    prompt: Prompt | None = None
    negative_prompt: Prompt | None = None
    pooled: Pooled = "zero"
    """Pooled text embedding of SDXL's unconditional branch: zeros (or the negative prompt's), or "keep" the
    prompt's, as the code of Single Trajectory Distillation does."""
    lora: Loras = ()
    """More adapters, each 'path' or 'path:scale'."""
    steps: Steps | None = None
    """Evaluations of the student."""
    timesteps: Timesteps | None = None
    """Exact timesteps, falling, instead of steps and strength."""
    strength: Strength | None = None
    """Noise fraction where the path starts; 1 ignores the input."""
    guidance: Guidance | None = None
    """Classifier-free guidance in the form of diffusers; 1 is off."""
    gamma: Gamma | None = None
    """Stochasticity of the sampler 'jump'; 0 is deterministic."""
    sampler: Sampler | None = None
    final: Final | None = None
    match_style_statistics: bool | None = None
    """Give the start latent the per-channel mean and deviation of the style picture's (AdaIN)."""
    num_solver_steps: Steps | None = None
    """Rows of the level table."""
    seed: Seed = 0
    max_size: Annotated[int, Field(ge=32)] | None = None
    """Longest side in pixels while computing; the output keeps the input's size."""
    batch: Annotated[int, Field(ge=1)] | None = None
    """Frames of a clip per forward."""
    fps: FrameRate | None = None
    """Resample clips to this frame rate, such as 25 or 30000/1001; else they keep their own."""
    start: Seconds | None = None
    """Where in a clip to begin, in seconds or h:m:s."""
    duration: PositiveSeconds | None = None
    """How much of a clip to restyle, in seconds or h:m:s."""
    temporal: Temporal = "flow"
    """How frames of a clip are kept steady beyond their common noise: 'blend' mixes in the last result where
    the source stands still, 'flow' also where it moves, 'off' nowhere."""
    codec: VideoCodec | None = None
    """How pictures of a clip are coded; else as is usual in the container."""
    crf: Annotated[int, Field(ge=0, le=63)] | None = None
    """Quality in the codec's scale; lower is better and larger."""
    pix_fmt: Text | None = None
    """Pixel format of a clip, by ffmpeg's name."""
    audio: bool = True
    """Whether sound comes along."""
    dtype: Dtype = "auto"
    device: Device = "auto"
    offline: bool = False

    def conflicts(self) -> Iterator[tuple[str, str]]:
        yield from sampling_conflicts(
            steps=self.steps, timesteps=self.timesteps, gamma=self.gamma, sampler=self.sampler
        )
        weights = self.style_weights
        if weights is not None:
            if len(weights) != len(self.style):
                yield "style_weights", f"{len(weights)} weights for {len(self.style)} style pictures"
            if any(weight < 0 for weight in weights):
                yield "style_weights", "a weight is negative"
            elif sum(weights) == 0:
                yield "style_weights", "all weights are 0"
