"""The page of a repository: what it is, the command that uses it, how it was made, what was measured.

Written from the files themselves and from what a run noted; the same data give the same bytes, so that a
second push finds it unchanged. Knows no network.
Source: the Hub's documentation of model cards for the names and values of the metadata.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import yaml

from stdcli.config.distill_methods import DEFAULT, find_method, method_names
from stdcli.config.recipe import Recipe
from stdcli.hub.artefact import Artefact
from stdcli.models.locate import EMBEDDED

MARKER = "<!-- written by stdcli hub push; without this line the next push leaves this page alone -->"
PAPER = "https://arxiv.org/abs/2412.18945"
HOME = "stdcli"
LICENSES = {
    EMBEDDED: "apache-2.0",
    "stabilityai/stable-diffusion-xl-base-1.0": "openrail++",
    "stable-diffusion-v1-5/stable-diffusion-v1-5": "creativeml-openrail-m",
}
"""Base model -> licence, which what is made from it inherits."""
ARROWS = {"higher": "↑", "lower": "↓"}
TRAINING = ("steps", "batch_size", "accumulation", "learning_rate", "schedule", "loss")


@dataclass(frozen=True)
class CardData:
    """What a card says.

    Attributes:
        repo: OWNER/NAME.
        artefact: what is pushed.
        base: public name of the base model, if there is one.
        license: by the Hub's name; None for what the base model implies.
        recipe: how it wants to be sampled.
        manifest: of a bank.
        run: what run.json says of the run that made it.
        report: of an evaluation, as report.json has it.
        samples: names of the pictures in the repository.
    """

    repo: str
    artefact: Artefact
    base: str | None = None
    license: str | None = None
    recipe: Recipe | None = None
    manifest: Mapping[str, Any] | None = None
    run: Mapping[str, Any] = field(default_factory=dict)
    report: Mapping[str, Any] | None = None
    samples: Sequence[str] = ()

    @property
    def known_license(self) -> str | None:
        """The licence that the card names."""
        return self.license or LICENSES.get(self.base or "")


def make_card(data: CardData) -> str:
    """The page as Markdown with its metadata in front."""
    metadata = yaml.safe_dump(_metadata(data), sort_keys=False, allow_unicode=True)
    about = {"student": _student, "model": _model, "bank": _bank}[data.artefact.kind]
    parts = [f"---\n{metadata}---", f"# {data.repo.rpartition('/')[2]}", *about(data)]
    if data.samples:
        parts += ["## Samples", "\n".join(f"![{name}]({quote(name)})" for name in data.samples)]
    if data.report is not None:
        parts += ["## Evaluation", *_evaluation(data.report)]
    parts += ["## Licence", *_license(data), MARKER]
    return "\n\n".join(parts) + "\n"


def _metadata(data: CardData) -> dict[str, Any]:
    kind = data.artefact.kind
    about: dict[str, Any] = {}
    if data.known_license:
        about["license"] = data.known_license
    if kind == "bank":
        return about | {"tags": [HOME, "stdcli-bank", "diffusion-trajectories"]}
    about = {"library_name": "diffusers", "pipeline_tag": "image-to-image"} | about
    if data.base and "/" in data.base:
        about["base_model"] = data.base
        about["base_model_relation"] = "adapter" if data.artefact.is_lora else "finetune"
    tags = [HOME, "diffusers", "stylization"]
    if kind == "student":
        tags += ["few-step", *(["lora"] if data.artefact.is_lora else [])]
        method = data.recipe and data.recipe.trained and data.recipe.trained.method
        tags += ["single-trajectory-distillation"] if method == "std" else []
    return about | {"tags": tags, "instance_prompt": None}


def _student(data: CardData) -> Iterator[str]:
    recipe, base = data.recipe, data.base
    trained = recipe.trained if recipe else None
    method = f", made by {_cited(trained.method)}" if trained else ""
    kind = "low-rank adapters (LoRA)" if data.artefact.is_lora else "all weights of the denoiser"
    yield f"A student of {_link(base)}{method}: {kind} that restyle pictures and clips in a few steps."
    model = "" if base in (None, EMBEDDED) else f" --model {base}"
    yield "## Use"
    yield _code("bash", f"stdcli stylize photo.jpg --style painting.jpg{model} --student {data.repo}")
    if recipe is not None:
        yield _table(("setting", "value"), list(_settings(recipe)))
        if trained and trained.s_embedding:
            yield "The network is told where each step aims, which other programs cannot do."
        elif data.artefact.is_lora and base not in (None, EMBEDDED) and recipe.timesteps:
            yield "In plain diffusers the timesteps are given as they are, with `strength=1.0`:"
            yield _code("python", _snippet(data.repo, base, recipe))
        yield (
            "A `strength` or `denoise` setting of other programs need not start at the same noise; "
            "what counts are the timesteps above."
        )
    yield from _training(data)
    if trained is not None:
        yield "Weights of the base that it was trained on:"
        yield _table(("component", "SHA-256"), sorted(trained.base_sha256.items()))


def _model(data: CardData) -> Iterator[str]:
    origin = f", trained from {_link(data.base)}" if data.base else ""
    yield f"A model in diffusers format that restyles pictures and clips{origin}, for {HOME}."
    yield "## Use"
    yield _code("bash", f"stdcli stylize photo.jpg --style painting.jpg --model {data.repo}")
    if data.recipe is not None:
        yield _table(("setting", "value"), list(_settings(data.recipe)))
    yield from _training(data)


def _bank(data: CardData) -> Iterator[str]:
    manifest = data.manifest or {}
    plan, guidance = manifest["plan"], manifest["guidance"]
    yield (
        f"{plan['num_paths']} paths of {_link(data.base)} through noise, every state kept, from which "
        f"students of few steps learn without the teacher ({_cited(DEFAULT)})."
    )
    yield "## Use"
    name = data.repo.rpartition("/")[2]
    pull = f"stdcli hub pull datasets/{data.repo} -o {name}"
    yield _code("bash", f"{pull}\nstdcli distill --bank {name} -o runs/student")
    levels = manifest["levels"]
    rows = [
        ("format", f"{manifest['format']} {manifest['version']}"),
        ("teacher", f"{manifest['model']['family']}, {data.base}"),
        ("levels", f"{len(levels)}, from t {levels[0]['t']:g} to {levels[-1]['t']:g}"),
        ("strength", f"{manifest['strength']:g}"),
        ("solver", f"{manifest['solver']}, {manifest['num_solver_steps']} steps"),
        ("guidance", f"{guidance['min']:g} to {guidance['max']:g}"),
        ("latents", f"{'x'.join(map(str, manifest['latent_shape']))}, {manifest['store_dtype']}"),
        _extent(manifest),
        ("start", manifest["start"]["transform"]),
    ]
    yield _table(("what", "value"), rows)
    yield "`samples.jsonl` names the picture of every path and its SHA-256; the pictures are not included."


def _extent(manifest: Mapping[str, Any]) -> tuple[str, str]:
    if "resolution_px" in manifest:
        return "pictures", f"{manifest['resolution_px']} px"
    frames = f"{manifest['frames']} frames of {manifest['width']}x{manifest['height']} px"
    return "clips", f"{frames}, stride {manifest['frame_stride']}"


def _settings(recipe: Recipe) -> Iterator[tuple[str, str]]:
    yield "steps", str(recipe.steps)
    if recipe.timesteps:
        yield "timesteps", ", ".join(f"{t:g}" for t in recipe.timesteps)
    yield "strength", f"{recipe.strength:g}"
    fused = ", the teacher's is part of the weights" if recipe.guidance_fused else ""
    yield "guidance", f"{recipe.guidance:g}{' (off)' if recipe.guidance == 1 else ''}{fused}"
    yield "sampler", f"{recipe.sampler}, gamma {recipe.gamma:g}, ends at {recipe.final}"
    yield "start", recipe.start.transform
    if recipe.trained is not None:
        yield "trained for", f"{', '.join(map(str, recipe.trained.supported_steps))} steps"


def _snippet(repo: str, base: str, recipe: Recipe) -> str:
    timesteps = ", ".join(f"{t:g}" for t in recipe.timesteps or ())
    scheduler = "TCDScheduler" if recipe.sampler == "jump" else "LCMScheduler"
    eta = f", eta={recipe.gamma:g}" if recipe.sampler == "jump" else ""
    return "\n".join(
        (
            f"from diffusers import AutoPipelineForImage2Image, {scheduler}",
            "",
            f'pipe = AutoPipelineForImage2Image.from_pretrained("{base}")',
            f"pipe.scheduler = {scheduler}.from_config(pipe.scheduler.config)",
            f'pipe.load_lora_weights("{repo}", weight_name="pytorch_lora_weights.safetensors")',
            f"result = pipe(prompt, image=photo, timesteps=[{timesteps}], strength=1.0,",
            f"              guidance_scale={recipe.guidance:g}{eta}).images[0]",
        )
    )


def _training(data: CardData) -> Iterator[str]:
    config = data.run.get("config")
    if not isinstance(config, Mapping) or not isinstance(config.get("train"), Mapping):
        return
    rows = [(name, config["train"][name]) for name in TRAINING if config["train"].get(name) is not None]
    if isinstance(student := config.get("student"), Mapping) and student.get("kind") == "lora":
        rows.append(("rank", student.get("rank")))
    learned, versions = data.run.get("learned", {}), data.run.get("versions", {})
    rows += [("bank", learned["fingerprint"])] if "fingerprint" in learned else []
    rows += [(name, versions[name]) for name in ("stdcli", "torch", "diffusers") if name in versions]
    yield "## Training"
    yield _table(("what", "value"), rows)


def _evaluation(report: Mapping[str, Any]) -> Iterator[str]:
    means = {(row["method"], row["metric"]): row["mean"] for row in report["table"]}
    methods = [method["id"] for method in report["methods"]]
    shown = [c for c in report["metrics"] if any(means.get((m, c["id"])) is not None for m in methods)]
    rows = []
    for column in shown:
        values = [means.get((method, column["id"])) for method in methods]
        unit = f" ({column['unit']})" if column["unit"] else ""
        arrow = ARROWS.get(column["better"], "")
        rows.append([f"{column['title']}{unit} {arrow}".strip(), *map(_number, values)])
    yield _table(("", *(method["title"] for method in report["methods"])), rows)
    count = f"{len(report['contents'])} contents x {len(report['styles'])} styles"
    version = report["versions"].get("stdcli", "")
    yield f"Means over {count}, by `stdcli eval` {version}. How each was measured:"
    yield "\n".join(f"- {column['title']}: {column['protocol']}" for column in shown)


def _license(data: CardData) -> Iterator[str]:
    if data.artefact.kind == "bank":
        yield "States and conditions derive from the pictures and the teacher; the licences of both apply."
    elif data.license is None and data.known_license:
        yield f"That of the base model, {_link(data.base)}: {data.known_license}."
    else:
        yield f"{data.known_license or 'Not stated.'}"
    if data.report is not None:
        yield (
            "Networks that measure (CSD, CLIP, DINO, LPIPS, the aesthetic head) and style adapters have "
            "licences of their own; none of them is included."
        )


def _number(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.4g}"


def _link(name: str | None) -> str:
    if name is None:
        return "an unnamed model"
    return f"[{name}](https://huggingface.co/{name})" if "/" in name else f"the model inside {HOME}"


def _code(language: str, text: str) -> str:
    return f"```{language}\n{text}\n```"


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(_cell(value) for value in line) + " |" for line in lines)


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")


def _cited(method: str) -> str:
    """A method with its source; the name alone of one that is not known here."""
    return find_method(method).citation if method in method_names() else method
