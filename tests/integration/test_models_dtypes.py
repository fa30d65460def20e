"""Half precision: which files are read, what runs in which dtype, and how far the outputs move."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from stdcli.models import codec
from stdcli.models.diffusers_api import AutoencoderKL, UNet2DConditionModel
from stdcli.models.load import load_model
from stdcli.models.spec import ModelSpec
from tests.tiny_models import save_tiny_embedded, save_tiny_sd15, save_tiny_sdxl

RED = Image.new("RGB", (40, 40), "red")


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_embedded(tmp_path_factory.mktemp("embedded"))


@torch.no_grad()
def outputs(model: Path, dtype: str) -> tuple[torch.Tensor, torch.Tensor]:
    bundle = load_model(ModelSpec(str(model), device="cpu", dtype=dtype))
    cond, _ = bundle.condition(
        prompt="x", styles=[RED] if bundle.network.family.name == "embedded" else [], size_px=(64, 64)
    )
    z = bundle.codec.encode(torch.linspace(-1, 1, 3 * 64 * 64).view(1, 3, 64, 64))
    return bundle.codec.decode(z), bundle.network.denoiser(z, 499, cond)


def test_bfloat16_denoiser_beside_a_float32_codec(embedded: Path) -> None:
    bundle = load_model(ModelSpec(str(embedded), device="cpu", dtype="bfloat16"))
    assert bundle.network.dtype == bundle.network.denoiser.network.dtype == torch.bfloat16
    assert bundle.codec.vae.dtype == torch.float32
    (picture, output), (picture32, output32) = outputs(embedded, "bfloat16"), outputs(embedded, "float32")
    assert picture.dtype == output.dtype == torch.float32
    assert torch.equal(picture, picture32)
    error = (output - output32).norm() / output32.norm()
    assert 0 < error < 0.05


def test_sdxl_text_runs_in_bfloat16(tmp_path: Path) -> None:
    model = save_tiny_sdxl(tmp_path / "m")
    bundle = load_model(ModelSpec(str(model), device="cpu", dtype="bfloat16"))
    cond, _ = bundle.condition(prompt="x", size_px=(1000, 1000))
    assert cond.encoder_hidden_states.dtype == torch.bfloat16
    assert cond.added["time_ids"].tolist() == [[1000, 1000, 0, 0, 1000, 1000]], "bfloat16 would round these"
    (_, output), (_, output32) = outputs(model, "bfloat16"), outputs(model, "float32")
    assert 0 < (output - output32).norm() / output32.norm() < 0.05


def save_in_both_precisions(path: Path) -> Path:
    """A model whose UNet has a bias of 1 in its plain file, and of 2 in its fp16 file."""
    model = save_tiny_sd15(path)
    unet = UNet2DConditionModel.from_pretrained(model / "unet")
    torch.nn.init.constant_(unet.conv_in.bias, 1.0)
    unet.save_pretrained(model / "unet")
    torch.nn.init.constant_(unet.conv_in.bias, 2.0)
    unet.half().save_pretrained(model / "unet", variant="fp16")
    return model


@pytest.mark.parametrize(("dtype", "read"), [("bfloat16", 2.0), ("float32", 1.0)])
def test_fp16_files_are_for_half_precision(tmp_path: Path, dtype: str, read: float) -> None:
    model = save_in_both_precisions(tmp_path / "m")
    bundle = load_model(ModelSpec(str(model), device="cpu", dtype=dtype))
    assert (bundle.network.denoiser.network.conv_in.bias == read).all()
    (file,) = bundle.network.weight_files["unet"]
    assert (".fp16" in file.name) == (read == 2.0)


def test_one_part_with_only_fp16_files_leaves_the_others_plain(tmp_path: Path) -> None:
    model = save_in_both_precisions(tmp_path / "m")
    vae = AutoencoderKL.from_pretrained(model / "vae")
    (model / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    vae.half().save_pretrained(model / "vae", variant="fp16")
    bundle = load_model(ModelSpec(str(model), device="cpu", dtype="float32"))
    assert (bundle.network.denoiser.network.conv_in.bias == 1.0).all()
    assert bundle.codec.vae.dtype == torch.float32
    names = {part: file.name for part, (file,) in bundle.network.weight_files.items()}
    assert names["unet"] == "diffusion_pytorch_model.safetensors"
    assert names["vae"] == "diffusion_pytorch_model.fp16.safetensors"


def test_folder_with_only_fp16_files_loads_in_float32(tmp_path: Path) -> None:
    model = save_tiny_sd15(tmp_path / "m")
    for part, cls in (("unet", UNet2DConditionModel), ("vae", AutoencoderKL)):
        network = cls.from_pretrained(model / part)
        (model / part / "diffusion_pytorch_model.safetensors").unlink()
        network.half().save_pretrained(model / part, variant="fp16")
    bundle = load_model(ModelSpec(str(model), device="cpu", dtype="float32"))
    assert bundle.network.denoiser.network.dtype == bundle.codec.vae.dtype == torch.float32


def test_large_pictures_are_coded_in_tiles_by_large_codecs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = str(save_tiny_sd15(tmp_path / "m"))
    pixels = torch.rand(2, 3, 128, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    small = pixels[..., :64, :]
    plain = load_model(ModelSpec(model, device="cpu", dtype="float32"))
    monkeypatch.setattr(codec, "UNTILED_PX", 64 * 64)
    with torch.no_grad():
        whole, part = (plain.codec.decode(plain.codec.encode(x)) for x in (pixels, small))
        assert plain.network.notes == []  # this codec is a small one
        monkeypatch.setattr(codec, "SMALL_CODEC", 0)
        bundle = load_model(ModelSpec(model, device="cpu", dtype="float32"))
        tiled = bundle.codec.decode(bundle.codec.encode(pixels))
        assert bundle.codec.vae.use_tiling and bundle.codec.vae.use_slicing
        assert len(bundle.network.notes) == 1 and "in tiles" in bundle.network.notes[0]
        again = bundle.codec.decode(bundle.codec.encode(small))
        assert not bundle.codec.vae.use_tiling and not bundle.codec.vae.use_slicing
    assert torch.equal(again, part)
    assert tiled.shape == whole.shape
    assert not torch.equal(tiled, whole), (
        "random weights make seams; equal pictures would mean that nothing was tiled"
    )


def test_codecs_without_tiling_do_without(embedded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "UNTILED_PX", 0)
    monkeypatch.setattr(codec, "SMALL_CODEC", 0)
    bundle = load_model(ModelSpec(str(embedded), device="cpu", dtype="float32"))
    bundle.codec.decode(torch.ones(1, 8, 4, 4))
    assert bundle.network.notes == []


def test_gradients_are_off_until_asked_for(embedded: Path) -> None:
    bundle = load_model(ModelSpec(str(embedded), device="cpu", dtype="float32"))
    modules = (bundle.network.denoiser.network, bundle.codec.vae)
    assert not any(p.requires_grad for m in modules for p in m.parameters())
    assert not any(m.training for m in modules)


@pytest.mark.slow
def test_loading_is_silent(embedded: Path) -> None:
    """In a process of its own: logging and progress bars are set up at import."""
    code = (
        "import sys; from PIL import Image; from stdcli.models.load import load_model\n"
        "from stdcli.models.spec import ModelSpec\n"
        "b = load_model(ModelSpec(sys.argv[1], device='cpu', dtype='float32', offline=True))\n"
        "b.condition(prompt='x', styles=[Image.new('RGB', (40, 40))], size_px=(64, 64))\n"
    )
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, str(embedded)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
