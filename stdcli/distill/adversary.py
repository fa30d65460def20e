"""The asymmetric adversarial loss: student's jumps against real pictures that hold less noise.

The student's state at level s is judged against a real latent noised to r < s, so the student learns to be
cleaner than its level. Both are shown as states at s: a critic that is told each side's own time judges
p(x | t) against p(x | t) at one t, where r no longer matters. What sees the states (`Features`) and what
judges them (`Discriminator`) come from outside, and so do the real latents.

Legend: B batch, C latent channels, space: cells h w or F h w, D width of the condition's vector.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from stdcli.distill.discriminator import Discriminator, condition_vector
from stdcli.distill.features import Features
from stdcli.distill.real_fake_pairs import RealFakeBatch
from stdcli.models.condition import Condition

AdversarialLoss = Literal["hinge", "non-saturating"]

_MARGINS: dict[AdversarialLoss, Callable[[Tensor], Tensor]] = {
    "hinge": lambda logits: F.relu(1 - logits),
    "non-saturating": lambda logits: F.softplus(-logits),
}


class Adversary:
    """Features, the discriminator that judges them, and the losses of both sides.

    Args:
        features: what the discriminator sees of latents.
        discriminator: the one thing trained here. Not saved with the student.
        loss: "hinge" (upstream's "wgan" is the same but for a constant), or "non-saturating".
        gradient_penalty: weight of (||dD/dfeatures|| - 1)^2 between real and fake; 0 is off.
        r1: weight of the squared change of logits under small noise on real latents; 0 is off.
        r1_sigma: standard deviation of that noise.
        sees_given: whether features of `RealFakeBatch.given` stand beside those that are judged, which
            doubles the channels of every map; zeros stand there where it is hidden.
    """

    def __init__(
        self,
        features: Features,
        discriminator: Discriminator,
        *,
        loss: AdversarialLoss = "hinge",
        gradient_penalty: float = 0.0,
        r1: float = 0.0,
        r1_sigma: float = 0.1,
        sees_given: bool = False,
    ) -> None:
        self.features = features
        self.discriminator = discriminator
        self._margin = _MARGINS[loss]
        self._aim = torch.neg if loss == "hinge" else self._margin
        self._gradient_penalty = gradient_penalty
        self._r1, self._r1_sigma = r1, r1_sigma
        self._sees_given = sees_given

    def generator_loss(
        self, pair: RealFakeBatch, condition: Condition, *, generator: torch.Generator
    ) -> Tensor:
        """What the student minimises: -mean D(fake) (hinge), mean softplus(-D(fake)) (non-saturating).

        The discriminator's weights get no gradient.

        Args:
            pair: `fake` with gradient.
            condition: B conditions, or one for all.
            generator: CPU; draws augmentations.

        Returns:
            A scalar.
        Source: Lim 2017 (geometric GAN), hinge loss; Goodfellow 2014 (GAN), non-saturating loss.
        """
        maps = self._look(pair.fake, pair, generator=generator)
        weights = {name: weight.detach() for name, weight in self.discriminator.named_parameters()}
        logits = functional_call(self.discriminator, weights, (maps, _vector(condition, pair)))
        return self._aim(logits).mean()

    def discriminator_loss(
        self, pair: RealFakeBatch, condition: Condition, *, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """What the discriminator minimises; no gradient reaches features or latents.

        Args:
            pair: fake and real; gradients of `fake` are not followed.
            condition: B conditions, or one for all.
            generator: CPU; draws augmentations and what the penalties need.

        Returns:
            Scalars: `real` and `fake` (hinge: mean relu(1 - D), mean relu(1 + D); non-saturating: softplus),
            `gradient_penalty` and `r1` without their weights (0 where off), `total` with them.
        Source: Lim 2017 (geometric GAN), hinge loss; Goodfellow 2014 (GAN); Gulrajani 2017 (WGAN-GP) eq. 3,
            on features; Lin 2025 (APT), approximated R1.
        """
        vector = _vector(condition, pair)
        again = generator.clone_state()  # the same augmentations once more
        real_logits = self.discriminator(self._see(pair.real, pair, generator=generator), vector)
        fake_logits = self.discriminator(self._see(pair.fake, pair, generator=generator), vector)
        losses = {"real": self._margin(real_logits).mean(), "fake": self._margin(-fake_logits).mean()}
        losses["gradient_penalty"] = losses["r1"] = real_logits.new_zeros(())
        if self._gradient_penalty:
            losses["gradient_penalty"] = self._penalize(pair, vector, generator=generator)
        if self._r1:
            noise = torch.randn(pair.real.shape, generator=generator).to(pair.real)
            maps = self._see(pair.real + self._r1_sigma * noise, pair, generator=again)
            losses["r1"] = (self.discriminator(maps, vector) - real_logits).square().mean()
        penalties = self._gradient_penalty * losses["gradient_penalty"] + self._r1 * losses["r1"]
        return {"total": losses["real"] + losses["fake"] + penalties, **losses}

    @torch.no_grad()
    def _see(self, latents: Tensor, pair: RealFakeBatch, *, generator: torch.Generator) -> list[Tensor]:
        return self._look(latents, pair, generator=generator)

    def _look(self, latents: Tensor, pair: RealFakeBatch, *, generator: torch.Generator) -> list[Tensor]:
        """Features of what is judged, with those of what it came from under the same augmentations."""
        if not self._sees_given:
            return self.features(latents, pair.level, generator=generator)
        again = generator.clone_state()
        maps = self.features(latents, pair.level, generator=generator)
        if pair.given is None:
            beside = [torch.zeros_like(features) for features in maps]
        else:
            with torch.no_grad():
                beside = self.features(pair.given, pair.given_level, generator=again)
        return [torch.cat(both, dim=1) for both in zip(maps, beside, strict=True)]

    def _penalize(self, pair: RealFakeBatch, vector: Tensor, *, generator: torch.Generator) -> Tensor:
        """D is the sum of a sample's logits, of latents between fake and real."""
        share = torch.rand(len(pair.fake), *[1] * (pair.fake.ndim - 1), generator=generator).to(pair.fake)
        mixed = torch.lerp(pair.fake.detach(), pair.real, share)
        maps = self._see(mixed, pair, generator=generator)
        maps = [features.requires_grad_() for features in maps]
        gradients = torch.autograd.grad(self.discriminator(maps, vector).sum(), maps, create_graph=True)
        norms = torch.cat([gradient.flatten(1) for gradient in gradients], dim=1).norm(dim=1)
        return (norms - 1).square().mean()


def _vector(condition: Condition, pair: RealFakeBatch) -> Tensor:
    return condition_vector(condition.expand(len(pair.fake))).to(pair.fake.device)
