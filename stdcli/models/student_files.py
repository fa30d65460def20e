"""A distilled student on disk: find it, check it, give it to a model.

    pytorch_lora_weights.safetensors      low-rank adapters, in diffusers' format; or
    target_time_embedder.safetensors      beside these, where the network is told where a step aims
    unet/                                 all weights: config.json, diffusion_pytorch_model.safetensors
    recipe.json                           how it wants to be sampled, and what it was trained for

`student.py` writes these. Knows no pictures and no sampling.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file

from stdcli.config.recipe import Recipe
from stdcli.errors import ModelError
from stdcli.models.configs import read_json
from stdcli.models.denoiser import Denoiser
from stdcli.models.folder import component_files, read_recipe, stored_recipe
from stdcli.models.layout import EMBEDDER_FILE, LORA_FILE, NETWORKS
from stdcli.models.locate import EMBEDDED, locate_lora, locate_student
from stdcli.models.lora.fusing import check_lora_file, fuse_lora
from stdcli.models.target_time import load_embedder
from stdcli.models.weights import read_shapes

RUN_FILE = "run.json"
OWN_KEYS = ("encoder_hid_dim_type", "sample_size", "time_cond_proj_dim")
"""What may differ between the configs of a model's UNet and a student's."""


@dataclass(frozen=True)
class StudentFiles:
    """A student that was found and whose files are whole.

    Attributes:
        name: as the user gave it.
        kind: `lora` or `full`.
        weights: its files; of a LoRA the weights, peft's config where they need it, and last the embedder of
            the target time where there is one.
        recipe: from the folder where they lie, or from the file itself; None where there is none.
    """

    name: str
    kind: Literal["lora", "full"]
    weights: Sequence[Path]
    recipe: Recipe | None

    @property
    def has_target_time(self) -> bool:
        """Whether its network is told where a step aims."""
        trained = self.recipe and self.recipe.trained
        return trained is not None and trained.s_embedding


def find_student(name: str, *, offline: bool) -> StudentFiles:
    """Find a student and check what its files alone tell.

    Args:
        name: see `locate_student`.
        offline: never reach the network.

    Raises:
        ModelError: nothing there, damaged, a run that has no student yet, a file that is no LoRA, or a
            network that is told something else than where a step aims.
        HubError: cannot be fetched.
    """
    path = locate_student(name, offline=offline).path
    if not path.exists():
        raise ModelError(f"the model '{EMBEDDED}' has no student in this installation", where=path)
    part = next((part for part in NETWORKS if (path / part).is_dir()), None)
    if part is not None and not (path / LORA_FILE).is_file():
        weights = component_files(path / part, half=True)
        student = StudentFiles(name, "full", weights, read_recipe(path))
        _check_target(path / part, student)
        return student
    if (path / RUN_FILE).is_file():
        raise ModelError(
            "this run has no student yet",
            where=path,
            expected=f"student/{LORA_FILE} or student/{NETWORKS[0]}/",
            hint="the command that began the run goes on with it",
        )
    path = locate_lora(str(path), offline=offline).path if path.is_dir() else path
    files = check_lora_file(path)
    stored = None if path.name == LORA_FILE else stored_recipe(path)  # a loose file speaks for itself
    recipe = stored or read_recipe(path.parent) or stored_recipe(path)
    student = StudentFiles(name, "lora", files, recipe)
    return replace(student, weights=[*files, _embedder_of(path)]) if student.has_target_time else student


def apply_student(pipe: Any, student: StudentFiles, denoiser: Denoiser, *, family: str) -> Sequence[str]:
    """Make a model its student. Call it before LoRAs are fused and a style adapter is installed.

    Args:
        pipe: diffusers pipeline; its network is changed in place.
        student: of `find_student`.
        denoiser: around the network.
        family: the model's family, for messages.

    Returns:
        What the user should know of it.

    Raises:
        ModelError: not all of it fits the model.
    """
    if student.kind == "lora":
        lora = fuse_lora(pipe, student.weights[0], scale=1.0, family=family)
        if student.has_target_time:
            load_embedder(denoiser.add_target_embedder(), student.weights[-1])
        return lora.notes
    _replace_weights(denoiser, student, family=family)
    return ()


def _embedder_of(lora: Path) -> Path:
    """The file beside a LoRA that takes the target time.

    Raises:
        ModelError: it is not there, or damaged.
    """
    path = lora.with_name(EMBEDDER_FILE)
    if not path.is_file():
        raise ModelError(
            "this student is told where each step aims, and the file that takes it is missing",
            where=path,
            expected=f"{EMBEDDER_FILE} beside {lora.name}",
            hint="copy the student's whole folder",
        )
    read_shapes(path)
    return path


def _check_target(folder: Path, student: StudentFiles) -> None:
    width = read_json(folder / "config.json").get("time_cond_proj_dim")
    if (width is not None) != student.has_target_time:
        raise ModelError(
            "network and recipe of this student contradict each other",
            where=folder,
            got=f"time_cond_proj_dim {width}, trained.s_embedding {student.has_target_time}",
            hint="UNets with an embedded guidance value (LCM) are not supported" if width else None,
        )


@torch.no_grad()
def _replace_weights(denoiser: Denoiser, student: StudentFiles, *, family: str) -> None:
    where, network = student.weights[0], denoiser.network
    _check_config(read_json(where.parent / "config.json"), network.config, where=where)
    if student.has_target_time:
        denoiser.add_target_time()
    stored = {name: shape for path in student.weights for name, shape in read_shapes(path).items()}
    current = network.state_dict()
    wrong = [name for name in current.keys() | stored.keys() if name not in current or name not in stored]
    wrong += [name for name in current.keys() & stored.keys() if tuple(current[name].shape) != stored[name]]
    if wrong:
        raise ModelError(
            f"this student does not fit the model, a {family}",
            where=where,
            got=f"{len(current.keys() | stored.keys()) - len(wrong)} of {len(current)} tensors match; "
            f"first that do not: {', '.join(sorted(wrong)[:3])}",
            expected=f"all {len(current)}",
        )
    if network.device.type == "meta":  # an outline: there is nothing to replace
        return
    for path in student.weights:
        for name, value in load_file(path).items():
            current[name].copy_(value)


def _check_config(stored: Mapping[str, Any], current: Mapping[str, Any], *, where: Path) -> None:
    """Networks of the same shapes may still differ, in the number of heads for one."""
    current = json.loads(json.dumps(dict(current), default=str))
    for key, value in stored.items():
        if not key.startswith("_") and key not in OWN_KEYS and current.get(key, value) != value:
            raise ModelError(
                "this student was made from another network than the model's",
                where=where.with_name("config.json"),
                got=f"{key} {value}",
                expected=current[key],
            )
