"""The bank's format: names of its files and the manifest, version 1 of pictures and 2 of clips.

    manifest.json                         what the paths are: model, schedule, levels, guidance, plan
    samples.jsonl                         what each path is made from, one line per path
    run.json                              settings of the last build, for `stdcli bank build --config`, and
                                          seconds of batches, by machine
    shards/shard-00000.safetensors        states, x0, guidance, noise_seed, sample_id, index of each condition
    shards/shard-00000.json               its hash and size, first path, count, sources; written last
    conditions/cond-00000.safetensors     the conditions of that shard, each once

Shard k holds the paths k n to (k + 1) n - 1. Knows nothing of models or pictures.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import operator
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from dataclasses import fields as dataclass_fields
from typing import Any, Literal

from stdcli.bank.bank_files import BankFiles
from stdcli.config.pasting import pasted
from stdcli.diffusion.levels import Level
from stdcli.disk.sealing import SEAL, is_changed, sealed
from stdcli.errors import BankCorruptError, BankError, BankMismatchError

STORE_DTYPES = ("float16", "bfloat16", "float32")
MAX_PATHS = 10**7
"""Of a bank; each has a line in samples.jsonl and at least some kilobytes of states."""
FORMAT, PICTURES, CLIPS = "stdcli-bank", 1, 2
"""The name, and the version of banks of either kind: what reads pictures alone stops at clips."""
MANIFEST, SAMPLES, RUN = "manifest.json", "samples.jsonl", "run.json"
_OWN = re.compile(r"shards/shard-(\d{5,12})\.(safetensors|json)|conditions/cond-(\d{5,12})\.safetensors")


def shard_name(index: int) -> str:
    """`shards/shard-00000.safetensors`."""
    return f"shards/shard-{index:05d}.safetensors"


def sidecar_name(index: int) -> str:
    """`shards/shard-00000.json`."""
    return f"shards/shard-{index:05d}.json"


def conditions_name(index: int) -> str:
    """`conditions/cond-00000.safetensors`."""
    return f"conditions/cond-{index:05d}.safetensors"


def is_shard_file(name: str) -> bool:
    """Whether a name, `folder/file`, is that of a file of some shard, planned or not."""
    return shard_of(name) is not None


def shard_of(name: str) -> int | None:
    """The shard that a file with this name, `folder/file`, belongs to; None if no shard has such files."""
    match = _OWN.fullmatch(name)
    index = int(match[1] or match[3]) if match else None
    parts = (shard_name, sidecar_name, conditions_name)
    return index if index is not None and name in [part(index) for part in parts] else None


@dataclass(frozen=True)
class ClipExtent:
    """What each path of a bank of clips is made from.

    Attributes:
        height, width: of the frames, in pixels.
        frames: number of frames.
        frame_stride: from one frame to the next in the source; 1 takes every frame.
    """

    height: int
    width: int
    frames: int
    frame_stride: int


@dataclass(frozen=True)
class Manifest:
    """What the paths of a bank are.

    Attributes:
        model: family, name, revision, hash per component.
        schedule: fingerprint of the noise schedule.
        prediction: what the teacher's network predicts.
        levels: stored levels, falling from the start level to level 0: `{id, t, alpha, sigma}`.
        strength: noise fraction at the start.
        num_solver_steps: N, rows of the level table; the teacher walks all of them below the start.
        solver: `ddim`.
        guidance: `{min, max, form: "imagen"}`; each path has one value in that range.
            `pooled: "keep"` where the unconditional branch keeps the prompt's pooled embedding.
        latent_shape: C, h, w of pictures; C, F, h, w of clips.
        resolution_px: side of the square pictures; None of clips.
        compute_dtype: of the teacher's weights.
        store_dtype: of states and x0.
        start: `{transform: none | adain | colours}`, done to a sample towards its style before the noise.
        seed: of noise, guidance, crops and styles.
        num_paths: number of paths planned.
        shard_size: n, paths per shard.
        state: `building`, or `complete` once every shard is there.
        clip: of a bank of clips; its fields are the manifest's own in JSON. None of pictures.
    """

    model: dict[str, Any]
    schedule: str
    prediction: str
    levels: tuple[dict[str, float], ...]
    strength: float
    num_solver_steps: int
    solver: str
    guidance: dict[str, Any]
    latent_shape: tuple[int, ...]
    resolution_px: int | None
    compute_dtype: str
    store_dtype: str
    start: dict[str, str]
    seed: int
    num_paths: int
    shard_size: int
    state: Literal["building", "complete"] = "building"
    clip: ClipExtent | None = None

    def to_json(self) -> dict[str, Any]:
        """As it is in manifest.json."""
        plan = {"num_paths": self.num_paths, "shard_size": self.shard_size, "num_shards": self.num_shards}
        apart = ("num_paths", "shard_size", "clip", *(["resolution_px"] if self.clip else []))
        fields = {key: value for key, value in asdict(self).items() if key not in apart}
        clip = asdict(self.clip) if self.clip else {}
        version = CLIPS if self.clip else PICTURES
        return json.loads(json.dumps({"format": FORMAT, "version": version, **fields, **clip, "plan": plan}))

    @classmethod
    def from_json(cls, data: Mapping[str, Any], *, where: object) -> Manifest:
        """The inverse of `to_json`.

        Raises:
            BankMismatchError: another format or version.
            BankCorruptError: a field is missing or unknown.
        """
        for key, known in (("format", (FORMAT,)), ("version", (PICTURES, CLIPS))):
            if data.get(key) not in known:
                hint = "update stdcli" if key == "version" else None
                got, expected = f"{key} {data.get(key)!r}", " or ".join(map(repr, known))
                raise BankMismatchError(
                    "not a bank this version reads", where=where, got=got, expected=expected, hint=hint
                )
        try:
            plan = data["plan"]
            others = ("format", "version", "plan", SEAL)
            fields = {key: value for key, value in data.items() if key not in others}
            fields["levels"] = tuple(fields["levels"])
            fields["latent_shape"] = tuple(fields["latent_shape"])
            is_clips = data["version"] == CLIPS
            if unknown := fields.keys() & ({"clip", "resolution_px"} if is_clips else {"clip"}):
                raise TypeError(f"no field of version {data['version']}: {', '.join(sorted(unknown))}")
            if is_clips:
                extent = {field.name: fields.pop(field.name) for field in dataclass_fields(ClipExtent)}
                fields |= {"clip": ClipExtent(**extent), "resolution_px": None}
            manifest = cls(**fields, num_paths=plan["num_paths"], shard_size=plan["shard_size"])
            _check_types(manifest)
            is_plan = min(manifest.num_paths, manifest.shard_size, len(manifest.path_levels())) > 0
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise BankCorruptError("the manifest is incomplete", where=where, got=error) from error
        if not is_plan:
            raise BankCorruptError("the manifest plans nothing", where=where, got=plan)
        if manifest.num_paths > MAX_PATHS:
            expected = f"at most {MAX_PATHS}"
            raise BankCorruptError(
                "the manifest plans too many paths", where=where, got=plan, expected=expected
            )
        return manifest

    @property
    def num_shards(self) -> int:
        """Shards planned."""
        return -(-self.num_paths // self.shard_size)

    @property
    def level_ids(self) -> tuple[int, ...]:
        """Ids of the stored levels, falling."""
        return tuple(int(level["id"]) for level in self.levels)

    def path_levels(self) -> tuple[Level, ...]:
        """The stored levels."""
        return tuple(Level(**level) for level in self.levels)

    @property
    def extent(self) -> str:
        """Size of the pictures or clips, for people: `512 px`, or `81 frames of 832x480 px, stride 2`."""
        if (clip := self.clip) is None:
            return f"{self.resolution_px} px"
        return f"{clip.frames} frames of {clip.width}x{clip.height} px, stride {clip.frame_stride}"

    def paths_of(self, shard: int) -> range:
        """Paths that a shard holds."""
        return range(shard * self.shard_size, min((shard + 1) * self.shard_size, self.num_paths))

    def identity(self) -> dict[str, Any]:
        """All that decides the content of a path: neither the plan, the state nor where the model lies."""
        data = self.to_json()
        data["model"] = {
            key: value for key, value in data["model"].items() if key not in ("name", "revision")
        }
        return {key: data[key] for key in data if key not in ("plan", "state")}

    def fingerprint(self) -> str:
        """SHA-256 of the identity; every shard names it."""
        return hashlib.sha256(json.dumps(self.identity(), sort_keys=True).encode()).hexdigest()


_KINDS: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("model", "guidance", "start"), dict),
    **dict.fromkeys(("schedule", "prediction", "solver", "compute_dtype", "store_dtype", "state"), str),
    **dict.fromkeys(("num_solver_steps", "seed", "num_paths", "shard_size"), int),
    "strength": (int, float),
}


def _check_types(manifest: Manifest) -> None:
    """Refuse values of other types than `Manifest` says, before anybody reckons with them."""
    for name, kind in _KINDS.items():
        value = getattr(manifest, name)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise TypeError(f"{name} is {value!r}")
    numbers = (*manifest.latent_shape, manifest.guidance["min"], manifest.guidance["max"])
    levels = [value for level in manifest.levels for value in level.values()]
    for value in (*numbers, *levels):
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise TypeError(f"{value!r} is no number")
    _check_sides(manifest)
    if manifest.store_dtype not in STORE_DTYPES:
        raise ValueError(f"store_dtype is {manifest.store_dtype!r}")
    for key, name in (("family", "model"), ("name", "model"), ("transform", "start")):
        if not isinstance(getattr(manifest, name)[key], str):
            raise TypeError(f"{name}.{key} is {getattr(manifest, name)[key]!r}")


def _check_sides(manifest: Manifest) -> None:
    """Refuse sizes that no pictures or clips have."""
    sides = {"resolution_px": manifest.resolution_px} if manifest.clip is None else asdict(manifest.clip)
    for name, value in sides.items():
        if not isinstance(value, int) or isinstance(value, bool):
            raise TypeError(f"{name} is {value!r}")
    rank = 3 if manifest.clip is None else 4
    if len(manifest.latent_shape) != rank or not all(0 < n <= MAX_PATHS for n in manifest.latent_shape):
        raise ValueError(f"latent_shape is {list(manifest.latent_shape)}")
    if manifest.clip is not None:
        pixels = manifest.clip.frames, manifest.clip.height, manifest.clip.width
        if manifest.clip.frame_stride < 1 or any(map(operator.gt, manifest.latent_shape[1:], pixels)):
            raise ValueError(f"{manifest.clip} does not give latents of {list(manifest.latent_shape)}")


def level_json(level: Level) -> dict[str, float]:
    """A level as the manifest has it."""
    return {"id": level.id, "t": level.t, "alpha": level.alpha, "sigma": level.sigma}


def read_manifest(files: BankFiles) -> Manifest:
    """The manifest of a bank.

    Raises:
        BankError: there is no bank.
        BankCorruptError: it is torn.
        BankMismatchError: another format or version.
    """
    where = files.root / MANIFEST
    if not files.exists(MANIFEST):
        raise BankError("no bank here", where=files.root, expected=MANIFEST, hint="stdcli bank build --help")
    try:
        return Manifest.from_json(files.read_json(MANIFEST), where=where)
    except BankCorruptError as error:
        error.hint = f"rm {pasted(where)} && {repair(files)}"
        raise


def read_samples(files: BankFiles) -> list[dict[str, Any]]:
    """What each path is made from, in their order.

    Raises:
        BankCorruptError: the list is missing or torn.
    """
    where = files.root / SAMPLES
    try:
        rows = files.read_lines(SAMPLES)
        if not all(isinstance(row.get("sample_id"), int) for row in rows):
            raise BankCorruptError("a line has no sample_id", where=where)
    except BankCorruptError as error:
        error.hint = f"rm -f {pasted(where)} && {repair(files)}"
        raise
    return rows


def samples_of_shards(files: BankFiles) -> list[dict[str, Any]]:
    """The beginning of a lost list of samples, from the sidecars up to the first that is missing or torn."""
    rows: list[dict[str, Any]] = []
    for index in itertools.count():
        try:
            rows += files.read_json(sidecar_name(index))["sources"]
        except (BankCorruptError, KeyError, TypeError):
            break
    return rows


def repair(files: BankFiles) -> str:
    """The command that makes a bank whole again."""
    root = pasted(files.root)
    if not files.exists(RUN):
        return "repeat the command that wrote this bank"
    return f"stdcli bank build --config {pasted(files.root / RUN)} -o {root}"


def seal_problems(files: BankFiles) -> list[tuple[str, str]]:
    """(name, what) of manifest and settings that are not as they were written; those without a seal pass.

    Raises:
        BankCorruptError: one cannot be read.
    """
    found = []
    for name in (MANIFEST, RUN):
        data = files.read_json(name) if files.exists(name) else {}
        if is_changed(data):
            found.append((name, "has been changed since it was written"))
    return found


def write_manifest(files: BankFiles, manifest: Manifest) -> None:
    """Replace the manifest. Raises as `BankFiles.write_tensors`."""
    files.write_json(MANIFEST, sealed(manifest.to_json()))


def check_same(stored: Manifest, current: Manifest, *, where: object, hint: str | None = None) -> None:
    """Refuse to mix two kinds of paths in one bank.

    Raises:
        BankMismatchError: the two differ; every field with both values.
    """
    differences = list(_differences(stored.identity(), current.identity()))
    if stored.shard_size != current.shard_size:
        differences.append(("plan.shard_size", stored.shard_size, current.shard_size))
    if differences:
        listed = "; ".join(f"{name}: {old} there, {new} here" for name, old, new in differences)
        raise BankMismatchError("this bank holds paths of another kind", where=where, got=listed, hint=hint)


def check_kind(files: BankFiles, manifest: Manifest) -> None:
    """Refuse a folder that holds something else than the bank of a manifest.

    Raises:
        BankMismatchError: its manifest is of another kind, or, where there is none, a shard is.
        BankCorruptError: its manifest is torn.
    """
    hint = "choose another --out, or repeat the settings that it was built with"
    if files.exists(MANIFEST):
        check_same(read_manifest(files), manifest, where=files.root, hint=hint)
        return
    for name in files.names("shards"):
        if name.endswith(".json"):
            with suppress(BankCorruptError):  # a torn sidecar says nothing; its shard is built again
                if files.read_json(name).get("bank") != manifest.fingerprint():
                    where = files.root / name
                    raise BankMismatchError(
                        "this folder holds shards of another bank", where=where, hint=hint
                    )


def _differences(stored: Any, current: Any, name: str = "") -> Any:
    if isinstance(stored, dict) and isinstance(current, dict):
        for key in sorted({*stored, *current}):
            yield from _differences(stored.get(key), current.get(key), f"{name}.{key}" if name else key)
    elif stored != current:
        yield name, _short(stored), _short(current)


def _short(value: object) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def finished(manifest: Manifest) -> Manifest:
    """The same, complete."""
    return replace(manifest, state="complete")
