"""Fit the linear part of the lapped codec: descent from blocks of principal components, then their axes.

The components are those of `codec.fit_components` in another form: as decoded, they are orthonormal pictures
of a window, and their latents are uncorrelated and in order of variance, so noise hides the least first.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from stdcli.models.lapped_autoencoder import CELL_PX, MARGIN_PX, LappedAutoencoder

LEARNING_RATE = 3e-3
BATCH = 32  # crops per step
INNER_PX = CELL_PX  # of an error at the border of a crop, which is another one, nothing is learned


def fit_lapped(
    codec: LappedAutoencoder, pictures: torch.Tensor, *, signal: float, steps: int, generator: torch.Generator
) -> None:
    """Set the codec's linear part so that decoding undoes encoding as nearly as so many components can.

    Args:
        codec: changed in place; its refinement is left as it is.
        pictures: [B, 3, H, W] in [-1, 1], H and W multiples of 8 and at least 32.
        signal: variance of a latent cell, summed over channels, were every component kept.
        steps: of descent on the squared error.
        generator: chooses batches.
    """
    with torch.no_grad():
        codec.mean.copy_(pictures.mean((0, 2, 3)))
    _start_from_blocks(codec, pictures)
    _descend(codec, pictures, steps=steps, generator=generator)
    _turn_to_axes(codec, pictures, signal=signal)


@torch.no_grad()
def _start_from_blocks(codec: LappedAutoencoder, pictures: torch.Tensor) -> None:
    """Principal components of single cells, the windows' margins at zero."""
    patches = F.unfold(pictures - codec.mean[:, None, None], CELL_PX, stride=CELL_PX)
    patches = patches.transpose(1, 2).flatten(0, 1).double()
    vectors = torch.linalg.eigh(patches.T @ patches)[1].flip(1)[:, : codec.config.latent_channels]
    filters = vectors.T.float().view(-1, codec.config.in_channels, CELL_PX, CELL_PX)
    filters = F.pad(filters, (MARGIN_PX,) * 4)
    codec.project.weight.copy_(filters)
    codec.reconstruct.weight.copy_(filters)
    _center(codec)


def _center(codec: LappedAutoencoder) -> None:
    """Give the mean colour the latent 0."""
    with torch.no_grad():
        codec.project.bias.copy_(-codec.project.weight.sum((2, 3)) @ codec.mean)


def _descend(
    codec: LappedAutoencoder, pictures: torch.Tensor, *, steps: int, generator: torch.Generator
) -> None:
    filters = [codec.project.weight, codec.reconstruct.weight]
    optimizer = torch.optim.Adam(filters, lr=LEARNING_RATE, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps))
    inner = (..., slice(INNER_PX, -INNER_PX), slice(INNER_PX, -INNER_PX))
    for _ in range(steps):
        chosen = torch.randint(len(pictures), (BATCH,), generator=generator)
        x = pictures[chosen] - codec.mean[:, None, None]
        z = F.conv2d(F.pad(x, (MARGIN_PX,) * 4, mode="reflect"), codec.project.weight, stride=CELL_PX)
        error = codec.decode_linear(z) - codec.mean[:, None, None] - x
        loss = error[inner].square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
    _center(codec)


@torch.no_grad()
def _turn_to_axes(codec: LappedAutoencoder, pictures: torch.Tensor, *, signal: float) -> None:
    """Other coordinates for the same latents: decoded filters orthonormal, latents uncorrelated, in order."""
    z = torch.cat([codec.encode(part).latents for part in pictures.split(64)]).double()
    cells = z.transpose(0, 1).flatten(1)
    decode = codec.reconstruct.weight.flatten(1).double()  # [C, pixels of a window]
    variance, axes = torch.linalg.eigh(decode @ decode.T)
    root = axes @ (variance.sqrt()[:, None] * axes.T)  # latents times this belong to orthonormal filters
    turn = torch.linalg.eigh(torch.cov(root @ cells))[1]
    change = turn.flip(1).T @ root
    total = (pictures - codec.mean[:, None, None]).double().square().mean() * decode.shape[1] / 4
    change = change * (signal / total).sqrt()
    back = torch.linalg.inv(change).T @ decode  # rows: what each new latent is decoded to
    sign = torch.where(back.sum(1) < 0, -1.0, 1.0).double()[:, None]
    codec.reconstruct.weight.copy_((sign * back).view_as(codec.reconstruct.weight))
    encode = sign * change @ codec.project.weight.flatten(1).double()
    codec.project.weight.copy_(encode.view_as(codec.project.weight))
    _center(codec)
