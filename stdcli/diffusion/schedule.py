"""Noise schedules: how much signal and noise every row of a model's training table holds.

x = alpha x0 + sigma eps, in float64. Knows nothing of samplers, solver grids or networks. The tables are
computed with plain Python floats, whose + - * / sqrt are the same to the last bit everywhere, so two machines
agree on a schedule.

VP (DDPM) schedules have T rows, row t being the model time t; flow schedules have T + 1 rows, row i being i/T
of the way from data (row 0, exactly sigma 0) to noise (row T, exactly sigma 1) before shifting, and model
time T sigma.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor

_FLOW_KEYS_NOT_SUPPORTED = ("use_dynamic_shifting", "shift_terminal", "invert_sigmas")
_FLOW_CLASSES = frozenset(f"FlowMatch{kind}Scheduler" for kind in ("EulerDiscrete", "HeunDiscrete", "LCM"))
_BETA_CLASSES = frozenset(
    f"{kind}Scheduler"
    for kind in (
        *(
            "DDIM",
            "DDIMInverse",
            "DDIMParallel",
            "DDPM",
            "DDPMParallel",
            "DEISMultistep",
            "DPMSolverMultistep",
        ),
        *("DPMSolverMultistepInverse", "DPMSolverSDE", "DPMSolverSinglestep", "EulerAncestralDiscrete"),
        *("EulerDiscrete", "HeunDiscrete", "KDPM2AncestralDiscrete", "KDPM2Discrete", "LCM", "LMSDiscrete"),
        *("PNDM", "SASolver", "TCD", "UniPCMultistep"),
    )
)
"""Classes of diffusers that sample the models of a table of betas; other tables and times are another's."""


class ScheduleError(ValueError):
    """A schedule cannot be built from these values."""


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """Signal and noise scales of a trained model.

    Args:
        kind: "vp" (alpha^2 + sigma^2 = 1) or "flow" (alpha + sigma = 1).
        alphas: float64 CPU [T] (vp) or [T + 1] (flow), signal scale, in [0, 1], falling.
        sigmas: same shape, noise scale, in [0, 1], rising.
        num_train_timesteps: T.

    Raises:
        ScheduleError: shapes, dtype or values are not of this form.
    """

    kind: Literal["vp", "flow"]
    alphas: Tensor
    sigmas: Tensor
    num_train_timesteps: int

    def __post_init__(self) -> None:
        if self.kind not in ("vp", "flow"):
            raise ScheduleError(f"schedule kind {self.kind!r} is neither 'vp' nor 'flow'")
        rows = self.num_train_timesteps + (self.kind == "flow")
        for name, table in (("alphas", self.alphas), ("sigmas", self.sigmas)):
            if table.shape != (rows,) or table.dtype != torch.float64:
                raise ScheduleError(f"{name} must be float64 [{rows}], got {table.dtype} {list(table.shape)}")
            if not bool(((table >= 0) & (table <= 1)).all()):
                raise ScheduleError(f"{name} must lie in [0, 1]")
        if bool((self.alphas.diff() > 0).any()) or bool((self.sigmas.diff() < 0).any()):
            raise ScheduleError("alphas must fall and sigmas must rise along the table")

    @classmethod
    def from_betas(cls, betas: Sequence[float]) -> NoiseSchedule:
        """VP schedule of a DDPM: abar_t = prod(1 - beta), alpha = sqrt(abar), sigma = sqrt(1 - abar).

        Args:
            betas: T values in (0, 1); the last may be 1 (zero terminal SNR).

        Raises:
            ScheduleError: fewer than two values, or one out of range.
        Source: Ho 2020 (DDPM) eq. 4.
        """
        betas = [float(beta) for beta in betas]
        if len(betas) < 2:
            raise ScheduleError(f"a schedule needs at least 2 betas, got {len(betas)}")
        for row, beta in enumerate(betas):
            if not (0 < beta < 1 or (beta == 1 and row == len(betas) - 1)):
                raise ScheduleError(f"beta {row} is {beta}; betas lie in (0, 1), and only the last may be 1")
        alpha_bars, product = [], 1.0
        for beta in betas:
            product *= 1.0 - beta
            alpha_bars.append(product)
        return cls._vp([math.sqrt(alpha_bar) for alpha_bar in alpha_bars])

    @classmethod
    def linear(cls, beta_start: float, beta_end: float, num_train_timesteps: int) -> NoiseSchedule:
        """VP schedule with beta linear in t. Source: Ho 2020 (DDPM) section 4."""
        return cls.from_betas(_interpolate(beta_start, beta_end, num_train_timesteps))

    @classmethod
    def scaled_linear(cls, beta_start: float, beta_end: float, num_train_timesteps: int) -> NoiseSchedule:
        """VP schedule with sqrt(beta) linear in t. Source: Rombach 2022 (LDM), released models."""
        roots = _interpolate(math.sqrt(beta_start), math.sqrt(beta_end), num_train_timesteps)
        return cls.from_betas([root * root for root in roots])

    @classmethod
    def cosine(cls, num_train_timesteps: int) -> NoiseSchedule:
        """VP schedule with abar(u) = cos^2(pi/2 (u + .008)/1.008), beta at most .999 (`squaredcos_cap_v2`).

        Source: Nichol 2021 (improved DDPM) eq. 17.
        """
        bars = [
            math.cos((row / num_train_timesteps + 0.008) / 1.008 * math.pi / 2) ** 2
            for row in range(num_train_timesteps + 1)
        ]
        return cls.from_betas([min(1 - after / before, 0.999) for before, after in pairwise(bars)])

    @classmethod
    def flow(cls, shift: float = 1.0, num_train_timesteps: int = 1000) -> NoiseSchedule:
        """Rectified flow: alpha = 1 - sigma, sigma(u) = shift u / (1 + (shift - 1) u) with u = row/T.

        Args:
            shift: > 0; larger values put more rows near noise.

        Raises:
            ScheduleError: shift is not a positive number.
        Source: Esser 2024 (SD3) eq. 23, with shift = sqrt(m/n).
        """
        if not 0 < shift < math.inf:
            raise ScheduleError(f"flow shift must be positive and finite, got {shift}")
        ramp = [row / num_train_timesteps for row in range(num_train_timesteps + 1)]
        sigmas = torch.tensor([shift * u / (1 + (shift - 1) * u) for u in ramp], dtype=torch.float64)
        return cls("flow", 1 - sigmas, sigmas, num_train_timesteps)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> NoiseSchedule:
        """Schedule of a diffusers `scheduler_config.json`.

        Args:
            config: its content; see `is_flow`. Flow schedules are read by `shift` (`flow_shift` beside
                `use_flow_sigmas`) and `num_train_timesteps`; all others by `trained_betas`, or
                `beta_schedule` (linear, scaled_linear, squaredcos_cap_v2) with `beta_start`, `beta_end` and
                `num_train_timesteps`, and `rescale_betas_zero_snr`.

        Raises:
            ScheduleError: a class that is not known, or a key is missing or asks for something this toolkit
                does not do.
        """
        if is_flow(config):
            for key in _FLOW_KEYS_NOT_SUPPORTED:
                if config.get(key):
                    raise ScheduleError(f"flow schedules with {key}={config[key]!r} are not supported")
            shift = config.get("flow_shift" if config.get("use_flow_sigmas") else "shift")
            return cls.flow(1.0 if shift is None else shift, _required(config, "num_train_timesteps"))
        if config.get("timestep_type", "discrete") != "discrete":
            raise ScheduleError(
                f"timestep_type {config['timestep_type']!r} is not supported, only 'discrete'"
            )
        if config.get("trained_betas") is not None:
            schedule = cls.from_betas(config["trained_betas"])
        else:
            schedule = cls._from_beta_schedule(config)
        return schedule.rescale_zero_terminal_snr() if config.get("rescale_betas_zero_snr") else schedule

    @classmethod
    def _from_beta_schedule(cls, config: Mapping[str, Any]) -> NoiseSchedule:
        name, total = _required(config, "beta_schedule"), _required(config, "num_train_timesteps")
        if name == "squaredcos_cap_v2":
            return cls.cosine(total)
        if name not in ("linear", "scaled_linear"):
            known = "linear, scaled_linear, squaredcos_cap_v2, or trained_betas"
            raise ScheduleError(f"beta schedule {name!r} is not supported; known: {known}")
        build = cls.linear if name == "linear" else cls.scaled_linear
        return build(_required(config, "beta_start"), _required(config, "beta_end"), total)

    @classmethod
    def _vp(cls, alphas: list[float]) -> NoiseSchedule:
        sigmas = [math.sqrt(1.0 - alpha * alpha) for alpha in alphas]
        tables = (torch.tensor(table, dtype=torch.float64) for table in (alphas, sigmas))
        return cls("vp", *tables, num_train_timesteps=len(alphas))

    def rescale_zero_terminal_snr(self) -> NoiseSchedule:
        """This schedule with alpha shifted to 0 at the last row and scaled back to its value at the first.

        The last row is pure noise, where epsilon prediction says nothing: for v prediction only.

        Raises:
            ScheduleError: this is a flow schedule, which ends in pure noise already.
        Source: Lin 2024 (common diffusion noise schedules are flawed) algorithm 1.
        """
        if self.kind != "vp":
            raise ScheduleError("only VP schedules can be rescaled to zero terminal SNR")
        alphas = self.alphas.tolist()
        first, last = alphas[0], alphas[-1]
        return self._vp([(alpha - last) * (first / (first - last)) for alpha in alphas])

    def fingerprint(self) -> str:
        """SHA-256 (hex) over kind and tables at 6 significant digits, so equal schedules agree everywhere."""
        rows = zip(self.alphas.tolist(), self.sigmas.tolist(), strict=True)
        text = "\n".join([self.kind, *(f"{alpha:.5e} {sigma:.5e}" for alpha, sigma in rows)])
        return hashlib.sha256(text.encode("ascii")).hexdigest()


def is_flow(config: Mapping[str, Any]) -> bool:
    """Whether a diffusers scheduler configuration is of a flow model, by its class or `use_flow_sigmas`.

    Raises:
        ScheduleError: the class is none that is known, or what is said contradicts itself.
    """
    name, says_flow = config.get("_class_name"), config.get("prediction_type") == "flow_prediction"
    if name in _FLOW_CLASSES:
        return True
    if name is not None and name not in _BETA_CLASSES:
        raise ScheduleError(f"scheduler class {name!r} is not known, nor what its model was trained on")
    if says_flow and not config.get("use_flow_sigmas"):
        raise ScheduleError("prediction_type 'flow_prediction' belongs to use_flow_sigmas, which is not set")
    return bool(config.get("use_flow_sigmas"))


def _interpolate(first: float, last: float, count: int) -> list[float]:
    if count < 2:
        raise ScheduleError(f"a schedule needs at least 2 timesteps, got {count}")
    return [first + (last - first) * row / (count - 1) for row in range(count)]


def _required(config: Mapping[str, Any], key: str) -> Any:
    if config.get(key) is None:
        raise ScheduleError(f"the scheduler configuration has no {key!r}")
    return config[key]
