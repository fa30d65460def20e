"""A family from outside: everything that the toolkit knows of it stands in this file.

Its network is a tiny transformer of SD3's class with a flow schedule, and letters for a text encoder;
restyling, banks, students and critics must come to terms with it by its row alone.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Img2ImgPipeline,
)
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from stdcli.bank.reader import Bank
from stdcli.cli.main import main
from stdcli.config.recipe import Recipe
from stdcli.diffusion.levels import make_sampling_path
from stdcli.diffusion.noise import make_noise
from stdcli.diffusion.predictions import PredictionType
from stdcli.inference.image_to_image import FRAME_ID
from stdcli.models.condition import Condition
from stdcli.models.denoiser import Denoiser, FeatureTaps
from stdcli.models.families.family import Family
from stdcli.models.families.registry import FAMILIES
from stdcli.models.load import load_model
from stdcli.models.spec import ModelSpec
from tests.tiny_pictures import write_ramps

TOKENS, WIDTH, POOLED = 3, 16, 12
TEXTS = [f"{kind}{end}" for kind in ("text_encoder", "tokenizer") for end in ("", "_2", "_3")]


class ToyDenoiser(Denoiser):
    """SD3Transformer2DModel behind one call."""

    part: ClassVar[str] = "transformer"

    @property
    def multiple(self) -> int:
        return self.network.config.patch_size

    def arguments(
        self, x: Tensor, t: Tensor | float, condition: Condition, target_time: Tensor | float | None
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        dtype = self.network.dtype
        times = torch.as_tensor(t, dtype=torch.float32, device=x.device).expand(len(x))
        return (x.to(dtype),), {
            "timestep": times,
            "encoder_hidden_states": condition.encoder_hidden_states.to(dtype),
            "pooled_projections": condition.added["text_embeds"].to(dtype),
            "return_dict": False,
        }

    def lora_targets(self) -> list[str]:
        ends = ("attn.to_q", "attn.to_v", "ff.net.2")
        return [name for name, _ in self.network.named_modules() if name.endswith(ends)]

    def feature_taps(self) -> FeatureTaps:
        blocks = tuple(self.network.transformer_blocks)
        widths = (self.network.config.caption_projection_dim,) * len(blocks)
        return FeatureTaps(self.network, blocks, widths, lambda output: output[1].transpose(1, 2))


class Letters:
    """A prompt's tokens and vector, drawn from its own letters."""

    def __init__(self, pipe: Any) -> None:
        self._device = pipe.transformer.device

    def encode(self, *, prompt, negative_prompt, size_px, guided, style, pooled="zero"):
        return self._of(prompt or ""), self._of(negative_prompt or "") if guided else None

    def _of(self, text: str) -> Condition:
        rng = torch.Generator().manual_seed(zlib.crc32(text.encode()))
        tokens = torch.randn(1, TOKENS, WIDTH, generator=rng).to(self._device)
        return Condition(tokens, {"text_embeds": torch.randn(1, POOLED, generator=rng).to(self._device)})


TOY = Family(
    name="toy",
    pipeline=StableDiffusion3Img2ImgPipeline,
    class_names=frozenset({"StableDiffusion3Img2ImgPipeline"}),
    components=("transformer", "vae", "scheduler"),
    network_classes=("SD3Transformer2DModel",),
    make_denoiser=ToyDenoiser,
    make_text=Letters,
    recipe=Recipe(steps=3, strength=0.6, guidance=2.0),
    size_px=32,
    left_out=dict.fromkeys([*TEXTS, "image_encoder", "feature_extractor"]),
)


@pytest.fixture(scope="module", autouse=True)
def registered() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(FAMILIES, TOY.name, TOY)
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy") / "model"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformer = SD3Transformer2DModel(
            sample_size=16,
            patch_size=2,
            in_channels=4,
            out_channels=4,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=WIDTH,
            caption_projection_dim=16,
            pooled_projection_dim=POOLED,
            pos_embed_max_size=16,
        )
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            block_out_channels=(8, 8),
            norm_num_groups=4,
            latent_channels=4,
        )
    parts = {"transformer": transformer, "vae": vae, "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0)}
    StableDiffusion3Img2ImgPipeline(**parts, **dict.fromkeys(TEXTS)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("photos") / "ramps"
    write_ramps(root, seed=3)
    return root


@pytest.fixture(scope="module")
def bank(model: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bank")
    (root / "prompts.txt").write_text("a print in ink\n")
    options = ["--model", str(model), "--prompts", str(root / "prompts.txt"), "--num-paths", "4", "--quiet"]
    options += ["--device", "cpu", "--dtype", "float32"]
    assert main(["bank", "build", "--data", str(photos), "-o", str(root / "bank"), *options]) == 0
    return root / "bank"


@torch.no_grad()
def euler(model: Path, picture: Path, prompt: str) -> np.ndarray:
    """What stylize must give, by diffusers' own parts and Euler's steps."""
    pipe = StableDiffusion3Img2ImgPipeline.from_pretrained(model, **TOY.left_out)
    condition, uncond = Letters(pipe).encode(
        prompt=prompt, negative_prompt=None, size_px=(1, 1), guided=True, style=None
    )
    pixels = torch.from_numpy(np.asarray(Image.open(picture), np.float32) / 127.5 - 1).permute(2, 0, 1)[None]
    z = pipe.vae.encode(pixels).latent_dist.mode() * pipe.vae.config.scaling_factor
    sigmas = torch.linspace(0, 1, 1001, dtype=torch.float64)
    schedule = load_model(ModelSpec(str(model), device="cpu")).network.schedule
    torch.testing.assert_close(schedule.sigmas, 3 * sigmas / (1 + 2 * sigmas))
    path = make_sampling_path(schedule, **TOY.recipe.path())
    levels = [*path.levels[:-1], path.levels[-1]]
    x = levels[0].alpha * z + levels[0].sigma * make_noise((1, *z.shape[1:]), 0, FRAME_ID)
    for high, low in pairwise(levels):
        without, under = (
            pipe.transformer(
                x.float(),
                timestep=torch.tensor([1000 * high.sigma]),
                encoder_hidden_states=side.encoder_hidden_states,
                pooled_projections=side.added["text_embeds"],
            ).sample
            for side in (uncond, condition)
        )
        x = x + (low.sigma - high.sigma) * (without + 2.0 * (under - without))
    decoded = pipe.vae.decode(x.float() / pipe.vae.config.scaling_factor).sample
    return ((decoded[0].permute(1, 2, 0).clamp(-1, 1) + 1) * 127.5).round().numpy()


def test_it_restyles_as_its_own_parts_do(model: Path, photos: Path, tmp_path: Path) -> None:
    photo, result = tmp_path / "photo.png", tmp_path / "result.png"
    Image.open(photos / "p00.png").convert("RGB").resize((32, 24)).save(photo)
    options = ["--model", str(model), "--device", "cpu", "--dtype", "float32", "--quiet", "--seed", "0"]
    assert main(["stylize", str(photo), "--prompt", "a print in ink", "-o", str(result), *options]) == 0
    assert (
        np.abs(np.asarray(Image.open(result), np.float32) - euler(model, photo, "a print in ink")).max() <= 1
    )


def test_a_bank_of_it_knows_its_teacher(bank: Path) -> None:
    manifest = Bank(bank).manifest
    assert manifest.model["family"] == "toy" and len(manifest.model["transformer_sha256"]) == 64
    assert manifest.resolution_px == TOY.size_px and manifest.prediction == PredictionType.FLOW


def test_students_of_it_learn_are_found_and_restyle(
    model: Path, photos: Path, bank: Path, tmp_path: Path
) -> None:
    """Adapters with a critic that looks into its blocks, and all weights; both change what is drawn."""
    photo, results = str(photos / "p00.png"), []
    options = ["--device", "cpu", "--dtype", "float32", "--quiet"]
    for kind in ("lora", "full"):
        run, result = tmp_path / kind, tmp_path / f"{kind}.png"
        settings = ["train.batch_size=2", "student.rank=2", "train.learning_rate=0.05"]
        settings += ["adversary.weight=0.1", "adversary.features=teacher"] if kind == "lora" else []
        sets = [part for text in settings for part in ("--set", text)]
        learn = ["distill", "--bank", str(bank), "-o", str(run), "--train-steps", "3", "--student", kind]
        assert main([*learn, *options, *sets]) == 0
        draw = ["stylize", photo, "--prompt", "a print in ink", "--model", str(model), "-o", str(result)]
        assert main([*draw, *options, "--student", str(run)]) == 0
        results.append(np.asarray(Image.open(result)).astype(int))
    tensors = load_file(tmp_path / "lora/student/pytorch_lora_weights.safetensors")
    assert {name.split(".")[0] for name in tensors} == {"transformer"}
    assert (tmp_path / "full/student/transformer/diffusion_pytorch_model.safetensors").is_file()
    plain = tmp_path / "plain.png"
    teacher = ["stylize", photo, "--prompt", "a print in ink", "--model", str(model), "--guidance", "1"]
    assert main([*teacher, *options, "-o", str(plain)]) == 0
    results.append(np.asarray(Image.open(plain)).astype(int))
    assert all(np.abs(one - other).max() > 1 for one, other in pairwise([*results, results[0]]))
