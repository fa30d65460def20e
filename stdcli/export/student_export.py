"""`stdcli export`: a student in the form that another program reads.

Everything is checked before anything is written: every layer has a name, a place and finite values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from stdcli.config.names import did_you_mean
from stdcli.config.recipe import Recipe
from stdcli.disk.reading import read_object
from stdcli.errors import ConfigError, ModelError
from stdcli.export import metadata
from stdcli.export.lora_formats import adapter_config, cast, family_of_layers, to_diffusers, to_kohya
from stdcli.export.merge import (
    UNET,
    Merge,
    check_merge,
    single_file_tensors,
    write_folder,
)
from stdcli.export.outputs import check_out, is_file_name, new_output
from stdcli.models.configs import read_json
from stdcli.models.families.registry import family_of
from stdcli.models.folder import component_files, read_folder, read_recipe
from stdcli.models.layout import LORA_FILE, RECIPE_FILE
from stdcli.models.locate import is_public, locate_model
from stdcli.models.lora.reading import LoraLayer, read_lora
from stdcli.models.lora.unet_layers import check_finite, unet_layers
from stdcli.models.student_files import RUN_FILE, StudentFiles, find_student
from stdcli.models.weights import hash_files, read_metadata, save_weights

Format = Literal["diffusers", "kohya", "merged"]
FORMATS = ("diffusers", "kohya", "merged")
BANK_HASHES = {"fingerprint": "bank_fingerprint", "shards": "bank_sha256"}
"""Facts of a run -> names of `std.*` values."""
DTYPES = {"auto": None, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Export:
    """An export that was checked.

    Attributes:
        student: what is exported.
        format: see `FORMATS`.
        out: a `.safetensors` file or a folder.
        overwrite: whether what is there may be replaced.
        recipe: how it wants to be sampled, without paths; None where it brings none.
        layers: of a LoRA, in the dtype to be stored.
        merge: for `merged`.
        hashes: where it comes from: `std.*` values.
        notes: what the user should know.
    """

    student: StudentFiles
    format: Format
    out: Path
    overwrite: bool
    recipe: Recipe | None
    layers: Mapping[str, LoraLayer]
    merge: Merge | None
    hashes: Mapping[str, str]
    notes: list[str] = field(default_factory=list)

    def metadata(self) -> dict[str, Any]:
        """The plan, for people and machines."""
        data = {"path": self.out, "format": self.format, "student": self.student.kind}
        if self.layers:
            config = adapter_config(self.layers)
            data |= {
                "layers": len(self.layers),
                "rank": config["unet.r"],
                "alpha": config["unet.lora_alpha"],
            }
        data |= {} if self.merge is None else {"base": self.merge.name}
        hint = metadata.usage_hint(self.recipe)
        return data | ({"usage": hint} if hint else {})


def plan_export(
    student: str,
    *,
    format: str,
    out: Path,
    model: str | None = None,
    dtype: str = "auto",
    offline: bool = False,
    overwrite: bool = False,
) -> Export:
    """Check everything of an export but the disk's size.

    Args:
        student: see `find_student`.
        format: `diffusers` or `kohya`: a LoRA; `merged`: the model with the student in it.
        out: a name that ends in `.safetensors` is one file, anything else a folder.
        model: base of a merge, a diffusers folder or Hub id; None is the one that the recipe names.
        dtype: of the stored weights; "auto" leaves them as they are.
        offline: never reach the network.
        overwrite: replace what is there.

    Raises:
        ConfigError: options that do not go together.
        ModelError, HubError: no such student or base, or they do not fit.
        NumericsError: a value is NaN, infinite or too large for the dtype.
        MediaError: the output exists, or holds what is read.
    """
    _check_options(format, out, model=model, dtype=dtype)
    check_out(out, overwrite=overwrite, inputs=())  # before anything is read
    found = find_student(student, offline=offline)
    recipe = None if found.recipe is None else _without_paths(found.recipe)
    hashes, notes = _origin(found), []
    if recipe is None:
        notes.append("the student brings no recipe: the files do not say how to sample it")
    layers, doubts = _layers_of(found, format, DTYPES[dtype])
    notes += doubts
    merge = None
    if format == "merged":
        merge = _plan_merge(found, layers, model=model, dtype=DTYPES[dtype], out=out, offline=offline)
        notes += _misfits(found, merge)
    elif format == "diffusers":
        notes.append(metadata.KOHYA_NOTE)
        if any(layer.alpha != layer.rank for layer in layers.values()):
            notes.append("alpha is not the rank: diffusers reads it from the file's metadata")
    inputs = [*found.weights, *(merge.unet_files() if merge else ())]
    check_out(out, overwrite=overwrite, inputs=inputs)
    return Export(found, format, out, overwrite, recipe, layers, merge, hashes, notes)


def write_export(export: Export) -> None:
    """Write the files of an export, all or none.

    Raises:
        ResourceError: the disk is full or refuses.
        NumericsError: a merged value is NaN, infinite or too large for the dtype.
        ModelError: a part of the base cannot be read.
    """
    with new_output(export.out, overwrite=export.overwrite) as path:
        if export.merge is None:
            _write_lora(export, path)
        elif is_file_name(export.out):
            _write_single_file(export, export.merge, path)
        else:
            write_folder(export.merge, path)
            files = component_files(path / UNET, half=False)
            recipe = _renewed(export.recipe, files) or read_recipe(export.merge.folder.path)
            _write_recipe(path, recipe)


def _check_options(format: str, out: Path, *, model: str | None, dtype: str) -> None:
    for flag, value, known in (("--format", format, FORMATS), ("--dtype", dtype, tuple(DTYPES))):
        if value not in known:
            raise ConfigError(
                f"{flag} knows no such value",
                got=value,
                expected=f"one of {', '.join(known)}",
                hint=did_you_mean(value, known),
            )
    if model is not None and format != "merged":
        raise ConfigError("--model is the base of --format merged", got=f"--format {format}")
    if format == "kohya" and not is_file_name(out):
        raise ConfigError("kohya's format is one file", got=f"-o {out}", expected="-o NAME.safetensors")


def _layers_of(
    student: StudentFiles, format: str, dtype: torch.dtype | None
) -> tuple[dict[str, LoraLayer], Sequence[str]]:
    """Layers of a LoRA, none of a whole network; and what the user should know of them."""
    if student.has_target_time and (student.kind == "lora" or format == "merged"):
        raise ModelError(
            "this student is told where each step aims (s-embedding): other programs cannot tell it",
            where=student.weights[0].parent,
            hint="stdcli stylize --student takes its folder as it is, stdcli hub push shares it",
        )
    if student.kind == "lora":
        lora = read_lora(student.weights[0])
        layers = unet_layers(lora)
        check_finite(layers, lora.path)
        if format != "merged":
            layers = cast(layers, dtype)
            check_finite(layers, lora.path)
        return layers, lora.notes
    if format != "merged":
        raise ModelError(
            "this student is a whole network: no LoRA holds it without loss",
            where=student.weights[0].parent,
            hint="--format merged",
        )
    return {}, ()


def _plan_merge(
    student: StudentFiles,
    layers: Mapping[str, LoraLayer],
    *,
    model: str | None,
    dtype: torch.dtype | None,
    out: Path,
    offline: bool,
) -> Merge:
    trained = student.recipe and student.recipe.trained
    name = model or (trained.base if trained else None)
    if name is None:
        raise ConfigError("this student does not say which model it changes", hint="--model NAME")
    source = locate_model(name, offline=offline)
    if source.path.is_file():
        raise ModelError(
            "the base of a merge is a diffusers folder or a Hub id", where=source.path, got="a single file"
        )
    folder = read_folder(source.path)
    family = family_of(folder)
    if is_file_name(out) and family.names.clip is None:
        raise ConfigError(
            f"no single-file layout is known for {family.name} models",
            where=out,
            expected="-o FOLDER",
        )
    unet = student.weights[0].parent if student.kind == "full" else None
    merge = Merge(name, folder, family, layers, unet, dtype)
    check_merge(merge)
    return merge


def _misfits(student: StudentFiles, merge: Merge) -> list[str]:
    """A base of another hash than the student's, in one line."""
    trained = student.recipe and student.recipe.trained
    if not trained:
        return []
    folder = merge.folder.path / UNET
    current = {hash_files(component_files(folder, half=half)) for half in (False, True)}
    stored = trained.base_sha256["unet"]
    if stored in current:
        return []
    return [
        f"this student was trained on {trained.base}, whose unet has SHA-256 {stored[:12]}; "
        f"that of this base has {min(current)[:12]}"
    ]


def _origin(student: StudentFiles) -> dict[str, str]:
    """Hashes of the bank: of the run in whose folder the student lies, or of the file it was exported to."""
    stored = {name: read_metadata(student.weights[0]).get(f"std.{name}") for name in BANK_HASHES.values()}
    for folder in list(student.weights[0].parents)[1:3]:
        if (folder / RUN_FILE).is_file() and student.weights[0].is_relative_to(folder / "student"):
            try:
                learned = read_object(folder / RUN_FILE, ModelError).get("learned")
            except ModelError:
                continue  # a damaged record is no reason to keep a student
            learned = learned if isinstance(learned, dict) else {}
            stored |= {BANK_HASHES[key]: str(learned[key]) for key in BANK_HASHES if learned.get(key)}
    return {name: value for name, value in stored.items() if value}


def _without_paths(recipe: Recipe) -> Recipe:
    trained = recipe.trained
    if trained is None or is_public(trained.base):
        return recipe
    name = Path(trained.base).name or "unknown"
    return recipe.model_copy(update={"trained": trained.model_copy(update={"base": name})})


def _renewed(recipe: Recipe | None, unet_files: list[Path]) -> Recipe | None:
    """The recipe of a merged model, which is its own base now."""
    trained = recipe and recipe.trained
    if not trained:
        return recipe
    renewed = trained.model_copy(update={"base_sha256": {"unet": hash_files(unet_files)}})
    return recipe.model_copy(update={"trained": renewed})


def _write_lora(export: Export, path: Path) -> None:
    kohya = export.format == "kohya"
    is_embedded = export.recipe and export.recipe.trained and export.recipe.trained.base == "embedded"
    words = metadata.lora_metadata(
        export.layers,
        export.recipe,
        kohya=kohya,
        title=export.out.stem,
        family="embedded" if is_embedded else family_of_layers(export.layers),
        hashes=export.hashes,
    )
    tensors = (to_kohya if kohya else to_diffusers)(export.layers)
    if is_file_name(export.out):
        save_weights(path, tensors, words)
        return
    save_weights(path / LORA_FILE, tensors, words)
    _write_recipe(path, export.recipe)


def _write_single_file(export: Export, merge: Merge, path: Path) -> None:
    scheduler = read_json(merge.folder.path / "scheduler" / "scheduler_config.json")
    prediction = scheduler.get("prediction_type", "epsilon")
    words = metadata.merged_metadata(
        export.recipe,
        title=export.out.stem,
        family=merge.family.name,
        prediction=prediction,
        hashes=export.hashes,
    )
    save_weights(path, single_file_tensors(merge), words)


def _write_recipe(folder: Path, recipe: Recipe | None) -> None:
    if recipe is not None:
        (folder / RECIPE_FILE).write_text(recipe.as_json(indent=2) + "\n", "utf-8")
