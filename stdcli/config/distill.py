"""What `stdcli distill` may be told: method, student, adversary, training. Knows nothing of files or torch.

Every method brings a section of its own. Defaults are those of the preset `distill/std-offline`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, create_model

from stdcli.config.bank import SELF, BankConfig
from stdcli.config.distill_methods import DEFAULT, MethodSettings, find_method, method_names
from stdcli.config.schema import (
    Count,
    Decay,
    Device,
    Dtype,
    Natural,
    Positive,
    Section,
    Seed,
    Share,
    Steps,
    Text,
    Weight,
    split_numbers,
)

VIRTUAL_BATCH = 8  # items that local batch normalization takes together, at most

StepCounts = Annotated[tuple[Steps, ...], Field(min_length=1), BeforeValidator(split_numbers)]


class StudentSection(Section):
    """What is trained."""

    kind: Literal["lora", "full"] = "lora"
    rank: Count = 32
    alpha: Positive | None = None
    """Of the low-rank adapters; else the rank."""
    s_embedding: bool = False
    """Whether the network is told the target level too, with a LoRA by an embedder beside it, which programs
    other than stdcli do not know. Methods that need it always do so."""


class AdversarySection(Section):
    """Asymmetric adversarial loss: the student's states at s against real ones at a lower level."""

    weight: Weight = 0.0
    """Of the student's part; 0 leaves the adversary out."""
    features: Literal["auto", "dino", "teacher"] = "auto"
    """What the discriminator sees: DINOv2 of the decoded picture, or the teacher's own encoder of the latent;
    "auto" takes DINOv2 where `dino` is on this disk."""
    dino: Text = "facebook/dinov2-small"
    """Folder or Hub id of DINOv2."""
    real: Literal["auto", "x0", "path-end", "style", "target"] = "auto"
    """The real pictures: samples, ends of the teacher's paths, or each path's own style picture; "target" is
    the state that the student's is held against (levels xq-xq). Where there are style pictures, "auto" is
    `path-end` with a bank and `style` without one, since samples are not in the style; else `x0`."""
    levels: Literal["xs-xr", "xs", "xs-x0", "x0", "xs-xR", "xq-xq"] = "xs-xr"
    """Levels of the student's state and the real one; "xs-xr", STD's, takes r below s at random; "xq-xq",
    PCM's, noises both to one level q in [s, s + T/`steps`), below the path's start. With methods that predict
    a clean latent, as lcm, it is "x0" always."""
    loss: Literal["hinge", "non-saturating"] = "hinge"
    norm: Literal["group", "local-batch"] = "group"
    """Normalization inside the heads; "local-batch" is the paper's."""
    gradient_penalty: Weight = 1e-5
    r1: Weight = 0.0
    """Of the approximate R1 penalty."""
    learning_rate: Positive = 1e-4
    start_step: Natural = 0
    """Step at which the student begins to see it; the discriminator learns from the first."""


class OnlineSection(Section):
    """The paper's bank, filled while the student learns: for those without disk, and for comparison."""

    slots: Count = 128
    """Paths under way at once."""
    rate: Share = 1.0
    """The paper's rho: how often a state comes from the bank, else from a fresh path."""


class TrainSection(Section):
    """The run."""

    steps: Count = 1000
    batch_size: Count = 8
    """Per device and micro-batch."""
    accumulation: Count = 1
    """Micro-batches per step."""
    learning_rate: Positive = 1e-4
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_steps: Natural | None = None
    """First steps, over which the learning rate rises; else a tenth of all, at most 50."""
    loss: Literal["huber", "l2"] = "huber"
    huber_c: Positive = 1e-3
    weight_decay: Weight = 0.0
    max_grad_norm: Positive = 1.0
    average_decay: Decay = 0.99
    """Of the averaged weights, which are the ones that are exported; 0 exports the last."""
    checkpointing: bool = False
    """Recompute activations in the backward pass, to save memory."""
    log_every: Count = 25
    sample_every: Natural = 250
    """Steps between sheets of pictures; 0 makes none."""
    checkpoint_every: Count = 250
    tensorboard: bool = False
    """Write the metrics for TensorBoard too."""

    @property
    def rise(self) -> int:
        """`warmup_steps`, or what stands for it."""
        return min(50, self.steps // 10) if self.warmup_steps is None else self.warmup_steps

    def conflicts(self) -> Iterator[tuple[str, str]]:
        if self.rise >= self.steps:
            yield "warmup_steps", f"{self.warmup_steps} leaves nothing of {self.steps} steps"


class DistillInputs(Section):
    """What a student is made from; the sections of the methods come after it."""

    method: str = DEFAULT
    bank: Text | None = None
    """Folder of a finished bank; without one, paths are walked from `paths.data` while the student learns."""
    model: Text | None = None
    """The teacher, where it has moved since the bank was built."""
    base: Text | None = None
    """Folder of configs for a single-file teacher."""
    init: Text | None = None
    """Student to start from instead of the base: a run, a student's folder or file, or a Hub id."""


class DistillSettings(DistillInputs):
    """`stdcli distill`, but for the sections of the methods."""

    student: StudentSection = StudentSection()
    adversary: AdversarySection = AdversarySection()
    train: TrainSection = TrainSection()
    online: OnlineSection = OnlineSection()
    style_data: Text | None = None
    """Folder of the bank's style pictures, for sheets of samples and the adversary's `real: style`; without a
    bank it is `paths.style_data`."""
    paths: BankConfig = BankConfig()
    """Without a bank: the settings that `stdcli bank build` takes."""
    step_counts: StepCounts = (2, 4, 6, 8)
    """Numbers of steps that the student is for."""
    steps: Steps = 4
    """Steps that it takes unless told otherwise."""
    seed: Seed = 0
    dtype: Dtype = "auto"
    device: Device = "auto"
    offline: bool = False

    def rollout_config(self) -> BankConfig:
        """`paths` with what the run itself is told: device, dtype, offline, seed; model, base where given."""
        shared = {name: getattr(self, name) for name in ("device", "dtype", "offline", "seed")}
        if self.student.kind == "full":
            shared["dtype"] = "float32"  # the base that is trained is the one that walks
        shared["keep_levels"] = None
        given = {"model": self.model, "base": self.base}
        return self.paths.model_copy(update=shared | {k: v for k, v in given.items() if v is not None})

    @property
    def is_online(self) -> bool:
        """Whether paths are walked while the student learns."""
        return self.bank is None and bool(self.paths.data)

    @property
    def has_target_time(self) -> bool:
        """Whether the network is told the target level."""
        return self.student.s_embedding or find_method(self.method).sees_target

    def section_of(self, method: MethodSettings) -> Any:
        """A method's own settings."""
        return getattr(self, section_name(method))

    def conflicts(self) -> Iterator[tuple[str, str]]:
        method = find_method(self.method)
        if self.steps not in self.step_counts:
            yield "steps", f"{self.steps} is not among step_counts {list(self.step_counts)}"
        yield from method.conflicts(self)
        yield from self._unused_sections(method)
        if self.adversary.weight and self.adversary.real == "style":
            yield from self._style_conflicts()
        if self.adversary.weight and self.adversary.real == "target":
            if method.predicts_x0:
                yield "adversary.real", f"target is a state, and {method.name} compares clean latents"
            elif self.adversary.levels != "xq-xq":
                yield (
                    "adversary.real",
                    "target needs --set adversary.levels=xq-xq, which shows both at one level",
                )
        if self.bank is not None and self.paths.data:
            yield "paths.data", "is not used beside a bank; leave one of the two out"
        if self.adversary.weight and self.adversary.norm == "local-batch":
            size = self.train.batch_size
            if size % math.ceil(size / VIRTUAL_BATCH):
                yield "train.batch_size", f"{size} does not divide into equal parts for local-batch norm"
        if self.is_online:
            yield from self._online_conflicts(method)

    def _unused_sections(self, method: MethodSettings) -> Iterator[tuple[str, str]]:
        """Settings of other methods that are given and not read."""
        for other in map(find_method, method_names()):
            if other is method or other.section is None:
                continue
            given = self.section_of(other)
            for name, field in type(given).model_fields.items():
                key = f"{section_name(other)}.{name}"
                if getattr(given, name) != field.default and key not in method.borrows:
                    yield key, f"belongs to method {other.name}; {method.name} does not use it"

    def _style_conflicts(self) -> Iterator[tuple[str, str]]:
        walks = self.is_online
        key, given = ("paths.style_data", self.paths.style_data) if walks else ("style_data", self.style_data)
        if given is None:
            yield key, "is needed for adversary.real style; --style-data FOLDER"
        elif walks and given == SELF:
            yield key, f"{SELF} takes crops of the samples, and adversary.real style needs style pictures"

    def _online_conflicts(self, method: MethodSettings) -> Iterator[tuple[str, str]]:
        if method.states != "path":
            yield "bank", f"method {self.method} needs one: its samples and conditions come from there"
        if self.adversary.real == "path-end" and self.adversary.weight:
            yield "bank", "adversary.real path-end needs one"
        if self.train.batch_size > self.online.slots:
            yield "online.slots", f"{self.online.slots} are fewer than a batch of {self.train.batch_size}"


def section_name(method: MethodSettings) -> str:
    """The key of a method's own settings."""
    return method.name.replace("-", "_")


def distill_config() -> type[DistillSettings]:
    """`DistillSettings` with the sections of all methods that are known."""
    names = method_names()
    sections = {
        section_name(method): (method.section, method.section())
        for method in map(find_method, names)
        if method.section is not None
    }
    between = create_model("MethodSections", __base__=DistillInputs, __module__=__name__, **sections)
    return create_model(
        "DistillConfig",
        __base__=(DistillSettings, between),
        __module__=__name__,
        __doc__="`stdcli distill`: train a student of few steps.",
        method=(Literal[names], DEFAULT),
    )


DistillConfig = distill_config()
