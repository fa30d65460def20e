"""A model without its weights: its networks on torch's meta device, from configs and the headers of files.

All checks of loading that need no values are made, in seconds and without memory; what is built answers
questions of names, shapes and tokens, and computes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from stdcli.errors import ModelError
from stdcli.models.diffusers_api import FAULTS, class_named, first_line
from stdcli.models.folder import OWN_CLASSES, WITH_WEIGHTS, ModelFolder, weight_files
from stdcli.models.original_names import original_unet
from stdcli.models.pipeline import FoundModel, Opened, check_room, count_parts, recipe_of
from stdcli.models.single_file import apply_overrides, misfit, unet_config
from stdcli.models.style import StyleAdapter, StyleEmbeds, embedding_width, shares
from stdcli.models.weights import count_values, read_shapes

META = torch.device("meta")


def outline_model(found: FoundModel) -> Opened:
    """What `open_model` builds, without weights.

    Args:
        found: of `find_model`. Files of a Hub model that are not in its cache are noted and not fetched.

    Raises:
        ModelError: damaged, incomplete, or files that do not fit together.
        ResourceError: it surely does not fit into memory.
    """
    is_file = found.source.path.is_file()
    files = {} if is_file else _files(found)
    counts = count_parts(found) if is_file else {part: count_values(paths) for part, paths in files.items()}
    need = check_room(found, counts)
    configs = {"unet": unet_config(found.source.path, found.folder)} if is_file else {}
    parts = {
        part: _empty(found.folder, part, config=configs.get(part))
        for part in WITH_WEIGHTS
        if part in found.folder.components
    }
    for part, network in parts.items():
        network.to(found.choice.dtype)
        if part in counts:
            _check_shapes(found, part, network, count=counts[part], files=files.get(part, ()))
    try:
        pipe = found.family.pipeline.from_pretrained(
            str(found.folder.path), **{**found.family.left_out, **parts}, local_files_only=True
        )
    except FAULTS as e:
        what = "this model's files do not fit together"
        raise ModelError(what, where=found.folder.path, got=first_line(e)) from e
    if is_file:
        apply_overrides(pipe, found.source.path)
        files = {part: [found.source.path] for part in counts}
    return Opened(pipe, found.family, files, recipe_of(found), need)


class StyleOutline(StyleAdapter):
    """A style adapter that is checked and not installed."""

    def load(self, *, encoder: bool = True) -> None:
        """Compare the adapter's files with the networks; raises as `StyleAdapter.load`."""
        if not self.loaded and (self._files is None or self._files.repo is None):
            self._note(*self._find())

    def embed(self, styles: Sequence[Image.Image], weights: Sequence[float] | None = None) -> StyleEmbeds:
        """Embeddings of the right shape and without values; raises as `StyleAdapter.embed`."""
        shares(len(styles), weights)
        self.load()
        files = self.weight_files.get("style")
        width = embedding_width(read_shapes(files[0])) if files else 1
        nothing = torch.zeros(1, 1, width, device=META)
        return StyleEmbeds(nothing, nothing)


def _files(found: FoundModel) -> dict[str, list[Path]]:
    folder, files = found.folder, {}
    for part in WITH_WEIGHTS:
        if part not in folder.components or not (folder.path / part).is_dir():
            continue
        try:
            files[part] = weight_files(folder, part, half=found.half)
        except ModelError:
            if found.source.revision is None:
                raise
    lacking = [part for part in WITH_WEIGHTS if part in folder.components and part not in files]
    if lacking:
        found.notes.append(f"not here yet, a run fetches it: {', '.join(lacking)} of {found.source.name}")
    return files


def _empty(folder: ModelFolder, part: str, *, config: Mapping[str, Any] | None = None) -> torch.nn.Module:
    name = folder.components[part]
    try:
        kind = OWN_CLASSES.get(name) or class_named(name)
        with META:
            if hasattr(kind, "from_config"):
                return kind.from_config(dict(config or folder.config(part)))
            return kind(kind.config_class.from_pretrained(folder.path / part, local_files_only=True))
    except FAULTS as e:
        what = "this model's files do not fit together"
        raise ModelError(what, where=folder.path / part, got=first_line(e)) from e


def _check_shapes(
    found: FoundModel, part: str, network: torch.nn.Module, *, count: int, files: Sequence[Path]
) -> None:
    """Refuse weights that are too few or of other shapes than the config says."""
    where = files[0] if files else found.source.path
    needs = sum(p.numel() for p in network.parameters())
    if count < needs:
        raise ModelError(
            "this weights file lacks tensors", where=where, got=f"{count} values of {part}", expected=needs
        )
    built = network.state_dict()
    if files:
        stored = {name: shape for path in files for name, shape in read_shapes(path).items()}
    else:
        stored = read_shapes(where)
        built = original_unet(built, network.config) if part == "unet" else {}
    wrong = sorted(_other_shapes(built, stored))
    if wrong and not files:
        raise misfit(where, found.folder, f"{wrong[0]} is of another shape")
    if wrong:
        raise ModelError(
            "this model's files do not fit together",
            where=where,
            got=f"{wrong[0]} of shape {list(stored[wrong[0]])}",
            expected=f"{list(built[wrong[0]].shape)}, as its config says",
        )


def _other_shapes(built: Mapping[str, Any], stored: Mapping[str, Sequence[int]]) -> list[str]:
    return [name for name in built.keys() & stored.keys() if tuple(built[name].shape) != tuple(stored[name])]
