"""What `tests.golden.unmoved` runs in either tree, in one process: command lines alone.

    python jobs.py NAME ...

runs the named jobs in the working folder, a job in a folder of its own name. Nothing of stdcli is known here
but its command line, since modules move between commits.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shlex
import sys
import time
from pathlib import Path

IN = "../../inputs"
CPU = "--device cpu --dtype float32"
PICTURE = f"stylize {IN}/photos/a.png"
TINY = f"--model {IN}/models/embedded"
STYLE = f"--style {IN}/art/x.png"
TEACHER = (
    "--set codec.fit_crops=32 --set codec.fit_crop_px=32 --set codec.steps=4 --set codec.batch_size=2"
    " --set codec.crop_px=32 --set network.channels=32,64 --set network.style_dim=16"
    " --set network.style_width=32 --set network.style_layers=1 --set network.cross_dim=16"
    " --set pairs.photo_px=32 --set pairs.style_px=32 --set train.batch_size=4 --set train.warmup_steps=2"
    " --set train.ema_decay=0.9 --set train.log_every=2 --set train.sample_every=6"
    " --set train.checkpoint_every=3 --set recipe.steps=2 --device cpu --steps 6"
)
DISTILL = (
    f"{CPU} --seed 6 --batch-size 2 --train-steps 20 --rank 2 --sample-every 20 --checkpoint-every 10"
    " --set train.log_every=5 --set step_counts=2,4 --set steps=2 --learning-rate 1e-3"
)
ADVERSARY = "--adv-weight 0.5 --adv-real style --set adversary.features=teacher"


def _bank(family: str) -> str:
    told = f"--style-data {IN}/art" if family == "embedded" else f"--prompts {IN}/prompts.txt"
    return (
        f"bank build --model {IN}/models/{family} --data {IN}/photos {told} --resolution 64"
        f" --num-solver-steps 10 --strength 0.6 --guidance-range 2:4 --num-paths 5 --shard-size 2 {CPU}"
    )


def _text_to_image(family: str) -> tuple[str, ...]:
    """Every way of telling such a model what to paint."""
    model = f"--model {IN}/models/{family} {CPU}"
    lora = f"--lora {IN}/lora/{family}.safetensors:0.7"
    prompt = "--prompt 'an oil painting' --negative-prompt glass"
    masked = f"inpaint {IN}/photos/a.png --mask {IN}/mask.png"
    return (
        f"{PICTURE} {model} {prompt} --steps 3 --strength 0.5 --guidance 3 -o text.png",
        f"{PICTURE} {model} {prompt} {STYLE} --steps 2 --strength 1 --seed 5 --gamma 0.3 -o style.png",
        f"{PICTURE} {model} {prompt} {lora} --timesteps 700,300 --guidance 2 -o lora.png",
        f"{PICTURE} {model} {STYLE} --student {IN}/students/{family} -o student.png",
        f"{masked} {model} {prompt} --steps 3 --strength 0.8 -o inpaint.png",
    )


JOBS: dict[str, tuple[str | tuple[int, str], ...]] = {
    "pictures": (
        f"{PICTURE} {STYLE} -o student.png",
        f"{PICTURE} {STYLE} --student none --steps 3 --strength 0.5 --guidance 2 --seed 3 -o guided.png",
        f"{PICTURE} {STYLE} --style {IN}/art/y.png --style-weights 2,1 --max-size 64 -o blend.jpg",
        f"{PICTURE} {STYLE} --student none --match-style-statistics --gamma 0.4 --steps 2 -o statistics.png",
        f"stylize {IN}/cutout.png {STYLE} --student none --timesteps 500,200 -o alpha.webp",
        f"inpaint {IN}/photos/b.png --mask {IN}/mask.png {STYLE} -o inpaint.png",
        f"inpaint {IN}/cutout.png --mask alpha --strength 1 --crop --feather 3 -o crop.png",
        f"{PICTURE} {TINY} {STYLE} --student {IN}/students/embedded {CPU} -o tiny.png",
        f"{PICTURE} --model {IN}/models/sd15-v {STYLE} --steps 2 --strength 0.7 {CPU} -o velocity.png",
    ),
    "sd15": _text_to_image("sd15"),
    "sdxl": _text_to_image("sdxl"),
    "clips": (
        f"stylize {IN}/clip.mp4 {STYLE} --temporal blend --batch 5 --duration 0.6 -o blend.mp4",
        f"stylize {IN}/clip.mp4 {STYLE} --temporal flow --duration 0.5 --codec ffv1 -o flow.mkv",
        f"stylize {IN}/shot/%05d.png {STYLE} --fps 12 -o shot/%05d.png",
        f"inpaint {IN}/clip.mp4 --mask {IN}/mask.png --resize-mask {STYLE} --duration 0.3 -o mask.mkv",
    ),
    "banks": (
        *(f"{_bank(family)} -o {family}" for family in ("embedded", "sd15", "sdxl")),
        f"{_bank('embedded')} --keep-levels 6,3,0 --seed 2 -o kept",
        f"{_bank('sdxl')} --style-data self --set store_dtype=float32 --num-paths 3 -o styled",
        f"{_bank('embedded')} --worker 0/2 -o half",
        f"{_bank('embedded')} --data {IN}/cutout.png --num-paths 2 -o other",
        "bank merge embedded other -o merged",
        "bank prune embedded --keep-levels 6,4,2,0 -o pruned",
        "bank verify embedded",
        "bank info sdxl",
    ),
    "distill": (
        f"{_bank('embedded')} -o bank",
        f"distill --bank bank --style-data {IN}/art {DISTILL} {ADVERSARY} --target mix"
        " --set std.window=4 --set adversary.r1=0.1 --set std.target_weights=average -o std",
        f"distill --bank bank --method lcm --style-data {IN}/art {DISTILL} {ADVERSARY}"
        " --set std.target_weights=average -o lcm",
        f"distill --data {IN}/photos --style-data {IN}/art {DISTILL} {ADVERSARY}"
        f" --set paths.model={IN}/models/embedded --set paths.resolution=64 --set paths.num_solver_steps=10"
        " --set paths.strength=0.6 --set paths.guidance_range=2:4 --set online.slots=4 --set online.rate=0.8"
        " --target consistency --set adversary.norm=local-batch --train-steps 8 -o online",
        f"distill --bank bank {DISTILL} --train-steps 6 --student full --set student.s_embedding=true"
        " --accumulation 2 -o full",
        f"distill --bank bank {DISTILL} --train-steps 4 --init std -o longer",
        f"{_bank('sdxl')} -o bank-sdxl",
        f"distill --bank bank-sdxl {DISTILL} --train-steps 4 -o sdxl",
        "export std -o diffusers.safetensors",
        "export std --format kohya -o kohya.safetensors",
        "export sdxl --format kohya -o kohya-sdxl.safetensors",
        "export sdxl --format merged -o merged.safetensors",
        "export sdxl --format merged -o merged",
        f"{PICTURE} {STYLE} --student std {TINY} {CPU} -o std.png",
    ),
    "teacher": (
        f"teacher train --data {IN}/painter {TEACHER} --set codec.latent_channels=12"
        " --set codec.hidden_channels=8 --set pairs.repeat_after=3 -o patches",
        f"teacher train --data {IN}/painter --paintings {IN}/painter/painted {TEACHER}"
        " --set codec.kind=lapped --set codec.latent_channels=6 --set codec.widths=4,4,4,4"
        " --set codec.fit_steps=4 --set pairs.art_share=0.5 -o paintings",
    ),
    "report": (
        (8, f"eval run --suite {IN}/suite.yaml --content {IN}/photos/a.png {STYLE} -o report"
            " --threshold edges>=2"),
        "eval metrics",
    ),
    "presets": ("presets list", "presets show stylize/sdxl-lcm --resolved", "presets validate"),
    "hub": (
        f"{_bank('embedded')} --num-paths 3 -o bank",
        f"hub push {IN}/students/sd15 me/student --base-model me/teacher --license apache-2.0",
        f"hub push {IN}/models/embedded me/model --public",
        "hub push bank me/bank --base-model me/model",
        "hub pull me/student -o pulled",
    ),
    "refusals": (
        (2, "stylize --no-such-option"),
        (2, f"{PICTURE} {STYLE} --strength 1.5"),
        (2, f"{PICTURE} {STYLE} --set no.such=1"),
        (2, f"{PICTURE} {STYLE} --preset no/such"),
        (2, "distill --method nothing -o run"),
        (2, f"{PICTURE} {STYLE} {TINY} --student {IN}/students/embedded --strict --steps 3"),
        (3, f"bank info {IN}/photos"),
        (3, f"distill --bank {IN}/no-bank -o run"),
        (4, f"{PICTURE} {STYLE} --model {IN}/no-model"),
        (4, f"{PICTURE} {STYLE} --model {IN}/broken.safetensors"),
        (4, f"{PICTURE} {STYLE} --student {IN}/students/sdxl --model {IN}/models/sd15"),
        (5, f"stylize {IN}/no.png {STYLE}"),
        (5, f"stylize {IN}/broken.png {STYLE}"),
        (5, f"stylize {IN}/broken.mp4 {STYLE}"),
        (5, f"inpaint {IN}/photos/a.png --mask {IN}/cutout.png"),
        (6, f"{PICTURE} {STYLE} --model nobody/nothing"),
        (7, f"{PICTURE} {STYLE} --device cuda:77"),
        (9, f"{PICTURE} {STYLE} --model {IN}/models/nan {CPU} -o nan.png"),
    ),
}  # fmt: skip
"""Command lines by the name of their job, each with its exit code where that is not 0."""


def run_job(name: str) -> None:
    """Run a job in its folder, and leave there what its commands said on stdout and how they ended."""
    steps = [step if isinstance(step, tuple) else (0, step) for step in JOBS[name]]
    folder = Path(name)
    folder.mkdir()
    with contextlib.chdir(folder):
        records = [_run(code, command) for code, command in steps]
        Path("commands.json").write_text(json.dumps(records, indent=1))


def _run(expected: int, command: str) -> dict[str, object]:
    from stdcli.cli.main import main
    from tests.tiny_accelerator import forget_accelerator

    out, err = io.StringIO(), io.StringIO()
    started = time.monotonic()
    forget_accelerator()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([*shlex.split(command), "--json"])
    forget_accelerator()
    sys.stderr.write(f"{time.monotonic() - started:6.1f} s  {code}  {command[:100]}\n")
    if code != expected:
        sys.stderr.write(f"expected exit code {expected}; {err.getvalue()[-2000:]}\n")
    told = _parsed(_without_places(out.getvalue()))
    refusal = _parsed(err.getvalue().splitlines()[-1])["error"] if code else {}
    named = {key: refusal[key] if key in ("type", "exit_code") else None for key in refusal}
    return {"command": command, "expected": expected, "code": code, "told": told, "error": named}


def _without_places(text: str) -> str:
    """What is printed, without where this tree and its Hub are."""
    return text.replace(sys.path[0], "TREE").replace(os.environ["HF_ENDPOINT"], "HUB")


def broken_commands(folder: Path) -> list[str]:
    """The commands of a job, run into `folder`, that did not end with the exit code they should."""
    path = folder / "commands.json"
    records = json.loads(path.read_text()) if path.is_file() else []
    return [
        f"exit code {row['code']} in place of {row['expected']}: {row['command']}: {row['error']}"
        for row in records
        if row["code"] != row["expected"]
    ]


def _parsed(text: str) -> object:
    """JSON as data, lines of JSON as a list of data, other text as it is."""
    with contextlib.suppress(ValueError):
        return json.loads(text)
    with contextlib.suppress(ValueError):
        return [json.loads(line) for line in text.splitlines()]
    return text


def main(names: list[str]) -> None:
    """Run jobs one after another."""
    import stdcli

    tree = Path(sys.path[0]).resolve()
    if tree not in Path(stdcli.__file__).resolve().parents:
        raise SystemExit(f"stdcli comes from {stdcli.__file__}, not from {tree}")
    for name in names:
        run_job(name)


if __name__ == "__main__":
    main(sys.argv[1:])
