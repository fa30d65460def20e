"""The denoiser under training: low-rank adapters or full weights on a frozen base, and its files.

Adapters are peft's, on modules whose full names are worked out here, so that a style adapter, whose inside
has modules of the same names, is never touched. Knows no losses, levels or optimisers.

Legend: B batch, C latent channels, h w latent cells.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from stdcli.config.recipe import Recipe
from stdcli.errors import NumericsError, ResourceError
from stdcli.models.condition import Condition
from stdcli.models.denoiser import Denoiser, FeatureTaps
from stdcli.models.diffusers_api import LoraConfig
from stdcli.models.layout import EMBEDDER_FILE, LORA_FILE, RECIPE_FILE
from stdcli.models.lora.peft_config import ADAPTER_METADATA
from stdcli.models.weights import is_finite, order_metadata, save_tensors
from stdcli.runtime.durable import new_folder
from stdcli.runtime.seeding import fold

ADAPTER = "default"


class Student(nn.Module):
    """A denoiser under training; made by `make_student`.

    Backward passes belong outside `as_teacher`. Those of what was recorded inside `using` may run anywhere:
    what checkpointing computes again, it computes with the values of then.

    Args:
        denoiser: around the network whose trained parameters require gradients, and no others.
        kind: `lora` or `full`.
        teacher: around a frozen copy of the base beside full weights.
    """

    def __init__(
        self, denoiser: Denoiser, *, kind: Literal["lora", "full"], teacher: Denoiser | None = None
    ) -> None:
        super().__init__()
        self.network = denoiser.network
        self.kind = kind
        self.has_target_time = denoiser.has_target_time
        self.teacher = None if teacher is None else teacher.network
        self._teacher = teacher
        self._student = self._current = denoiser
        trained = [name for name, parameter in self.network.named_parameters() if parameter.requires_grad]
        self._slots = {name.replace(f".{ADAPTER}.", "."): _slot(self.network, name) for name in trained}
        self._own = {name: module.get_parameter(leaf) for name, (module, leaf) in self._slots.items()}
        self._held: Mapping[str, Tensor] = self._own
        self._teaching = False
        if self.network.is_gradient_checkpointing:
            self.network.enable_gradient_checkpointing(self._checkpoint)

    def forward(
        self,
        x: Tensor,
        t: Tensor | float,
        condition: Condition,
        *,
        target_time: Tensor | float | None = None,
    ) -> Tensor:
        """Evaluate the network once, with live weights unless a context says otherwise.

        Args:
            x: noisy latents [B, C, h, w], any float dtype.
            t: model time, a number or [B].
            condition: B conditions, or one for all.
            target_time: model time where the step aims, likewise; not used unless `has_target_time`.

        Returns:
            Raw network output [B, C, h, w], float32.

        Raises:
            ValueError: no `target_time` for a network that sees it.
        """
        return self._current(x, t, condition, target_time=target_time)

    @property
    def denoiser(self) -> Denoiser:
        """What evaluates the student's own weights."""
        return self._student

    @property
    def has_teacher(self) -> bool:
        """Whether `as_teacher` can be entered."""
        return self.kind == "lora" or self.teacher is not None

    def trainable(self) -> dict[str, nn.Parameter]:
        """What is trained, float32, in a fixed order: `<module>.lora_A.weight` or the network's own names."""
        return dict(self._own)

    @contextmanager
    def as_teacher(self) -> Iterator[None]:
        """Inside, `forward` is the base's, from the same weights: nothing is copied.

        Nothing is recomputed for graphs that are recorded inside (gradients with respect to the input), so
        that they stay the teacher's when backward runs outside.

        Raises:
            ValueError: full weights, made without `keep_teacher`.
        """
        if not self.has_teacher:
            raise ValueError("full weights leave no teacher behind unless made with keep_teacher=True")
        if self._teaching:
            yield
            return
        before, self._teaching = self._current, True
        try:
            if self._teacher is not None:
                self._current = self._teacher
                yield
                return
            self._current = self._student.like(has_target_time=False)
            with self._without_checkpointing(), self._holding(self._own):
                self.network.disable_adapters()
                try:
                    yield
                finally:
                    self.network.enable_adapters()  # and with it `requires_grad`, before any backward
        finally:
            self._current, self._teaching = before, False

    @contextmanager
    def using(self, weights: Mapping[str, Tensor]) -> Iterator[None]:
        """Inside, `forward` uses these values in place of `trainable()`; the live tensors are not touched.

        Args:
            weights: one tensor per name of `trainable()`, on the same device.

        Raises:
            ValueError: other names, or inside `as_teacher`.
        """
        self._check_names(weights)
        if self._teaching:
            raise ValueError("the teacher has no averaged weights")
        with self._holding(weights):
            yield

    def values(self, weights: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """The trained tensors by name, or others in their place.

        Raises:
            ValueError: others of other names.
        """
        if weights is not None:
            self._check_names(weights)
        source = self.trainable() if weights is None else weights
        return {name: source[name].detach() for name in self._own}

    def _check_names(self, values: Mapping[str, Tensor]) -> None:
        if values.keys() != self._own.keys():
            names = sorted(values.keys() ^ self._own.keys())
            raise ValueError(f"{len(names)} names differ from those that are trained: {', '.join(names[:3])}")

    def feature_taps(self) -> FeatureTaps:
        """Of the network that answers inside `as_teacher`."""
        return (self._teacher or self._student).feature_taps()

    @contextmanager
    def _holding(self, values: Mapping[str, Tensor]) -> Iterator[None]:
        """Inside, the network's trained tensors are these, the very objects; nothing is copied."""
        before = self._held
        self._hold(values)
        try:
            yield
        finally:
            self._hold(before)

    def _hold(self, values: Mapping[str, Tensor]) -> None:
        self._held = values
        for name, (module, leaf) in self._slots.items():
            module._parameters[leaf] = values[name]

    def _checkpoint(self, block: nn.Module, *args: object) -> object:
        """A block of the network, computed again in the backward pass with the values that it has now."""
        held = self._held
        return checkpoint(
            block.__call__,
            *args,
            use_reentrant=False,
            context_fn=lambda: (nullcontext(), self._holding(held)),
        )

    @contextmanager
    def _without_checkpointing(self) -> Iterator[None]:
        """What is recomputed during backward would be so with adapters on."""
        was_on = self.network.is_gradient_checkpointing
        if was_on:
            self.network.disable_gradient_checkpointing()
        try:
            yield
        finally:
            if was_on:
                self.network.enable_gradient_checkpointing(self._checkpoint)


def _slot(network: nn.Module, name: str) -> tuple[nn.Module, str]:
    """Where a parameter is: its module, and its name there."""
    parent, _, leaf = name.rpartition(".")
    return network.get_submodule(parent), leaf


def make_student(
    denoiser: Denoiser,
    *,
    kind: Literal["lora", "full"],
    rank: int = 32,
    alpha: float | None = None,
    has_target_time: bool = False,
    keep_teacher: bool = False,
    checkpointing: bool = False,
    seed: int,
) -> Student:
    """Make a student that starts as its base: before any training both give the same output.

    Args:
        denoiser: the base, its style adapter installed; changed in place, and the student's from here on.
        kind: `lora`: float32 adapters, the base in its own dtype. `full`: all weights but the style
            adapter's, in float32.
        rank: of every adapter, at least 1.
        alpha: factor times rank; None is `rank`, a factor of 1.
        has_target_time: let the network be told where a step aims; of adapters by an embedder beside them.
        keep_teacher: keep a frozen copy of full weights for `as_teacher`; adapters need none.
        checkpointing: recompute activations during backward.
        seed: of the adapters' first halves; the second ones are zero.

    Raises:
        ValueError: an unknown kind, a rank below 1, or a network that cannot be told where a step aims.
    Source: Hu 2021 (LoRA) section 4.1; Luo 2023 (LCM-LoRA) for the modules.
    """
    if kind not in ("lora", "full"):
        raise ValueError(f"kind {kind!r} is neither 'lora' nor 'full'")
    if rank < 1:
        raise ValueError(f"rank {rank} is not at least 1")
    network = denoiser.network.requires_grad_(False)
    if checkpointing:
        network.enable_gradient_checkpointing()
    if kind == "lora":
        _add_lora(denoiser, rank=rank, alpha=rank if alpha is None else alpha, seed=seed)
        if has_target_time:
            _add_embedder(denoiser, seed=seed)
        return Student(denoiser.like(has_target_time=has_target_time), kind=kind)
    teacher = denoiser.like(copy.deepcopy(network)) if keep_teacher else None
    network.float()
    if has_target_time:
        denoiser.add_target_time()
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(not denoiser.is_frozen(name))
    return Student(denoiser.like(has_target_time=has_target_time), kind=kind, teacher=teacher)


def save_student(
    folder: str | Path,
    student: Student,
    *,
    recipe: Recipe,
    weights: Mapping[str, Tensor] | None = None,
    dtype: torch.dtype = torch.float16,
    check: Callable[[], object] = lambda: None,
) -> None:
    """Write a student's folder, see `student_files`; plain diffusers reads it as it is.

    The folder appears whole or not at all; one of that name is replaced.

    Args:
        folder: where to.
        student: not changed.
        recipe: written to `recipe.json`; its `trained.s_embedding` says whether the network sees its target.
        weights: values in place of `trainable()`, such as averages.
        dtype: of the stored weights.
        check: called before a folder of that name is replaced; raises if it may not be.

    Raises:
        NumericsError: a value is not finite, or not in `dtype`.
        MediaError: another run is writing this folder.
        ResourceError: the disk is full or refuses.
        ValueError: `weights` of other names, or a recipe that contradicts the network.
    """
    says = recipe.trained is not None and recipe.trained.s_embedding
    if says != student.has_target_time:
        raise ValueError(f"the recipe says s_embedding {says}, the network {student.has_target_time}")
    values = {k: v.to("cpu", dtype).contiguous() for k, v in student.values(weights).items()}
    broken = next((name for name, value in values.items() if not is_finite(value)), None)
    if broken is not None:
        raise NumericsError("a weight is NaN or infinite", where=broken, got=f"stored as {dtype}")
    try:
        with new_folder(Path(folder), check=check) as fresh:
            (_save_lora if student.kind == "lora" else _save_network)(fresh, student.denoiser, values)
            (fresh / RECIPE_FILE).write_text(recipe.as_json(indent=2) + "\n", encoding="utf-8")
    except (OSError, SafetensorError) as error:
        raise ResourceError("the student cannot be written", where=folder, got=error) from error


def _add_lora(denoiser: Denoiser, *, rank: int, alpha: float, seed: int) -> None:
    network, targets = denoiser.network, denoiser.lora_targets()
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets, init_lora_weights=False)
    with torch.random.fork_rng(devices=[]):  # peft draws, to no end
        network.add_adapter(config, adapter_name=ADAPTER)
    for name in targets:
        layer = network.get_submodule(name)
        down, up = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
        down.data = _drawn(down, seed, "lora", name)
        up.data = torch.zeros_like(up, dtype=torch.float32)


def _add_embedder(denoiser: Denoiser, *, seed: int) -> None:
    """Its first layer is drawn, its last one zero."""
    embedder = denoiser.add_target_embedder().requires_grad_()
    first = next(embedder.parameters())
    first.data = _drawn(first, seed, "target_time")


def _drawn(like: Tensor, seed: int, *names: str) -> Tensor:
    first = torch.empty(like.shape)
    nn.init.kaiming_uniform_(first, a=5**0.5, generator=fold(seed, *names))
    return first.to(like.device)


def _save_lora(folder: Path, denoiser: Denoiser, values: Mapping[str, Tensor]) -> None:
    if denoiser.has_target_time:
        inside = f"{denoiser.target_embedder}."
        beside = {name.removeprefix(inside): v for name, v in values.items() if name.startswith(inside)}
        save_tensors(folder / EMBEDDER_FILE, beside, {"format": "pt"})
        values = {name: value for name, value in values.items() if not name.startswith(inside)}
    part, peft = denoiser.part, denoiser.network.peft_config[ADAPTER]
    config = {  # what older versions of peft know too
        "r": peft.r,
        "lora_alpha": peft.lora_alpha,
        "target_modules": sorted({name.rpartition(".lora_")[0] for name in values}),
    }
    text = json.dumps({f"{part}.{key}": value for key, value in config.items()}, indent=2, sort_keys=True)
    tensors = {f"{part}.{name}": value for name, value in values.items()}
    save_tensors(folder / LORA_FILE, tensors, {"format": "pt", ADAPTER_METADATA: text})
    order_metadata(folder / LORA_FILE)


def _save_network(folder: Path, denoiser: Denoiser, values: Mapping[str, Tensor]) -> None:
    with torch.device("meta"):
        plain = type(denoiser.network).from_config(denoiser.plain_config())
    fixed = denoiser.network.state_dict()  # of it what is not trained: buffers
    plain.load_state_dict({name: values.get(name, fixed[name]) for name in plain.state_dict()}, assign=True)
    plain.save_pretrained(folder / denoiser.part, safe_serialization=True, max_shard_size="1TB")
