"""`stdcli doctor`: what is installed, what is missing, and the command that gets it."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import stdcli
from stdcli.cli.command import Call, command
from stdcli.disk.reading import read_object, read_text
from stdcli.errors import HubError, ModelError, ResourceError, StdcliError

CORE = (
    "torch",
    "diffusers",
    "transformers",
    "accelerate",
    "peft",
    "safetensors",
    "huggingface-hub",
    "numpy",
    "pillow",
)
EXTRAS = {
    "demo": {"skimage": "scikit-image"},
    "eval": {"cv2": "opencv-python-headless", "matplotlib": "matplotlib", "skimage": "scikit-image"},
    "heif": {"pillow_heif": "pillow-heif"},
    "tensorboard": {"tensorboard": "tensorboard"},
}
EMBEDDED_FILES = (
    "model_index.json",
    "recipe.json",
    "unet/*.safetensors",
    "vae/*.safetensors",
    "image_encoder/*.safetensors",
    "ip_adapter/ip_adapter.safetensors",
)
STYLE_ADAPTER = "h94/IP-Adapter"  # style pictures for SD1.5 and SDXL
ADAPTER_FILES = {
    "SD1.5": ("models/ip-adapter_sd15.safetensors", "models/image_encoder"),
    "SDXL": ("sdxl_models/ip-adapter_sdxl.safetensors", "sdxl_models/image_encoder"),
}
PARTS = ("unet", "vae", "text_encoder", "text_encoder_2", "scheduler", "tokenizer", "tokenizer_2")
NETWORKS = PARTS[:4]


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        name: what was looked at.
        value: what was found.
        ok: False when it is missing or broken.
        needed: True when the embedded model cannot run without it.
        fix: the command that repairs it.
    """

    name: str
    value: str
    ok: bool = True
    needed: bool = False
    fix: str | None = None

    @property
    def state(self) -> str:
        """One word for the table."""
        return "ok" if self.ok else "MISSING" if self.needed else "absent"


@command()
def doctor(call: Call) -> None:
    """Report versions, devices, ffmpeg, the Hugging Face cache and the embedded model.

    Exit code 0 when the embedded model can run, 7 when something it needs is missing.

    \b
    Examples:
      stdcli doctor
      stdcli doctor --json | jq '.rows[] | select(.ok | not)'
    """
    console = call.console
    findings = [
        *_versions(),
        _device(),
        _memory(),
        _disk(),
        _ffmpeg(),
        embedded_model(),
        *_hub_cache(),
        *_hub_models(),
        *_extras(),
    ]
    console.detail(f"stdcli is at {Path(stdcli.__file__).parent}")
    missing = [finding for finding in findings if finding.needed and not finding.ok]
    if console.mode == "json":
        fields = ("name", "value", "ok", "needed", "fix")
        rows = [[getattr(finding, field) for field in fields] for finding in findings]
        console.table(fields, rows, ok=not missing)
    else:
        shown = [(finding.name, finding.state, finding.value) for finding in findings]
        console.table(("what", "state", "found"), shown)
        for finding in findings:
            if finding.fix:
                console.note(f"to get {finding.name}: {finding.fix}")
    if missing:
        names = ", ".join(finding.name for finding in missing)
        raise ResourceError(f"the embedded model cannot run; missing: {names}", hint=missing[0].fix)


def embedded_model(folder: Path | None = None) -> Finding:
    """Whether the folder of the embedded model is there and whole."""
    folder = folder or Path(stdcli.__file__).parent / "assets" / "embedded"
    lacking = [pattern for pattern in EMBEDDED_FILES if not any(folder.glob(pattern))]
    if not lacking:
        return Finding("embedded model", str(folder), needed=True)
    fix = "pip install --force-reinstall --no-deps stdcli"
    return Finding("embedded model", f"{folder} lacks {', '.join(lacking)}", ok=False, needed=True, fix=fix)


def _versions() -> list[Finding]:
    import importlib.metadata

    found = [Finding("stdcli", stdcli.__version__), Finding("python", platform.python_version())]
    for package in CORE:
        try:
            found.append(Finding(package, importlib.metadata.version(package), needed=True))
        except importlib.metadata.PackageNotFoundError:
            fix = f"pip install {package}"
            found.append(Finding(package, "not installed", ok=False, needed=True, fix=fix))
    return found


def _device() -> Finding:
    try:
        from stdcli.runtime.devices import choose

        return Finding("device", choose("auto", "auto").reason, needed=True)
    except (ImportError, StdcliError) as error:
        reason = error.what if isinstance(error, StdcliError) else str(error)
        return Finding("device", reason, ok=False, needed=True, fix="pip install torch")


def _memory() -> Finding:
    from stdcli.runtime.free_memory import measure_room

    return Finding("memory", str(measure_room()))


def _disk() -> Finding:
    """Free where models are kept, or where that folder will be."""
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE)
    place = next(place for place in (folder, *folder.parents) if place.exists())
    return Finding("disk", f"{shutil.disk_usage(place).free / 2**30:.1f} GiB free for {folder}")


def _ffmpeg() -> Finding:
    fix = "pip install imageio-ffmpeg"
    try:
        from imageio_ffmpeg import get_ffmpeg_exe

        path = get_ffmpeg_exe()
        told = subprocess.run(
            [path, "-version"], capture_output=True, text=True, check=True, timeout=30
        ).stdout
    except (ImportError, RuntimeError, OSError, subprocess.SubprocessError) as error:
        return Finding("ffmpeg", str(error), ok=False, needed=True, fix=fix)
    version = told.removeprefix("ffmpeg version ").split(" ", 1)[0]
    return Finding("ffmpeg", f"{version} at {path}", needed=True)


def _hub_cache() -> list[Finding]:
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE)
    size_bytes = _size_bytes(folder)
    network = "off (HF_HUB_OFFLINE is set)" if constants.HF_HUB_OFFLINE else "allowed"
    return [
        Finding("hub cache", f"{size_bytes / 2**30:.2f} GiB in {folder}"),
        Finding("hub downloads", network),
    ]


def _size_bytes(folder: Path) -> int:
    """Bytes of the files below a folder; links count nothing, so that a blob counts once."""
    entries = (Path(parent, name).lstat() for parent, _, names in os.walk(folder) for name in names)
    return sum(entry.st_size for entry in entries if not entry.st_mode & 0o120000 == 0o120000)


def _hub_models() -> list[Finding]:
    """The Hub models that the presets name, and the adapters of their style pictures: in the cache or not."""
    from stdcli.models.layout import LORA_FILE

    models, loras = preset_models()
    found = [_hub_model(model) for model in models]
    found += [_hub_files(lora, lora, [LORA_FILE]) for lora in loras]
    for family, (weights, encoder) in ADAPTER_FILES.items():
        files = [weights, f"{encoder}/config.json", f"{encoder}/model.safetensors"]
        found.append(_hub_files(f"{STYLE_ADAPTER} for {family}", STYLE_ADAPTER, files))
    return found


def _hub_model(model: str) -> Finding:
    """Whether all parts of a diffusers repository that are loaded are in the cache."""
    from stdcli.models.layout import INDEX_FILE, WEIGHTS
    from stdcli.remote.snapshot import download_command

    cached = _cached(model)
    lacking = [INDEX_FILE]
    index = _read_index(cached.get(INDEX_FILE))
    if index:
        there = {name.rpartition("/")[0] for name in cached}
        weighted = {name.rpartition("/")[0] for name in cached if WEIGHTS.fullmatch(name.rpartition("/")[2])}
        wanted = [part for part in PARTS if (index.get(part) or [None])[0] is not None]
        lacking = [part for part in wanted if part not in (weighted if part in NETWORKS else there)]
    kind = ".fp16" if _takes_half() else ""
    weights = [
        f"{part}/{'model' if part.startswith('text') else 'diffusion_pytorch_model'}{kind}.safetensors"
        for part in NETWORKS
    ]
    return _hub_finding(model, lacking, download_command(model, None, ["*.json", "*.txt", *weights]))


def _takes_half() -> bool:
    """Whether `--dtype auto` takes half-precision files here, which all models of the presets have."""
    try:
        from stdcli.runtime.devices import choose

        return choose("auto", "auto").dtype.itemsize < 4
    except (ImportError, StdcliError):
        return False


def _read_index(path: Path | None) -> dict[str, Any]:
    """What a model_index.json says; nothing if it is missing or damaged."""
    try:
        return read_object(path, ModelError) if path else {}
    except ModelError:
        return {}


def _hub_files(title: str, repo: str, files: list[str]) -> Finding:
    """Whether some files of a repository are in the cache."""
    from stdcli.remote.snapshot import download_command

    cached = _cached(repo)
    lacking = [name for name in files if name not in cached]
    return _hub_finding(title, lacking, download_command(repo, None, files))


def _hub_finding(title: str, lacking: list[str], command: str) -> Finding:
    if not lacking:
        return Finding(title, "in the hub cache")
    return Finding(title, f"not in the hub cache: {', '.join(lacking)}", ok=False, fix=command)


def _cached(repo: str) -> dict[str, Path]:
    """Names and paths of the files of a repository's main branch that are in the cache."""
    from huggingface_hub import constants

    place = Path(constants.HF_HUB_CACHE) / f"models--{repo.replace('/', '--')}"
    try:
        folder = place / "snapshots" / read_text(place / "refs" / "main", HubError).strip()
    except HubError:
        return {}
    return {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}


def preset_models() -> tuple[list[str], list[str]]:
    """Hub ids that the shipped presets name, each once: models and their bases, and LoRAs."""
    from stdcli.config.load import resolve
    from stdcli.config.presets import list_presets
    from stdcli.config.quantities import split_scale

    models: set[str] = set()
    loras: set[str] = set()
    for preset in list_presets():
        if preset.name.startswith("stylize/"):
            config = resolve("stylize", preset=preset.name).config
            models |= {config.model, config.base or ""}
            loras |= {split_scale(lora)[0] for lora in config.lora}
    return sorted(name for name in models if "/" in name), sorted(name for name in loras if "/" in name)


def _extras() -> list[Finding]:
    found = []
    for extra, modules in EXTRAS.items():
        lacking = [package for module, package in modules.items() if importlib.util.find_spec(module) is None]
        value = f"{', '.join(lacking)} not installed" if lacking else "installed"
        fix = f'pip install "stdcli[{extra}]"' if lacking else None
        found.append(Finding(f"extra {extra}", value, ok=not lacking, fix=fix))
    return found
