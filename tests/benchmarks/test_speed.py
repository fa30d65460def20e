"""What stylizing costs. Run it by name: `pytest tests/benchmarks -s`.

Each figure is measured in this run on this machine; comparisons are side by side, medians of alternating
rounds.
Prints one line per figure, as in RESULTS.md.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLImg2ImgPipeline, TCDScheduler
from PIL import Image

from stdcli.cli.main import main
from stdcli.config.schema import StylizeConfig
from stdcli.inference.image_to_image import ImageToImage
from stdcli.inference.settings import resolve_sampling
from stdcli.media.probe import VideoInfo
from stdcli.media.tensors import to_tensor
from stdcli.media.video import VideoWriter
from stdcli.models.load import load_model
from stdcli.models.spec import ModelSpec

ROUNDS = 7
ASSETS = Path(__file__).parents[2] / "stdcli/assets/embedded"


def say(name: str, value: str) -> None:
    sys.stdout.write(f"\n{name}: {value}")


def seconds_of(*command: str) -> float:
    began_s = time.perf_counter()
    subprocess.run([sys.executable, *command], check=True, capture_output=True)
    return time.perf_counter() - began_s


def picture(seed: int) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)).resize((256, 256))


def test_help_is_quick():
    best_s = min(seconds_of("-m", "stdcli", "--help") for _ in range(5))
    say("stdcli --help", f"{best_s * 1e3:.0f} ms")
    assert best_s < 0.3


def test_cold_stylize(tmp_path):
    picture(1).save(tmp_path / "photo.jpg")
    picture(2).save(tmp_path / "style.png")
    photo, style = str(tmp_path / "photo.jpg"), str(tmp_path / "style.png")
    arguments = [photo, "--style", style, "--steps", "4", "--overwrite"]
    totals = [seconds_of("-m", "stdcli", "stylize", *arguments) for _ in range(3)]
    imports = [seconds_of("-c", "import stdcli.inference.stylize") for _ in range(3)]
    total_s, import_s = statistics.median(totals), statistics.median(imports)
    share = f"of it imports {import_s:.1f} s ({import_s / total_s:.0%})"
    say("cold stylize, 256 px, 4 steps", f"{total_s:.1f} s, {share}")
    assert total_s < 12


def test_clip(tmp_path, capsys):
    picture(2).save(tmp_path / "style.png")
    wide = np.asarray(picture(3).resize((640, 256)))
    with VideoWriter(tmp_path / "clip.mp4", VideoInfo(256, 256, Fraction(25), 48)) as writer:
        for index in range(48):
            writer.write(np.ascontiguousarray(wide[:, 4 * index : 4 * index + 256]))
    command = ["stylize", str(tmp_path / "clip.mp4"), "--style", str(tmp_path / "style.png"), "--steps", "4"]
    rates = []
    for _ in range(3):
        assert main([*command, "--json", "--overwrite"]) == 0
        told = json.loads(capsys.readouterr().out)
        rates.append(told["frames"] / told["seconds"])
    with capsys.disabled():
        rate = statistics.median(rates)
        say("clip, 256 px, 4 steps", f"{rate:.2f} frames per second, decoding and encoding included")


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_loop_against_plain_diffusers(guidance):
    """Same model, picture, timesteps and forwards: our loop may not be slower than a pipeline's."""
    bundle = load_model(ModelSpec("embedded", device="cpu", dtype="float32"))
    config = StylizeConfig(steps=8, strength=0.6, guidance=guidance, match_style_statistics=False)
    settings = resolve_sampling(config, bundle.network.recipe, bundle.network.schedule)
    style, pixels = picture(2), to_tensor(np.asarray(picture(1)))
    condition, unconditional = bundle.condition(styles=[style], size_px=(256, 256), guidance=guidance)
    ours = ImageToImage(bundle, settings, condition, unconditional, None, seed=0)

    pipe = StableDiffusionXLImg2ImgPipeline.from_pretrained(ASSETS, feature_extractor=None)
    pipe.load_ip_adapter(str(ASSETS), subfolder="ip_adapter", weight_name="ip_adapter.safetensors")
    pipe.scheduler = TCDScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    embeds = condition.added["image_embeds"].float()
    both = torch.cat([torch.zeros_like(embeds), embeds]) if guidance != 1 else embeds
    zeros = torch.zeros(1, 1, pipe.unet.config.cross_attention_dim)

    def theirs() -> None:
        pipe(
            image=(pixels + 1) / 2,
            prompt_embeds=zeros,
            pooled_prompt_embeds=condition.added["text_embeds"].float(),
            negative_prompt_embeds=zeros,
            negative_pooled_prompt_embeds=torch.zeros_like(condition.added["text_embeds"]),
            ip_adapter_image_embeds=[both],
            timesteps=[int(t) for t in settings.plan.timesteps],
            strength=1.0,
            guidance_scale=guidance,
            eta=0.0,
            output_type="pt",
            generator=torch.Generator().manual_seed(0),
        )

    runs = {"ours": lambda: ours(pixels), "diffusers": theirs}
    times = {name: [] for name in runs}
    for round_ in range(ROUNDS + 1):
        for name, run in runs.items():
            began_s = time.perf_counter()
            run()
            if round_:
                times[name].append(time.perf_counter() - began_s)
    medians = {name: statistics.median(values) for name, values in times.items()}
    ratio = medians["ours"] / medians["diffusers"]
    say(
        f"8 steps, guidance {guidance:g}",
        f"ours {medians['ours']:.3f} s, diffusers {medians['diffusers']:.3f} s, ratio {ratio:.3f}",
    )
    assert ratio <= 1.02
