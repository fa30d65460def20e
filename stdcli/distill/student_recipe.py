"""How a student wants to be sampled, written beside its weights."""

from __future__ import annotations

from stdcli.config.distill import DistillConfig
from stdcli.config.recipe import Recipe, Start, Trained
from stdcli.diffusion.levels import make_sampling_path
from stdcli.distill.method import Method
from stdcli.distill.teacher_paths import TeacherPaths
from stdcli.models.bundle import Network

HASH = "_sha256"


def make_recipe(config: DistillConfig, *, paths: TeacherPaths, network: Network, method: Method) -> Recipe:
    """The recipe of a run's student.

    Raises:
        LevelError: no path of so many steps.
    """
    manifest = paths.manifest
    plan = make_sampling_path(
        network.schedule,
        steps=config.steps,
        strength=manifest.strength,
        num_solver_steps=manifest.num_solver_steps,
    )
    hashes = {k.removesuffix(HASH): str(v) for k, v in network.identity.items() if k.endswith(HASH)}
    return Recipe(
        timesteps=tuple(int(t) for t in plan.timesteps) if network.schedule.kind == "vp" else None,
        steps=config.steps,
        strength=manifest.strength,
        num_solver_steps=manifest.num_solver_steps,
        guidance=1.0,
        guidance_fused=manifest.guidance["max"] != 1,
        start=Start(transform=manifest.start["transform"]),
        trained=Trained(
            method=method.name,
            strength=manifest.strength,
            start_t=plan.timesteps[0],
            supported_steps=method.supported_steps(config),
            base=str(manifest.model["name"]),
            base_sha256=hashes,
            s_embedding=config.has_target_time,
        ),
        **method.sampling,
    )
