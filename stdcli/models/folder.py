"""Read a diffusers folder's table of contents and check that it can be loaded, before anything is.

Catches what would otherwise surface as a stack trace from deep inside a library: missing parts, pickle-only
weights, damaged files, unknown or untrusted classes. Reads JSON and safetensors headers only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from stdcli.config.pasting import pasted
from stdcli.config.recipe import Recipe
from stdcli.disk.reading import read_text
from stdcli.errors import ModelError
from stdcli.models.configs import check_configs, read_json
from stdcli.models.lapped_autoencoder import LappedAutoencoder
from stdcli.models.layout import COMPONENTS, INDEX_FILE, LORA_FILE, NETWORKS, RECIPE_FILE, WEIGHTS
from stdcli.models.locate import PICKLE_SUFFIXES
from stdcli.models.painter_unet import PainterUNet
from stdcli.models.patch_autoencoder import PatchAutoencoder
from stdcli.models.weights import read_metadata, read_shapes

OWN_CODECS: dict[str, type] = {kind.__name__: kind for kind in (PatchAutoencoder, LappedAutoencoder)}
OWN_CLASSES: dict[str, type] = {**OWN_CODECS, PainterUNet.__name__: PainterUNet}
# diffusers takes classes from imported modules only; naming our own here also lets it find those.
TRUSTED = frozenset({"diffusers", "transformers", "stable_diffusion"}) | {
    kind.__module__ for kind in OWN_CLASSES.values()
}
WITH_WEIGHTS = (*NETWORKS, "vae", "text_encoder", "text_encoder_2", "image_encoder")
SD2_WIDTH = 1024  # of the text tokens
STORED_RECIPE = "std.recipe"
"""Key of a file's metadata for its recipe as JSON."""
VAE_CLASSES = ("AutoencoderKL", "AutoencoderTiny", *OWN_CODECS)


@dataclass(frozen=True)
class ModelFolder:
    """A diffusers folder's table of contents.

    Attributes:
        path: the folder.
        class_name: pipeline class it was saved from.
        components: class name of each part that is not null.
        options: the remaining values of model_index.json.
    """

    path: Path
    class_name: str
    components: Mapping[str, str]
    options: Mapping[str, Any]

    def config(self, component: str) -> Mapping[str, Any]:
        """A component's config.json.

        Raises:
            ModelError: missing or not JSON.
        """
        return read_json(self.path / component / "config.json")


def read_folder(path: Path) -> ModelFolder:
    """Read a folder's model_index.json.

    Raises:
        ModelError: not a diffusers folder, or one that names code outside diffusers and transformers.
    """
    index_path = path / INDEX_FILE
    if not index_path.is_file():
        raise ModelError(f"not a diffusers folder: no {INDEX_FILE}", where=path, hint=_what_it_may_be(path))
    index = read_json(index_path)
    class_name = index.get("_class_name")
    if not isinstance(class_name, str):
        raise ModelError(
            "this model wants to run its own pipeline code, which is never done", where=index_path
        )
    parts = {k: v for k, v in index.items() if isinstance(v, list) and len(v) == 2}
    components = {name: cls for name, (library, cls) in parts.items() if library is not None}
    for name, cls in components.items():
        if not isinstance(parts[name][0], str) or not isinstance(cls, str):
            raise ModelError(
                "this model does not say of what kind a part is",
                where=f"{index_path} {name}",
                got=parts[name],
                expected="a library and a class",
            )
        if parts[name][0] not in TRUSTED:
            raise ModelError(
                "this model names code from outside diffusers and transformers, which is never imported",
                where=f"{index_path} {name}",
                got=parts[name][0],
            )
    for folder in (path / name for name in sorted({*components, *COMPONENTS})):
        if folder.is_dir():
            check_configs(folder)
            refuse_code(folder)
    _refuse_shadows(path, components)
    options = {k: v for k, v in index.items() if k not in parts and not k.startswith("_")}
    return ModelFolder(path, class_name, components, options)


def check_folder(folder: ModelFolder, *, needed: Iterable[str], kinds: Mapping[str, Sequence[str]]) -> None:
    """Check that all needed parts are there and are of a kind that is loaded.

    Args:
        folder: of a model.
        needed: parts.
        kinds: part -> classes that are known, beside those of codecs.

    Raises:
        ModelError: a part is missing, or of an unknown class.
    """
    missing = [n for n in needed if n not in folder.components or not (folder.path / n).is_dir()]
    if missing:
        raise ModelError(
            f"this model lacks {', '.join(missing)}",
            where=folder.path,
            got=", ".join(sorted(folder.components)),
            expected=", ".join(needed),
        )
    for part, known in {**kinds, "vae": VAE_CLASSES}.items():
        if folder.components[part] not in known:
            raise ModelError(
                f"unknown kind of {part}",
                where=folder.path,
                got=folder.components[part],
                expected=" or ".join(known),
            )


def weight_files(folder: ModelFolder, component: str, *, half: bool) -> list[Path]:
    """A component's safetensors files, each checked for damage; fp16 files if `half` or if there are no
    others.

    Raises:
        ModelError: only pickle files, none at all, or a damaged one.
    """
    return component_files(folder.path / component, half=half)


def _refuse_shadows(path: Path, components: Mapping[str, str]) -> None:
    shadows = [name for name in (*sorted(TRUSTED), *components) if (path / f"{name}.py").exists()]
    if shadows:
        what = "this model brings code of its own, which is never run"
        raise ModelError(what, where=path, got=f"{shadows[0]}.py", hint="move it out of this folder")


def component_files(folder: Path, *, half: bool) -> list[Path]:
    """The same of any folder with the weights of one component.

    Raises:
        ModelError: as `weight_files`.
    """
    by_variant: dict[bool, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        match = WEIGHTS.fullmatch(path.name)
        if match is not None:
            by_variant.setdefault(match["fp16"] is not None, []).append(path)
    if not by_variant:
        pickles = [p.name for p in sorted(folder.iterdir()) if p.suffix in PICKLE_SUFFIXES]
        raise ModelError(
            "only pickle weights here, which are never loaded: they can run any code"
            if pickles
            else "no weights here",
            where=folder,
            got=", ".join(pickles) or None,
            expected="a .safetensors file",
        )
    is_half = half if half in by_variant else not half
    chosen = by_variant[is_half]
    refuse_code(folder)
    _check_indexes(folder, chosen, half=is_half)
    for path in chosen:
        read_shapes(path)
    return chosen


def refuse_code(folder: Path) -> None:
    """Refuse a component's folder with Python files in it, which libraries may take for its class.

    Raises:
        ModelError: naming one; nothing is imported.
    """
    found = (
        sorted(path.name for path in folder.iterdir() if path.suffix.startswith(".py"))
        if folder.is_dir()
        else []
    )
    if found:
        raise ModelError(
            "this model brings code of its own, which is never run",
            where=folder,
            got=", ".join(found[:3]),
            hint="the model is loaded without it if you move it out of this folder",
        )


def _check_indexes(folder: Path, chosen: Sequence[Path], *, half: bool) -> None:
    """Refuse shard indexes that lead a library to other files than those that are checked and hashed.

    Raises:
        ModelError: an index names something else than weights beside it, or not just those that are taken.
    """
    for path in sorted(folder.glob("*.safetensors.index*.json")):
        shards = read_json(path).get("weight_map")
        named = (
            {*shards.values()} if isinstance(shards, dict) and all(map(_is_text, shards.values())) else {None}
        )
        foreign = [name for name in named if name is None or WEIGHTS.fullmatch(name) is None]
        if foreign:
            raise ModelError(
                "this shard index leads elsewhere than to weights beside it",
                where=path,
                got=foreign[0],
                expected="names of .safetensors files in its own folder",
            )
        chosen_names = {file.name for file in chosen}
        if (".fp16" in path.name) == half and named != chosen_names:
            raise ModelError(
                "this shard index and the weights beside it do not agree",
                where=path,
                got=", ".join(sorted(named ^ chosen_names)[:3]),
                expected="just the files that it names",
                hint="download the folder again, or remove what does not belong to it",
            )


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def read_recipe(folder: Path) -> Recipe | None:
    """The recipe that lies in a folder, or None.

    Raises:
        ModelError: it is there but not valid.
    """
    path = folder / RECIPE_FILE
    if not path.is_file():
        return None
    try:
        text = read_text(path, ModelError)
    except ModelError as e:
        raise ModelError("cannot read this recipe", where=path, got=e.what, expected="UTF-8 text") from e
    return _parse_recipe(text, path)


def stored_recipe(path: Path) -> Recipe | None:
    """The recipe in the metadata of a safetensors file, as `stdcli export` writes it, or None.

    Raises:
        ModelError: it is there but not valid, or the file is damaged.
    """
    text = read_metadata(path).get(STORED_RECIPE)
    return None if text is None else _parse_recipe(text, path)


def _parse_recipe(text: str, path: Path) -> Recipe:
    try:
        return Recipe.model_validate_json(text)
    except ValidationError as e:
        first = e.errors()[0]
        where = f"{path} {'.'.join(map(str, first['loc']))}"
        raise ModelError(
            "cannot read this recipe", where=where, got=first.get("input"), expected=first["msg"]
        ) from e


def _what_it_may_be(path: Path) -> str | None:
    names = sorted(p.name for p in path.iterdir()) if path.is_dir() else []
    if LORA_FILE in names:
        return f"this is a LoRA: --lora {pasted(path)}"
    files = [n for n in names if n.endswith(".safetensors")]
    if files:
        return f"give the file itself: {path / files[0]}"
    inner = [n for n in names if (path / n / INDEX_FILE).is_file()]
    return f"did you mean {path / inner[0]}" if inner else None
