"""What a bank holds, in a few lines."""

from __future__ import annotations

from typing import Any

from stdcli.bank.bank_files import BankFiles
from stdcli.bank.format import Manifest, conditions_name, shard_name, shard_of, sidecar_name


def bank_metadata(files: BankFiles, manifest: Manifest) -> dict[str, Any]:
    """Name -> value, for people and for JSON; whether files are whole is `verify`'s business."""
    found = (shard_of(name) for name in files.names("shards") if name.endswith(".json"))
    written = [k for k in found if k is not None and k < manifest.num_shards]
    size = sum(
        files.size(part(k)) or 0 for k in written for part in (shard_name, conditions_name, sidecar_name)
    )
    first, last = manifest.levels[0], manifest.levels[-1]
    guidance = manifest.guidance
    same = guidance["min"] == guidance["max"]
    return {
        "state": manifest.state,
        "teacher": f"{manifest.model['family']} {manifest.model['name']}",
        "paths": manifest.num_paths,
        "shards": f"{len(written)} of {manifest.num_shards}",
        "bytes": size,
        "levels": f"{len(manifest.levels)}: {first['id']} (t {first['t']}) to {last['id']} (t {last['t']})",
        "strength": manifest.strength,
        "solver": f"{manifest.solver}, {manifest.num_solver_steps} steps",
        "guidance": f"{guidance['min']}" if same else f"{guidance['min']} to {guidance['max']}",
        "latent": "x".join(map(str, manifest.latent_shape)),
        "resolution": manifest.extent,
        "start": manifest.start["transform"],
        "dtypes": f"computed in {manifest.compute_dtype}, stored in {manifest.store_dtype}",
        "seed": manifest.seed,
    }
