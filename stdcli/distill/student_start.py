"""A student in training that begins as an earlier one, instead of as its base."""

from __future__ import annotations

import torch
from safetensors.torch import load_file

from stdcli.distill.student import ADAPTER, Student
from stdcli.errors import ConfigError, ModelError, NumericsError
from stdcli.models.lora.reading import LoraLayer
from stdcli.models.lora.unet_layers import read_layers
from stdcli.models.student_files import StudentFiles
from stdcli.models.target_time import load_embedder
from stdcli.models.weights import is_finite


@torch.no_grad()
def start_from(student: Student, found: StudentFiles) -> None:
    """Give a student the weights of an earlier one: both then give the same output.

    Adapters of a lower rank fill the first rows and columns; the rest of the second halves stays zero. An
    embedder of the target time that the earlier one has not stays as it is, zero.

    Args:
        student: of `make_student`; changed in place.
        found: the earlier one's files.

    Raises:
        ConfigError: it is of another kind, or of a higher rank.
        ModelError: it does not fit the network.
        NumericsError: a value of it is NaN or infinite.
    """
    if found.kind != student.kind:
        problem = f"{found.name} is a student of kind {found.kind}, this run trains {student.kind}"
        raise ConfigError("cannot start from this student", [("student.kind", problem)])
    if found.has_target_time and not student.has_target_time:
        problem = f"{found.name} is told where each step aims, this run's student is not"
        raise ConfigError("cannot start from this student", [("student.s_embedding", problem)])
    if student.kind == "lora":
        _start_lora(student, found)
        if found.has_target_time:
            embedder = student.network.get_submodule(student.denoiser.target_embedder)
            load_embedder(embedder, found.weights[-1])
        return
    values = {name: value for path in found.weights for name, value in load_file(path).items()}
    for name, _ in student.network.named_buffers():
        values.pop(name, None)
    parameters = student.trainable()
    wrong = [
        name for name in parameters.keys() | values.keys() if name not in parameters or name not in values
    ]
    wrong += [
        name for name in parameters.keys() & values.keys() if parameters[name].shape != values[name].shape
    ]
    if wrong:
        raise _misfit(found, wrong, len(parameters))
    for name, value in values.items():
        if not is_finite(value):
            raise NumericsError("a weight is NaN or infinite", where=found.name, got=name)
        parameters[name].copy_(value)


def _start_lora(student: Student, found: StudentFiles) -> None:
    parameters, layers = student.trainable(), read_layers(found.weights[0])
    config = student.network.peft_config[ADAPTER]
    pairs = {name: (f"{name}.lora_A.weight", f"{name}.lora_B.weight") for name in layers}
    wrong = [
        name
        for name, (down, up) in pairs.items()
        if down not in parameters or not _fits(layers[name], parameters[down], parameters[up])
    ]
    if wrong:
        raise _misfit(found, wrong, len(layers))
    rank = max(layer.rank for layer in layers.values())
    room = min(len(parameters[down]) for down, _ in pairs.values())
    if rank > room:
        problem = f"{room} here, {rank} in {found.name}"
        raise ConfigError(
            "cannot start from this student", [("student.rank", problem)], hint=f"--rank {rank}"
        )
    for name, layer in layers.items():
        down, up = (parameters[part] for part in pairs[name])
        down[: layer.rank].copy_(layer.down.reshape(-1, *down.shape[1:]))
        up.zero_()
        scale = layer.alpha / layer.rank / (config.lora_alpha / config.r)
        up[:, : layer.rank].copy_(layer.up.reshape(len(up), -1, *up.shape[2:]).float() * scale)


def _fits(layer: LoraLayer, down: torch.Tensor, up: torch.Tensor) -> bool:
    return layer.fits((len(up), *down.shape[1:]))


def _misfit(found: StudentFiles, wrong: list[str], total: int) -> ModelError:
    return ModelError(
        "this student does not fit the network that is trained",
        where=found.weights[0],
        got=f"{len(wrong)} of {total} layers do not fit, such as {sorted(wrong)[0]}",
    )
