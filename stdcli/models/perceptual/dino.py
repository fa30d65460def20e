"""Load DINOv2: a vision transformer whose patch tokens say what is where in a picture."""

from __future__ import annotations

import torch

from stdcli.errors import ModelError
from stdcli.models.diffusers_api import FAULTS, Dinov2Model, first_line
from stdcli.models.locate import locate_network
from stdcli.models.weights import read_shapes


def load_dino(name: str, *, device: torch.device | str, offline: bool) -> Dinov2Model:
    """DINOv2 without registers, frozen, in float32.

    Args:
        name: local folder, or Hub id such as `facebook/dinov2-small`.
        device: where to.
        offline: use the local Hub cache only.

    Raises:
        ModelError: not found, damaged, incomplete, or another kind of network.
        HubError: the Hub refuses or cannot be reached, or offline and not in its cache.
    Source: Oquab 2023 (DINOv2).
    """
    path = locate_network(name, what="DINOv2 model", offline=offline).path
    read_shapes(path / "model.safetensors")  # damaged weights are told from damaged configs
    try:
        kind = Dinov2Model.config_class.get_config_dict(path, local_files_only=True)[0].get("model_type")
        if kind != "dinov2":  # one with registers would load, and its registers pass for patches
            raise ModelError("not a DINOv2 model", where=path, got=kind, expected="dinov2")
        model, report = Dinov2Model.from_pretrained(
            path, dtype=torch.float32, use_safetensors=True, local_files_only=True, output_loading_info=True
        )
    except FAULTS as e:
        raise ModelError("this DINOv2 model is damaged", where=path, got=first_line(e)) from e
    if report["missing_keys"]:
        missing = ", ".join(sorted(report["missing_keys"])[:3])
        raise ModelError("this weights file lacks tensors", where=path, expected=missing)
    return model.eval().requires_grad_(False).to(device)
