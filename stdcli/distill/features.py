"""What a discriminator sees of latents: the teacher's own encoder, or DINOv2 on the decoded picture.

Networks are frozen; gradients flow through them to the latents. Knows no losses.

Legend: B batch, C latent channels, space: cells h w or F h w, C_k and T_k channels and tokens of feature
map k.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stdcli.diffusion.levels import Level
from stdcli.distill.augment import augment
from stdcli.models.codec import Codec
from stdcli.models.condition import Condition
from stdcli.models.denoiser import FeatureTaps

DINO_PX = 224
DINO_BLOCKS = (2, 5, 8, 11)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Features(Protocol):
    """Feature maps of latents.

    Attributes:
        channels: C_k of every map.
    """

    channels: tuple[int, ...]

    def __call__(self, latents: Tensor, level: Level, *, generator: torch.Generator) -> list[Tensor]:
        """See latents.

        Args:
            latents: [B, C, *space], with gradient if there is to be one.
            level: the level that they are shown at, theirs or not; [B] tensors in every field.
            generator: CPU; draws augmentations, where there are any.

        Returns:
            One [B, C_k, T_k] float32 per map.
        """


class FeatureNetwork(Protocol):
    """A `Denoiser`; or a `Student`, inside whose `as_teacher()` runs what its taps are in."""

    def feature_taps(self) -> FeatureTaps:
        """Where to look."""

    def __call__(self, x: Tensor, t: Tensor | float, condition: Condition) -> Tensor:
        """Evaluate the network once."""


class _Encoded(Exception):
    """The last tap is reached: nothing after it is needed."""


class TeacherFeatures:
    """Outputs of some modules of the teacher, of a UNet its encoder, at the time told.

    Nothing is decoded, neither latents nor features.

    Args:
        network: frozen denoiser, or the student that was made from the teacher.
        unconditional: condition of one row; the discriminator's heads are told the real one.

    """

    def __init__(self, network: FeatureNetwork, unconditional: Condition) -> None:
        self._network = network
        self._unconditional = unconditional
        self._taps = network.feature_taps()
        self.channels = self._taps.channels

    def __call__(self, latents: Tensor, level: Level, *, generator: torch.Generator) -> list[Tensor]:
        """See `Features`."""
        maps: list[Tensor] = []
        t = level.t.to(latents.device)
        with getattr(self._network, "as_teacher", nullcontext)():
            with _encoder_only(self._taps, maps), suppress(_Encoded):
                self._network(latents, t, self._unconditional)
        return maps


class DinoFeatures:
    """Patch tokens of DINOv2 from four depths, of the decoded and augmented picture.

    Args:
        dino: transformers' Dinov2Model, frozen, with 12 blocks; of `load_dino`.
        codec: decodes latents.

    Source: Sauer 2023 (StyleGAN-T), discriminator; Oquab 2023 (DINOv2), intermediate layers.
    """

    def __init__(self, dino: Any, codec: Codec) -> None:
        self._dino = dino
        self._codec = codec
        self.channels = (dino.config.hidden_size,) * len(DINO_BLOCKS)

    def __call__(self, latents: Tensor, level: Level, *, generator: torch.Generator) -> list[Tensor]:
        """See `Features`; the level told does not matter here."""
        pictures = augment(self._codec.decode(latents), generator=generator)
        inputs = normalize(fit(pictures / 2 + 0.5, generator=generator))
        states = self._dino(pixel_values=inputs, output_hidden_states=True).hidden_states
        # state 0 is the embedding, token 0 the class token
        return [self._dino.layernorm(states[block + 1])[:, 1:].transpose(1, 2) for block in DINO_BLOCKS]


def fit(pictures: Tensor, *, generator: torch.Generator) -> Tensor:
    """Bring pictures to DINOv2's size, each by a random crop or (half of them, and all small ones) whole.

    Args:
        pictures: [B, 3, H, W].
        generator: CPU; takes three draws per picture.

    Returns:
        [B, 3, 224, 224].
    """
    height, width = pictures.shape[-2:]
    fitted = []
    for picture, (draw, y, x) in zip(
        pictures, torch.rand(len(pictures), 3, generator=generator), strict=True
    ):
        if min(height, width) > DINO_PX and draw < 0.5:
            top, left = (int(at * (side - DINO_PX + 1)) for at, side in ((y, height), (x, width)))
            fitted.append(picture[:, top : top + DINO_PX, left : left + DINO_PX])
        else:
            fitted.append(F.interpolate(picture[None], (DINO_PX, DINO_PX), mode="area")[0])
    return torch.stack(fitted)


def normalize(pictures: Tensor) -> Tensor:
    """Pictures [B, 3, H, W] in [0, 1] with ImageNet's mean and deviation taken out."""
    mean, std = (pictures.new_tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (pictures - mean) / std


@contextmanager
def _encoder_only(taps: FeatureTaps, maps: list[Tensor]) -> Iterator[None]:
    """Inside, a forward of the network fills `maps` [B, C_k, T_k] and ends by `_Encoded` after the last tap.

    Without checkpointing: its second forward, in the backward, would run with other adapters.
    """

    def keep(module: nn.Module, inputs: tuple, output: Tensor | tuple) -> None:
        maps.append(taps.read(output).float())
        if module is taps.modules[-1]:
            raise _Encoded

    modules = taps.network.modules()
    checkpointed = [module for module in modules if getattr(module, "gradient_checkpointing", False)]
    with ExitStack() as stack:
        for tapped in taps.modules:
            stack.enter_context(tapped.register_forward_hook(keep))
        for module in checkpointed:
            module.gradient_checkpointing = False
            stack.callback(setattr, module, "gradient_checkpointing", True)
        yield
