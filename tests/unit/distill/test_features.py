"""Features against plain diffusers and transformers: blocks run one after the other by hand."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from peft import LoraConfig
from torch import nn
from transformers import Dinov2Config, Dinov2Model

from stdcli.diffusion.levels import Level, levels_at
from stdcli.diffusion.schedule import NoiseSchedule
from stdcli.distill.augment import augment
from stdcli.distill.features import DinoFeatures, TeacherFeatures, fit
from stdcli.models.bundle import Bundle
from stdcli.models.codec import Codec
from stdcli.models.condition import Condition
from stdcli.models.load import load_model
from stdcli.models.spec import ModelSpec
from stdcli.models.unet_denoiser import UNetDenoiser
from stdcli.teacher.networks import build_codec
from tests.tiny_models import save_tiny_embedded

SD = NoiseSchedule.scaled_linear(0.00085, 0.012, 1000)
FAMILIES = ("sd15", "sdxl", "embedded")


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=rng(seed))


def level_of(*t: int) -> Level:
    return levels_at(SD, torch.tensor(t))


@contextmanager
def seeded(seed: int = 0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def plain_unet(**changes) -> UNet2DConditionModel:
    config = {
        "sample_size": 8,
        "block_out_channels": (16, 32),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "attention_head_dim": 8,
        "cross_attention_dim": 12,
    }
    with seeded():
        return UNet2DConditionModel(**(config | changes)).requires_grad_(False).eval()


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return load_model(
        ModelSpec(str(save_tiny_embedded(tmp_path_factory.mktemp("tiny"))), device="cpu", dtype="float32")
    )


def network_of(family: str, request: pytest.FixtureRequest) -> tuple[UNet2DConditionModel, Condition]:
    if family == "sd15":
        return plain_unet(), Condition(normal(1, 5, 12))
    if family == "sdxl":
        unet = plain_unet(
            addition_embed_type="text_time",
            addition_time_embed_dim=4,
            projection_class_embeddings_input_dim=10 + 6 * 4,
        )
        added = {"text_embeds": normal(1, 10), "time_ids": torch.full((1, 6), 512.0)}
        return unet, Condition(normal(1, 5, 12), added)
    unet = request.getfixturevalue("embedded").network.denoiser.network
    width = unet.config.cross_attention_dim
    style = unet.encoder_hid_proj.image_projection_layers[0].image_embeds.in_features
    ids = torch.tensor([[256.0, 256, 0, 0, 256, 256]])
    added = {"text_embeds": normal(1, style), "time_ids": ids, "image_embeds": normal(1, 1, style)}
    return unet, Condition(torch.zeros(1, 1, width), added)


def blocks_by_hand(
    unet: UNet2DConditionModel, x: torch.Tensor, t: torch.Tensor, condition: Condition
) -> list[torch.Tensor]:
    condition = condition.expand(len(x))
    added = dict(condition.added)
    if "image_embeds" in added:
        added["image_embeds"] = [added["image_embeds"]]
    emb = unet.time_embedding(unet.get_time_embed(x, t))
    tokens = condition.encoder_hidden_states
    extra = unet.get_aug_embed(emb, tokens, added)
    emb = emb if extra is None else emb + extra
    tokens = unet.process_encoder_hidden_states(tokens, added)
    x, maps = unet.conv_in(x), []
    for block in unet.down_blocks:
        attends = getattr(block, "has_cross_attention", False)
        x, _ = block(x, emb, encoder_hidden_states=tokens) if attends else block(x, emb)
        maps.append(x)
    maps.append(unet.mid_block(x, emb, encoder_hidden_states=tokens))
    return [features.flatten(2) for features in maps]


def hooks_of(unet: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in unet.modules())


@pytest.mark.parametrize("family", FAMILIES)
def test_teacher_features_are_the_outputs_of_the_encoders_blocks(family, request) -> None:
    unet, condition = network_of(family, request)
    features, level = TeacherFeatures(UNetDenoiser(unet), condition), level_of(0, 559)
    x = normal(2, unet.config.in_channels, 8, 8).requires_grad_()
    maps = features(x, level, generator=rng())
    expected = blocks_by_hand(unet, x, level.t, condition)
    assert len(maps) == len(unet.down_blocks) + 1
    for ours, theirs, width in zip(maps, expected, features.channels, strict=True):
        assert ours.shape[1] == width and ours.dtype == torch.float32
        torch.testing.assert_close(ours, theirs)
    (gradient,) = torch.autograd.grad(sum(m.square().mean() for m in maps), x)
    (wanted,) = torch.autograd.grad(sum(m.square().mean() for m in expected), x)
    torch.testing.assert_close(gradient, wanted)
    assert gradient.abs().sum((1, 2, 3)).min() > 0
    assert hooks_of(unet) == 0


def test_the_decoder_half_never_runs() -> None:
    unet, ran = plain_unet(), []
    hook = unet.up_blocks[0].register_forward_pre_hook(lambda *_: ran.append(1))
    maps = TeacherFeatures(UNetDenoiser(unet), Condition(normal(1, 5, 12)))(
        normal(1, 4, 8, 8), level_of(9), generator=rng()
    )
    assert len(maps) == 3 and not ran
    hook.remove()
    assert UNetDenoiser(unet)(normal(1, 4, 8, 8), 9, Condition(normal(1, 5, 12))).shape == (1, 4, 8, 8)


def test_hooks_go_and_errors_stay_where_a_forward_fails() -> None:
    unet = plain_unet()
    unet.enable_gradient_checkpointing()
    features = TeacherFeatures(UNetDenoiser(unet), Condition(normal(1, 5, 11)))
    with pytest.raises(RuntimeError):
        features(normal(1, 4, 8, 8), level_of(9), generator=rng())
    assert hooks_of(unet) == 0 and unet.is_gradient_checkpointing


class LoraStudent:
    """What a student is to the features: a UNet with adapters, off inside `as_teacher`."""

    def __init__(self, unet: UNet2DConditionModel) -> None:
        self.unet = unet
        with seeded(1):
            targets = ["to_q", "to_v", "conv1"]
            unet.add_adapter(LoraConfig(r=2, target_modules=targets, init_lora_weights=False))
        unet.train()

    def __call__(self, x, t, condition):
        return UNetDenoiser(self.unet)(x, t, condition)

    def feature_taps(self):
        return UNetDenoiser(self.unet).feature_taps()

    def lora(self) -> list[nn.Parameter]:
        return [weight for name, weight in self.unet.named_parameters() if "lora" in name]

    @contextmanager
    def as_teacher(self):
        self.unet.disable_adapters()
        try:
            yield
        finally:
            self.unet.enable_adapters()


@pytest.mark.parametrize("checkpointing", [False, True])
def test_of_a_student_the_teacher_is_seen(checkpointing) -> None:
    unet, condition = plain_unet(), Condition(normal(1, 5, 12))
    x, level = normal(2, 4, 8, 8).requires_grad_(), level_of(19, 739)
    expected = blocks_by_hand(unet, x, level.t, condition)
    (wanted,) = torch.autograd.grad(sum(m.square().mean() for m in expected), x)
    student = LoraStudent(unet)
    if checkpointing:
        unet.enable_gradient_checkpointing()
    output = student(x, level.t, condition)
    maps = TeacherFeatures(student, condition)(x, level, generator=rng())
    torch.testing.assert_close(maps, expected)
    sum(m.square().mean() for m in maps).backward()
    torch.testing.assert_close(x.grad, wanted)
    assert all(weight.grad is None for weight in student.lora())
    assert unet.is_gradient_checkpointing == checkpointing
    assert torch.equal(student(x, level.t, condition), output)
    assert not torch.allclose(blocks_by_hand(unet, x, level.t, condition)[0], expected[0])
    output.sum().backward()
    assert all(weight.grad.abs().sum() > 0 for weight in student.lora())


class FullStudent:
    """A student whose weights are all trained, beside a frozen copy of its teacher."""

    def __init__(self, unet: UNet2DConditionModel, teacher: UNet2DConditionModel) -> None:
        self.unet, self.teacher = unet, teacher
        self._current = UNetDenoiser(unet)

    def __call__(self, x, t, condition):
        return self._current(x, t, condition)

    def feature_taps(self):
        return UNetDenoiser(self.teacher).feature_taps()

    @contextmanager
    def as_teacher(self):
        self._current = UNetDenoiser(self.teacher)
        yield
        self._current = UNetDenoiser(self.unet)


def test_of_full_weights_the_copy_is_seen() -> None:
    student = FullStudent(plain_unet().requires_grad_(True), plain_unet())
    for weight in student.unet.parameters():
        weight.data += 0.1
    x, level, condition = normal(2, 4, 8, 8), level_of(19, 739), Condition(normal(1, 5, 12))
    maps = TeacherFeatures(student, condition)(x, level, generator=rng())
    torch.testing.assert_close(maps, blocks_by_hand(student.teacher, x, level.t, condition))
    assert not any(features.requires_grad for features in maps)


@pytest.fixture(scope="module")
def dino() -> Dinov2Model:
    config = Dinov2Config(hidden_size=12, num_hidden_layers=12, num_attention_heads=2, mlp_ratio=1)
    with seeded():
        model = Dinov2Model(config).requires_grad_(False).eval()
        model.layernorm.weight.data.normal_()
    return model


@pytest.fixture(scope="module")
def codec() -> Codec:
    vae = build_codec(latent_channels=8, hidden_channels=8, seed=0).requires_grad_(False)
    return Codec(vae, factor=8, notes=[])


def test_dino_features_are_patch_tokens_of_four_blocks(dino, codec) -> None:
    z = normal(2, 8, 32, 30)
    features = DinoFeatures(dino, codec)
    with torch.no_grad():
        maps = features(z, level_of(0, 9), generator=rng(3))
        generator = rng(3)
        pictures = augment(codec.decode(z), generator=generator)
        x = fit((pictures + 1) / 2, generator=generator)
        mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        x = dino.embeddings((x - mean[:, None, None]) / std[:, None, None])
        expected = []
        for index, layer in enumerate(dino.encoder.layer):
            x = layer(x)
            if index in (2, 5, 8, 11):
                expected.append(F.layer_norm(x, (12,), dino.layernorm.weight, dino.layernorm.bias, 1e-6))
    assert features.channels == (12,) * 4
    for ours, theirs in zip(maps, expected, strict=True):
        assert ours.shape == (2, 12, 256) and ours.dtype == torch.float32
        torch.testing.assert_close(ours, theirs[:, 1:].transpose(1, 2))


def test_dinos_gradient_reaches_latents_and_no_weights(dino, codec) -> None:
    z = normal(1, 8, 6, 6).requires_grad_()
    maps = DinoFeatures(dino, codec)(z, level_of(0), generator=rng())
    sum(m.square().mean() for m in maps).backward()
    assert z.grad.abs().sum() > 0
    assert all(p.grad is None for p in (*dino.parameters(), *codec.vae.parameters()))


@pytest.mark.parametrize("size", [(40, 300), (224, 224), (100, 60)])
def test_pictures_not_larger_than_dinos_are_seen_whole(size) -> None:
    pictures = normal(3, 3, *size)
    expected = F.adaptive_avg_pool2d(pictures, 224)
    torch.testing.assert_close(fit(pictures, generator=rng()), expected)


def test_half_of_the_larger_ones_are_cropped() -> None:
    """A picture whose values are its coordinates tells where a crop comes from."""
    y, x = torch.meshgrid(torch.arange(230.0), torch.arange(228.0), indexing="ij")
    pictures = torch.stack([y, x, y]).expand(80, -1, -1, -1)
    fitted = fit(pictures, generator=rng())
    assert fitted.shape == (80, 3, 224, 224)
    assert torch.equal(fitted, fit(pictures, generator=rng()))
    corners = []
    for picture in fitted:
        top, left = picture[0, 0, 0].item(), picture[1, 0, 0].item()
        if torch.equal(picture[:2], pictures[0, :2, int(top) :, int(left) :][:, :224, :224]):
            corners.append((top, left))
        else:
            torch.testing.assert_close(picture, F.adaptive_avg_pool2d(pictures[0], 224))
    assert 25 < len(corners) < 55
    assert {top for top, _ in corners} == set(range(7)) and {left for _, left in corners} == set(range(5))
