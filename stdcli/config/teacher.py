"""What `stdcli teacher train` may be told: codec, networks, pairs, training, recipe.

Defaults are those of the preset `teacher/embedded-cpu`, but for the dtype. Knows nothing of files, layers or
torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from stdcli.config.recipe import Recipe, Start
from stdcli.config.schema import (
    Count,
    Device,
    Dtype,
    Natural,
    Section,
    Seed,
    Share,
    Text,
    Weight,
    split_numbers,
)

PATCH_PX = 8  # the codec's patch: one latent cell
LARGEST_CROP_PX = 192  # the smallest size at which pictures are kept in memory
LARGEST_STRIDE_PX = 256  # the style encoder's size, which a UNet of any depth must divide

CROPS_A_PAINTING = 2  # places cut from each painting of a batch, which share its style picture

Rate = Annotated[float, Field(gt=0)]
CropSide = Annotated[int, Field(ge=16, le=LARGEST_CROP_PX, multiple_of=PATCH_PX)]
PaintedSide = Annotated[int, Field(ge=32, le=LARGEST_CROP_PX, multiple_of=PATCH_PX)]  # of what is painted
Width = Annotated[int, Field(ge=32, multiple_of=32)]
Widths = Annotated[tuple[Width, ...], Field(min_length=2), BeforeValidator(split_numbers)]


class CodecSection(Section):
    """Linear codec of patches, then a small correction of the decoder."""

    kind: Literal["blocks", "lapped"] = "blocks"
    """`blocks` of 8 pixels, principal components of each; or `lapped` windows of 16, which leave no seams."""
    latent_channels: Annotated[int, Field(ge=1, le=3 * PATCH_PX**2)] = 48
    """Components kept of a patch's 192."""
    hidden_channels: Count = 128
    """Width of the correction of blocks."""
    hidden_layers: Natural = 3
    """Convolutions of that correction between its first and its last."""
    widths: Annotated[
        tuple[Count, ...], Field(min_length=4, max_length=4), BeforeValidator(split_numbers)
    ] = (
        96,
        64,
        32,
        16,
    )
    """Widths of the correction of lapped windows, at 1/8, 1/4, 1/2 and full size."""
    fit_steps: Natural = 1500
    """Steps of descent that fit lapped windows."""
    temper: Share = 1.0
    """Of blocks: 1 keeps the components' own scales, 0 whitens them."""
    fit_crops: Annotated[int, Field(ge=16)] = 2500
    """Crops that the components are computed from."""
    fit_crop_px: CropSide = 64
    steps: Natural = 600
    """Training steps of the correction."""
    batch_size: Count = 14
    crop_px: CropSide = 96
    learning_rate: Rate = 1e-3


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
    """Pairs of a photo and the style to paint it in."""

    photo_px: PaintedSide = 128
    """Side of the photos' crops."""
    style_px: PaintedSide = 128
    """Side of the styles' crops."""
    art_share: Share = 0.15
    """How often an artwork takes the photo's place; with paintings, how often it is its own pair."""
    repeat_after: Natural = 256
    """Batches after which the first comes again, its painting kept in memory (2 MB a batch); 0 for never. Has
    no effect with paintings."""


class TrainSection(Section):
    """The denoiser's training."""

    steps: Count = 1500
    batch_size: Count = 16
    texture_weight: Weight = 0.4
    """Of the amount and kind of texture, against every pixel in its place; has no effect with paintings."""
    learning_rate: Rate = 4e-4
    warmup_steps: Natural = 100
    """First steps, over which the learning rate rises."""
    cooldown: Share = 0.5
    """Last share of the steps, over which the learning rate falls to zero."""
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.998
    """Of the averaged weights, which are the ones that are exported."""
    dtype: Dtype = "auto"
    """Of the UNet's matrix products; weights and loss are float32 always."""
    threads: Natural = 0
    """Threads that draw batches ahead, for a GPU; beside a network on the CPU they only cost time."""
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
    paintings: Text | None = None
    """Folder of paintings with an `index.csv`: photos as they should become, by whatever painted them. The
    network then sees the photo beside the noise, and learns to draw such paintings from it."""
    init: Text | None = None
    """Model to start from instead of random weights: `embedded`, or a folder that a run wrote."""
    codec: CodecSection = CodecSection()
    network: NetworkSection = NetworkSection()
    pairs: PairsSection = PairsSection()
    train: TrainSection = TrainSection()
    recipe: Recipe = Recipe(steps=4, strength=0.4, final="x0", start=Start(transform="colours"))
    """How the finished model wants to be sampled; also how samples are made while training."""
    seed: Seed = 0
    device: Device = "auto"

    def conflicts(self) -> Iterator[tuple[str, str]]:
        stride_px = self.network.stride_px
        if self.pairs.photo_px % stride_px:
            levels = len(self.network.channels)
            yield "pairs.photo_px", f"must be a multiple of {stride_px}, for a UNet of {levels} levels"
        if self.paintings is not None and self.train.batch_size % CROPS_A_PAINTING:
            yield "train.batch_size", f"must be a multiple of {CROPS_A_PAINTING} with paintings"
