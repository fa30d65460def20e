"""From settings to everything that one run trains with: networks, method, batches, adversary, training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from accelerate import Accelerator
from torch import Tensor

from stdcli.bank.order import PairOrder, StagedOrder
from stdcli.config.distill import DistillConfig
from stdcli.config.distill_methods import find_method
from stdcli.diffusion.levels import Level, LevelError, select_levels
from stdcli.diffusion.predictions import Denoised
from stdcli.diffusion.solvers import jump
from stdcli.distill.adversarial_term import AdversarialTerm, Reach
from stdcli.distill.adversary_setup import GetCodec, make_adversary, make_real_latents
from stdcli.distill.batch_sources import BankSource, BatchSource, OnlineSource, Ranks, TeacherStep
from stdcli.distill.learner import EMA_STUDENT, STAGE_STUDENT, STUDENT, Learner
from stdcli.distill.loss_terms import LossTerms
from stdcli.distill.method import Method
from stdcli.distill.own_states import DenoiseUnder, OwnStates
from stdcli.distill.renoised import Renoised
from stdcli.distill.roles import Roles
from stdcli.distill.student import Student, make_student
from stdcli.distill.student_start import start_from
from stdcli.distill.task import DistillTask
from stdcli.distill.teacher_paths import TeacherPaths
from stdcli.errors import ConfigError
from stdcli.models.bundle import Network
from stdcli.models.condition import Condition
from stdcli.models.denoiser import Denoiser
from stdcli.models.student_files import StudentFiles
from stdcli.training.ema import Ema, Frozen
from stdcli.training.exchange import share_from_first
from stdcli.training.trained_module import TrainedModule, make_lr_schedule

EMA_TARGET, EMA_EXPORT, STAGE = "target", "export", "stage"
"""Other weights of the student: averages for the target network and for export; those of the stage before."""
ROLES = {EMA_STUDENT: EMA_TARGET, STAGE_STUDENT: STAGE}


@dataclass
class Training:
    """Everything of a run.

    Attributes:
        paths: what is learned from.
        network: the base, its denoiser being the student's.
        roles: what evaluates.
        task: yields losses.
        trained_modules: what is trained.
        ema: weights of the student beside its own, by name: running averages, and those of the stage before.
        notes: what the user should know.
    """

    paths: TeacherPaths
    network: Network
    roles: Roles
    task: DistillTask
    trained_modules: list[TrainedModule]
    ema: dict[str, Ema | Frozen]
    notes: list[str] = field(default_factory=list)

    def exported(self) -> dict[str, Tensor]:
        """The weights that the student is saved with."""
        if EMA_EXPORT in self.ema:
            return self.ema[EMA_EXPORT].average
        return dict(self.roles.module.trainable())

    def begin_stage(self) -> None:
        """Keep the student as the stage before left it, where the method asks for it."""
        if STAGE in self.ema:
            self.ema[STAGE].take()


def build(
    config: DistillConfig,
    *,
    paths: TeacherPaths,
    network: Network,
    accelerator: Accelerator,
    get_codec: GetCodec,
    start: StudentFiles | None = None,
) -> Training:
    """Put a run together.

    Args:
        config: settings.
        paths: what to learn from.
        network: the base; its denoiser becomes the student's.
        accelerator: of this process.
        get_codec: loads the base's codec.
        start: an earlier student, to begin as; None begins as the base.

    Raises:
        BankMismatchError: the base is not the teacher that walked the paths.
        ConfigError: settings that do not fit the paths, or the student to start from.
        ModelError, HubError: DINOv2 is asked for and cannot be loaded, or that student does not fit.
    """
    table = paths.check(network)
    method = make_method(config, paths, table)
    has_adversary = config.adversary.weight > 0
    keep_teacher = paths.bank is None or "teacher" in method.needs or has_adversary
    student = _student(config, network, start, keep_teacher=keep_teacher)
    ema = _make_ema(config, student, method)
    roles = Roles(
        module=student,
        prediction=network.prediction,
        schedule=network.schedule,
        device=network.device,
        autocast=accelerator.autocast,
        weights={role: ema[name].average for role, name in ROLES.items() if name in ema},
    )
    ranks = Ranks(config.train.batch_size, accelerator.process_index, accelerator.num_processes)
    source = _source(config, paths, method=method, table=table, roles=roles, ranks=ranks)
    terms = LossTerms(paths.start_id, config.train.loss, config.train.huber_c)
    task = DistillTask(method, source, roles, terms, config.train.accumulation)
    training = Training(paths, network, roles, task, [], ema)
    if has_adversary:
        _add_adversary(training, config, accelerator, table=table, get_codec=get_codec)
    learners = [*method.learners(roles), *task.terms.learners()]
    for learner in learners:
        share_from_first([*learner.parameters.values(), *learner.buffers.values()], accelerator)
    training.trained_modules += [make_trained(learner, ema, config, accelerator) for learner in learners]
    return training


def _student(
    config: DistillConfig, network: Network, start: StudentFiles | None, *, keep_teacher: bool
) -> Student:
    student = make_student(
        network.denoiser,
        kind=config.student.kind,
        rank=config.student.rank,
        alpha=config.student.alpha,
        has_target_time=config.has_target_time,
        keep_teacher=keep_teacher,
        checkpointing=config.train.checkpointing,
        seed=config.seed,
    )
    if start is not None:
        start_from(student, start)
    return student


def make_method(config: DistillConfig, paths: TeacherPaths, table: tuple[Level, ...]) -> Method:
    """The method that the settings name.

    Raises:
        ConfigError: its number of steps has no path among these levels.
    """
    try:
        for steps in config.step_counts:
            select_levels(paths.start_id, steps)
        return find_method(config.method).from_settings(config, paths=paths, table=table)
    except LevelError as error:
        raise ConfigError("too many steps for these paths", [("step_counts", str(error))]) from error


class TeacherDenoiser(Denoiser):
    """The teacher inside a student, as a denoiser.

    Args:
        roles: of the run.
    """

    def __init__(self, roles: Roles) -> None:
        super().__init__(roles.module.network)
        self._roles = roles

    @property
    def multiple(self) -> int:
        """The student's."""
        return self._roles.module.denoiser.multiple

    @property
    def sees_photo(self) -> bool:
        """As the student."""
        return self._roles.module.denoiser.sees_photo

    @torch.no_grad()
    def __call__(self, x: Tensor, t: Tensor | float, condition: Condition, **_: object) -> Tensor:
        """As the base would answer."""
        with self._roles.autocast(), self._roles.module.as_teacher():
            return self._roles.module(x, t, condition)


def _make_ema(config: DistillConfig, student: Student, method: Method) -> dict[str, Ema | Frozen]:
    ema: dict[str, Ema | Frozen] = {}
    if method.ema_decay is not None:
        ema[EMA_TARGET] = Ema(student.trainable(), decay=method.ema_decay)
    if config.train.average_decay:
        ema[EMA_EXPORT] = Ema(student.trainable(), decay=config.train.average_decay)
    if method.keeps_stage_weights:
        ema[STAGE] = Frozen(student.trainable())
    return ema


def _source(
    config: DistillConfig,
    paths: TeacherPaths,
    *,
    method: Method,
    table: tuple[Level, ...],
    roles: Roles,
    ranks: Ranks,
) -> BatchSource:
    if paths.bank is None:
        from stdcli.rollout.teacher_rollout import make_online_bank  # a stored bank needs none of it

        rollout = paths.rollout
        network = replace(rollout.bundle.network, denoiser=TeacherDenoiser(roles))
        bundle = replace(rollout.bundle, network=network)
        online = make_online_bank(
            replace(rollout.teacher, bundle=bundle),
            rollout.pictures,
            rollout.sample_of,
            num_slots=config.online.slots,
            rank=ranks.rank,
            num_ranks=ranks.num_ranks,
            rate=config.online.rate,
        )
        return OnlineSource(online, method, ranks, config.seed, roles.device)
    order = _order(config, paths, method, ranks)
    step = _teacher_step(roles) if method.states == "data" else None
    own, mixed = method.states == "own", method.own_share > 0
    return BankSource(
        paths.bank,
        method,
        table,
        order,
        ranks,
        roles.device,
        teacher_step=step,
        own_states=_own_states(config, paths, table, roles) if own else None,
        renoised=_renoised(config, paths, table, roles, method.own_share) if mixed else None,
    )


def _own_states(
    config: DistillConfig, paths: TeacherPaths, table: tuple[Level, ...], roles: Roles
) -> OwnStates:
    denoise = _student_alone(roles, table)
    return OwnStates(denoise, roles.schedule, table, paths.start_id, config.step_counts, config.seed)


def _renoised(
    config: DistillConfig, paths: TeacherPaths, table: tuple[Level, ...], roles: Roles, share: float
) -> Renoised:
    ids = range(1, paths.start_id + 1)
    return Renoised(_student_alone(roles, table), table, ids, share, config.seed)


def _student_alone(roles: Roles, table: tuple[Level, ...]) -> DenoiseUnder:
    def denoise(x: Tensor, level: Level, cond: Condition) -> Denoised:
        return roles.student(x, level, cond, to_level=table[0])

    return denoise


def _order(
    config: DistillConfig, paths: TeacherPaths, method: Method, ranks: Ranks
) -> PairOrder | StagedOrder:
    if method.stages is not None:
        items = ranks.batch_size * ranks.num_ranks * config.train.accumulation
        levels = [tuple(sorted(sampler.free, reverse=True)) for sampler in method.target_sampler.samplers]
        firsts = [first * items for first in method.stages.firsts]
        return StagedOrder.of(len(paths.bank), levels, firsts, config.seed)
    # data can be noised to every level, while states are there only where they were stored
    is_data = method.states == "data"
    ids = range(paths.start_id, 0, -1) if is_data else paths.manifest.level_ids[:-1]
    if method.states == "own":
        ids = (paths.start_id,)  # where walks begin; how far they go is drawn
    return PairOrder(len(paths.bank), tuple(ids), config.seed)


def _teacher_step(roles: Roles) -> TeacherStep:
    def step(
        x: Tensor, level: Level, to_level: Level, cond: Condition, uncond: Condition, guidance: Tensor
    ) -> Tensor:
        denoised = roles.teacher(x, level, cond, uncond, guidance=guidance)
        return jump(x, denoised, from_level=level, to_level=to_level)

    return step


def make_trained(
    learner: Learner, ema: Mapping[str, Ema | Frozen], config: DistillConfig, accelerator: Accelerator
) -> TrainedModule:
    """A learner with its optimizer; the student's averages follow its steps."""
    train, parameters = config.train, list(learner.parameters.values())
    peak = train.learning_rate if learner.learning_rate is None else learner.learning_rate
    averages = [average.update for average in ema.values()] if learner.name == STUDENT else []
    return TrainedModule(
        learner.name,
        learner.parameters,
        torch.optim.AdamW(parameters, lr=peak, weight_decay=train.weight_decay),
        make_lr_schedule(peak, steps=train.steps, warmup_steps=train.rise, schedule=train.schedule),
        train.max_grad_norm,
        buffers=learner.buffers,
        scaler=torch.amp.GradScaler(parameters[0].device.type, enabled=accelerator.mixed_precision == "fp16"),
        after_update=[*averages, *learner.after_update],
    )


def _add_adversary(
    training: Training,
    config: DistillConfig,
    accelerator: Accelerator,
    *,
    table: Sequence[Level],
    get_codec: GetCodec,
) -> None:
    """Give the run's losses an adversary, and its batches real latents."""
    section, roles, task = config.adversary, training.roles, training.task
    adversary, note = make_adversary(
        section,
        paths=training.paths,
        student=roles.module,
        get_codec=get_codec,
        device=roles.device,
        seed=config.seed,
        offline=config.offline,
        sees_given=task.method.judges_transitions,
    )
    kind = "the method's targets"
    judges_target = section.real == "target"
    if not task.method.judges_transitions and not judges_target:
        task.source.real_latents, kind = make_real_latents(
            section,
            paths=training.paths,
            style_data=config.style_data,
            get_codec=get_codec,
            device=roles.device,
        )
    training.notes.append(f"{note}; its real pictures are {kind}")
    term = AdversarialTerm(
        adversary,
        variant="x0" if task.method.predicts_x0 else section.levels,
        weight=section.weight,
        start_step=section.start_step,
        learning_rate=section.learning_rate,
        schedule=training.network.schedule,
        table=table,
        seed=config.seed,
        reach=Reach(
            training.network.schedule.num_train_timesteps / config.steps, table[training.paths.start_id].t
        ),
        judges_target=judges_target,
    )
    task.terms = replace(task.terms, adversarial=term)
