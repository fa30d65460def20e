"""What `stdcli teacher train` may be told: codec, networks, style pairs, training, recipe.

Defaults are those of the preset `teacher/embedded-cpu`, but for the dtype. Knows nothing of files, layers or
torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import BeforeValidator, Field

from stdcli.config.recipe import Recipe, Start
from stdcli.config.schema import Device, Dtype, Section, Seed, Text, split_numbers

PATCH_PX = 8  # the codec's patch: one latent cell
LARGEST_CROP_PX = 192  # the smallest size at which pictures are kept in memory
LARGEST_STRIDE_PX = 256  # the style encoder's size, which a UNet of any depth must divide

Count = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0)]
Rate = Annotated[float, Field(gt=0)]
CropSide = Annotated[int, Field(ge=16, le=LARGEST_CROP_PX, multiple_of=PATCH_PX)]
Width = Annotated[int, Field(ge=32, multiple_of=32)]
Widths = Annotated[tuple[Width, ...], Field(min_length=2), BeforeValidator(split_numbers)]


class CodecSection(Section):
    """Linear patch codec: principal components of patches, then a small correction of the decoder."""

    latent_channels: Annotated[int, Field(ge=1, le=3 * PATCH_PX**2)] = 32
    """Components kept of a patch's 192."""
    hidden_channels: Count = 128
    """Width of the correction."""
    hidden_layers: Natural = 3
    """Convolutions of the correction between its first and its last."""
    temper: Share = 1.0
    """1 keeps the components' own scales, 0 whitens them."""
    fit_crops: Annotated[int, Field(ge=16)] = 2500
    """Crops that the components are computed from."""
    fit_crop_px: CropSide = 64
    steps: Natural = 600
    """Training steps of the correction."""
    batch_size: Count = 14
    crop_px: CropSide = 96
    learning_rate: Rate = 1e-3
    decoder_steps: Natural = 600
    """Training steps of the correction on the finished denoiser's own estimates."""


class NetworkSection(Section):
    """UNet and style encoder."""

    channels: Widths = (64, 160, 256)
    """UNet width per level, finest first; attention only at the last."""
    style_dim: Count = 256
    """Length of the style vector."""
    style_width: Width = 128
    """Hidden width of the style encoder."""
    style_layers: Count = 2
    cross_dim: Count = 64
    """Width of the style tokens."""

    @property
    def stride_px(self) -> int:
        """What the side of a picture must be a multiple of."""
        return PATCH_PX * 2 ** (len(self.channels) - 1)

    def conflicts(self) -> Iterator[tuple[str, str]]:
        if self.stride_px > LARGEST_STRIDE_PX:
            yield "channels", f"{len(self.channels)} levels make one latent cell of {self.stride_px} pixels"


class PairsSection(Section):
    """Pairs of a picture and its style."""

    crop_px: CropSide = 128
    """Side of the pictures that are learnt."""
    style_crop_px: CropSide = 96
    """Side of what the style encoder sees of them."""
    native: Weight = 0.3
    """How often a pair is two crops of one artwork; of the three weights only the ratios count."""
    procedural: Weight = 0.2
    """How often it is two pictures under one random procedural style."""
    transfer: Weight = 0.5
    """How often it is a photo repainted with an artwork's patches, and that artwork."""
    repaints: Count = 1500
    """Photos repainted before training."""
    repaint_px: CropSide = 192

    def conflicts(self) -> Iterator[tuple[str, str]]:
        if self.native + self.procedural + self.transfer == 0:
            yield "native", "native, procedural and transfer are all 0"
        if self.repaint_px < self.crop_px:
            yield "repaint_px", f"{self.repaint_px} is smaller than crop_px {self.crop_px}, cut from it"
        if self.style_crop_px > self.crop_px:
            yield "style_crop_px", f"{self.style_crop_px} is larger than crop_px {self.crop_px}"


class TrainSection(Section):
    """The denoiser's training."""

    steps: Count = 4600
    batch_size: Count = 16
    learning_rate: Rate = 8e-4
    warmup_steps: Natural = 200
    """First steps, over which the learning rate rises."""
    cooldown: Share = 0.3
    """Last share of the steps, over which the learning rate falls to zero."""
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.998
    """Of the averaged weights, which are the ones that are exported."""
    dtype: Dtype = "auto"
    """Of the UNet's matrix products; weights and loss are float32 always."""
    threads: Count = 1
    """Threads that draw batches ahead."""
    log_every: Count = 25
    sample_every: Count = 500
    checkpoint_every: Count = 500

    @property
    def cooldown_steps(self) -> int:
        """Steps over which the learning rate falls."""
        return round(self.steps * self.cooldown)

    def conflicts(self) -> Iterator[tuple[str, str]]:
        if self.dtype == "float16":
            yield "dtype", "float16 needs loss scaling, which is not done here; use bfloat16 or float32"


class TeacherConfig(Section):
    """`stdcli teacher train`: train a small stylizer from a folder of pictures."""

    data: Text | None = None
    """Folder of photos; or of `content/` and `style/`, photos and artworks."""
    style_data: Text | None = None
    """Folder of artworks; by default the photos serve as both."""
    codec: CodecSection = CodecSection()
    network: NetworkSection = NetworkSection()
    pairs: PairsSection = PairsSection()
    train: TrainSection = TrainSection()
    recipe: Recipe = Recipe(steps=4, strength=0.3, start=Start(transform="adain"))
    """How the finished model wants to be sampled; also how samples are made while training."""
    seed: Seed = 0
    device: Device = "auto"

    def conflicts(self) -> Iterator[tuple[str, str]]:
        stride_px = self.network.stride_px
        if self.pairs.crop_px % stride_px:
            levels = len(self.network.channels)
            yield "pairs.crop_px", f"must be a multiple of {stride_px}, for a UNet of {levels} levels"
