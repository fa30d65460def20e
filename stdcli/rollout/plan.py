"""What a build is going to do: the manifest, the samples, and what it takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from stdcli.bank.conditions import EXACT, content_hash
from stdcli.bank.format import Manifest, level_json
from stdcli.config.bank import BankConfig
from stdcli.diffusion.levels import LevelError, SamplingPath, make_teacher_path
from stdcli.diffusion.predictions import check_path
from stdcli.disk import space
from stdcli.errors import ConfigError
from stdcli.models.bundle import Bundle
from stdcli.models.condition import CONCAT
from stdcli.rollout.path_inputs import Sample

_ROW_BYTES = 450  # of a path's line in samples.jsonl and in its sidecar together, roughly


def teacher_path(config: BankConfig, bundle: Bundle) -> SamplingPath:
    """Every level that the teacher visits.

    Raises:
        ConfigError: strength and number of solver steps name no path, or one that the teacher cannot walk.
    """
    strength = bundle.network.recipe.strength if config.strength is None else config.strength
    try:
        path = make_teacher_path(
            bundle.network.schedule, num_solver_steps=config.num_solver_steps, strength=strength
        )
        check_path(path, bundle.network.prediction)
    except LevelError as error:
        raise ConfigError(str(error), hint="stdcli bank build --help") from error
    return path


def guidance_range(config: BankConfig, bundle: Bundle) -> tuple[float, float]:
    """Lowest and highest guidance of the paths."""
    return config.guidance_range or (bundle.network.recipe.guidance, bundle.network.recipe.guidance)


def describe(config: BankConfig, bundle: Bundle, *, num_paths: int) -> Manifest:
    """The manifest of the bank that is asked for.

    Raises:
        ConfigError: no such path or level, or a side that is no multiple of the model's.
    """
    path = teacher_path(config, bundle)
    side_px = config.resolution or bundle.network.family.size_px
    if side_px % bundle.multiple_px:
        problem = f"{side_px} is not a multiple of {bundle.multiple_px}, as this model needs"
        raise ConfigError("the resolution does not fit", [("resolution", problem)])
    ids = {level.id for level in path.levels}
    kept = ids if config.keep_levels is None else {*config.keep_levels, max(ids), min(ids)}
    if not kept <= ids:
        problem = f"{', '.join(map(str, sorted(kept - ids)))} not in {min(ids)}..{max(ids)}"
        raise ConfigError("no such level on this path", [("keep_levels", problem)])
    low, high = guidance_range(config, bundle)
    probe = torch.zeros(1, 3, bundle.multiple_px, bundle.multiple_px, device=bundle.network.device)
    with torch.inference_mode():
        channels = bundle.codec.encode(probe).shape[1]
    cells = side_px // bundle.codec.factor
    pooled = {} if config.pooled == "zero" else {"pooled": config.pooled}
    return Manifest(
        model=dict(bundle.network.identity),
        schedule=bundle.network.schedule.fingerprint(),
        prediction=str(bundle.network.prediction),
        levels=tuple(level_json(level) for level in path.levels if level.id in kept),
        strength=bundle.network.recipe.strength if config.strength is None else config.strength,
        num_solver_steps=config.num_solver_steps,
        solver=config.solver,
        guidance={"min": low, "max": high, "form": "imagen"} | pooled,
        latent_shape=(channels, cells, cells),
        resolution_px=side_px,
        compute_dtype=str(bundle.network.dtype).removeprefix("torch."),
        store_dtype=config.store_dtype,
        start={"transform": config.start or bundle.network.recipe.start.transform},
        seed=config.seed,
        num_paths=num_paths,
        shard_size=config.shard_size,
    )


@dataclass(frozen=True)
class Cost:
    """What a bank takes.

    Attributes:
        path_bytes: of one path's states and clean latent.
        total_bytes: of the whole bank.
        evaluations: of the teacher per path.
        forwards: of the teacher per path; guidance makes two of an evaluation.
    """

    path_bytes: int
    total_bytes: int
    evaluations: int
    forwards: int


def estimate(
    manifest: Manifest, path: SamplingPath, samples: Sequence[Sample], probes: Sequence[dict[str, Tensor]]
) -> Cost:
    """Bytes and forwards of a bank.

    Args:
        manifest: of the bank.
        path: the teacher's path.
        samples: of all paths.
        probes: conditions of one or two paths that differ in prompt and style, if any do: what is equal in
            both is taken to be equal in all.
    """
    item = torch.finfo(getattr(torch, manifest.store_dtype)).bits // 8
    cells = 1
    for side in manifest.latent_shape:
        cells *= side
    path_bytes = cells * item * (len(manifest.levels) + 1) + 4 + 8 + 8 + 8 * len(probes[0])
    total = len(samples) * (path_bytes + _ROW_BYTES)
    varying = fixed = 0
    for name, value in probes[0].items():
        size = value.numel() * (value.element_size() if name.endswith(EXACT) else item)
        if name.endswith(CONCAT):
            total += size * len(samples)
        elif len({content_hash(probe[name]) for probe in probes}) > 1:
            varying += size
        else:
            fixed += size
    for shard in range(manifest.num_shards):
        paths = [samples[path] for path in manifest.paths_of(shard)]
        kinds = {(s.prompt, s.style_sha256 or (s.style and s.sample_id)) for s in paths}
        total += fixed + varying * len(kinds)
    evaluations = path.evaluations
    guided = (manifest.guidance["min"], manifest.guidance["max"]) != (1, 1)
    return Cost(path_bytes, total, evaluations, evaluations * (1 + guided))


def check_space(root: Path, needed_bytes: int) -> None:
    """Refuse what the disk cannot hold.

    Raises:
        ResourceError: it is too small.
    """
    hint = "fewer --num-paths, --max-bytes, or --keep-levels"
    space.check_space(root, needed_bytes, what="the disk is too small for the bank", hint=hint)
