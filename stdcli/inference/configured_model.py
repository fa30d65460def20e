"""Which model and student a run uses, and whether the values in force are those it was trained for."""

from __future__ import annotations

from collections.abc import Iterator

from stdcli.config.recipe import Trained
from stdcli.config.schema import StylizeConfig
from stdcli.diffusion.levels import LevelError, make_sampling_path
from stdcli.inference.settings import SamplingSettings
from stdcli.models.bundle import Bundle
from stdcli.models.load import load_model
from stdcli.models.locate import EMBEDDED, has_embedded_student
from stdcli.models.spec import ModelSpec
from stdcli.reporter import Reporter

NO_STUDENT = "none"


def choose_student(config: StylizeConfig) -> str | None:
    """The student to load: the one asked for, else the embedded model's own if there is one.

    Returns:
        A name for `load_model`; None for the model itself.
    """
    if config.student is None:
        return EMBEDDED if config.model == EMBEDDED and has_embedded_student() else None
    return None if config.student == NO_STUDENT else config.student


def load_configured(
    config: StylizeConfig,
    *,
    styles: bool,
    masked: bool = False,
    weights: bool = True,
    reporter: Reporter,
) -> Bundle:
    """Load what settings name: model, student, LoRAs.

    Args:
        config: the user's values.
        styles: whether style pictures will be given.
        masked: whether masks will be given.
        weights: see `load_model`.
        reporter: shown what is being done.

    Raises:
        ModelError, HubError, ResourceError: as `load_model`.
    """
    with reporter.stage(f"loading {config.model}") as tell:
        return load_model(
            ModelSpec.of(config, student=choose_student(config), loras=config.lora),
            style_scale=config.style_scale,
            styles=styles,
            masked=masked,
            weights=weights,
            tell=tell,
        )


def check_training_range(bundle: Bundle, settings: SamplingSettings) -> Iterator[tuple[str, str]]:
    """What is asked of a student that it was not trained for.

    Args:
        bundle: the model, the student in it.
        settings: the values in force.

    Yields:
        (flag, one sentence: both values and what to type).
    """
    trained, recipe = bundle.network.recipe.trained, settings.recipe
    if trained is not None:
        yield from _base(bundle, trained)
        yield from _start(bundle, settings, trained)
        if settings.evaluations not in trained.supported_steps:
            known = _listed(trained.supported_steps)
            yield "--steps", f"this student was trained for {known} steps, not {settings.evaluations}"
    if recipe.guidance_fused and recipe.guidance > 1:
        yield (
            "--guidance",
            f"guidance {recipe.guidance:g} doubles the forwards: live guidance on top of the fused one; "
            "--guidance 1 is what this student was trained for",
        )


def _start(bundle: Bundle, settings: SamplingSettings, trained: Trained) -> Iterator[tuple[str, str]]:
    start_t, recipe = settings.plan.timesteps[0], settings.recipe
    if abs(start_t - trained.start_t) < 0.5:
        return
    strength = "" if recipe.timesteps else f" (strength {recipe.strength:g})"
    yield (
        "--timesteps" if recipe.timesteps else "--strength",
        f"this student was trained to start at timestep {trained.start_t:g} (strength {trained.strength:g}); "
        f"this run starts at {start_t:g}{strength}: {_remedy(bundle, settings, trained)}",
    )


def _remedy(bundle: Bundle, settings: SamplingSettings, trained: Trained) -> str:
    """What to type to start where a student was trained to."""
    path = settings.recipe.path() | {"strength": trained.strength, "timesteps": None}
    try:
        plan = make_sampling_path(bundle.network.schedule, **path)
    except LevelError:
        return f"--timesteps {trained.start_t:g},..."
    if abs(plan.timesteps[0] - trained.start_t) < 0.5:
        return f"--strength {trained.strength:g}"
    return f"--timesteps {trained.start_t:g},..."


def _base(bundle: Bundle, trained: Trained) -> Iterator[tuple[str, str]]:
    for component, stored in trained.base_sha256.items():
        current = bundle.network.hash_of(component)
        if current is None and component in bundle.network.weight_files:
            bundle.network.notes.append(
                f"whether {bundle.network.name} is what this student was trained on is for a run to tell"
            )
        if current is not None and current != stored:
            yield (
                "--model",
                f"this student was trained on {trained.base}, whose {component} has SHA-256 {stored[:12]}; "
                f"that of {bundle.network.name} has {current[:12]}: --model {trained.base}",
            )
            return


def _listed(numbers: tuple[int, ...]) -> str:
    *most, last = map(str, sorted(numbers))
    return f"{', '.join(most)} or {last}" if most else last
