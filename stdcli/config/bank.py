"""What `stdcli bank build` may be told. Knows nothing of files, layers or torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from stdcli.config.quantities import read_bytes
from stdcli.config.schema import (
    Count,
    Device,
    Dtype,
    Pooled,
    Section,
    Seed,
    Steps,
    Strength,
    Text,
    Texts,
    split_numbers,
)

SELF = "self"
"""`style_data` that takes a crop of the sample itself for its style."""


def _split_range(value: Any) -> Any:
    """ "5:7" -> ["5", "7"], and one number -> that number twice."""
    if isinstance(value, str):
        parts = value.split(":")
        return [parts[0], parts[-1]] if len(parts) <= 2 else parts
    return [value, value] if isinstance(value, int | float) else value


MAX_PATHS = 10**7


def _check_size(value: str) -> str:
    read_bytes(value)
    return value


GuidanceRange = Annotated[
    tuple[Annotated[float, Field(ge=0)], Annotated[float, Field(ge=0)]], BeforeValidator(_split_range)
]
Levels = Annotated[tuple[Annotated[int, Field(ge=0)], ...], BeforeValidator(split_numbers)]
Size = Annotated[Text, AfterValidator(_check_size)]
StoreDtype = Literal["float16", "bfloat16", "float32"]


class BankConfig(Section):
    """`stdcli bank build`: walk a teacher's paths and keep them."""

    data: Texts = ()
    """Pictures and clips, or folders of them, searched recursively; of a clip, single frames."""
    model: Text = "embedded"
    """The teacher: 'embedded', a folder, a single file or a Hub id."""
    base: Text | None = None
    """Folder of configs for a single-file teacher."""
    strength: Strength | None = None
    """Noise fraction where paths start; else the model's own."""
    num_solver_steps: Steps = 50
    """Rows of the level table; students are trained on 50."""
    solver: Literal["ddim"] = "ddim"
    guidance_range: GuidanceRange | None = None
    """Guidance in the form of diffusers, one value or LOW:HIGH, of which each path draws one."""
    num_paths: Annotated[int, Field(ge=1, le=MAX_PATHS)] | None = None
    """Paths in all; more than there are samples repeats them with other noise. Else one per sample."""
    max_bytes: Size | None = None
    """Largest bank, such as 20GB; fewer paths are built if need be."""
    prompts: Text = "none"
    """'none', 'sidecar' (PICTURE.txt), a .txt of one prompt per line, of which each path draws one, or a
    .jsonl of file_name and text."""
    pooled: Pooled = "zero"
    """Pooled text embedding of SDXL's unconditional branch: zeros, or "keep" the prompt's."""
    style_data: Text | None = None
    """A style picture or a folder of them, of which each path draws one; "self": a crop of the sample."""
    start: Literal["none", "adain", "colours"] | None = None
    """What is done to a sample towards its style before the noise; else what the model's recipe says."""
    split: Literal["all", "train", "held-out"] = "all"
    """Files to take, pictures and styles alike: "train" leaves out the tenth, by the hash of their names,
    that `teacher train` never sees, and "held-out" takes only these."""
    resolution: Annotated[int, Field(ge=32)] | None = None
    """Side of the square crops in pixels; else 256, 512 or 1024 by the model's family."""
    keep_levels: Levels | None = None
    """Ids of the levels to store, the first and the last always; else all."""
    store_dtype: StoreDtype = "float16"
    """Of stored states."""
    shard_size: Count = 64
    """Paths per shard; a killed run loses at most one per worker."""
    batch_size: Count = 8
    strict: bool = False
    """Whether a file that cannot be read is an error."""
    seed: Seed = 0
    dtype: Dtype = "auto"
    """Of the teacher's weights."""
    device: Device = "auto"
    offline: bool = False

    def conflicts(self) -> Iterator[tuple[str, str]]:
        if self.guidance_range is not None and self.guidance_range[0] > self.guidance_range[1]:
            yield "guidance_range", "the first value is above the second"
