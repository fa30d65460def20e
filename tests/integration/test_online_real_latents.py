"""What an adversary takes for real while the paths are walked: the style pictures of those very samples."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from stdcli.config.bank import BankConfig
from stdcli.config.distill import AdversarySection
from stdcli.console import Console
from stdcli.diffusion.levels import level_table
from stdcli.distill.adversary_setup import make_real_latents
from stdcli.distill.batch import Batch
from stdcli.distill.batch_sources import OnlineSource, Ranks
from stdcli.distill.methods.std import Std, StdSection, make_target_sampler
from stdcli.distill.teacher_paths import TeacherPaths
from stdcli.errors import ConfigError
from stdcli.media.image import read_image
from stdcli.media.tensors import to_tensor
from stdcli.rollout.teacher_rollout import TeacherRollout, make_online_bank, open_rollout
from tests.tiny_banks import write_pictures
from tests.tiny_runs import SIDE_PX, Bench

CPU = torch.device("cpu")
STYLES = ("x.png", "y.png", "z.png")


@pytest.fixture(scope="module")
def art(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Style pictures, one of them in a folder below."""
    folder = write_pictures(tmp_path_factory.mktemp("styles"), STYLES, seed=2)
    (folder / "more").mkdir()
    (folder / "z.png").rename(folder / "more" / "z.png")
    return folder


@pytest.fixture(scope="module")
def rollout_of(bench: Bench, art: Path) -> Callable[[str | None], TeacherRollout]:
    """A walker over the bench's photos, by its style pictures."""
    made: dict[str | None, TeacherRollout] = {}

    def make(style_data: str | None) -> TeacherRollout:
        family = "embedded" if style_data else "sdxl"  # the one needs styles
        settings = {"resolution": SIDE_PX, "num_solver_steps": 10, "strength": 0.6, "guidance_range": 3}
        settings |= {"model": str(bench.model(family)), "dtype": "float32", "device": "cpu", "seed": 5}
        config = BankConfig(data=str(bench.photos), style_data=style_data, **settings)
        if style_data not in made:
            made[style_data] = open_rollout(config, console=Console("quiet"))
        return made[style_data]

    return lambda which: make(str(art) if which == "art" else which)


def source_of(
    rollout: TeacherRollout, real: str = "auto", *, rank: int = 0, num_ranks: int = 1
) -> OnlineSource:
    paths, schedule = (
        TeacherPaths(rollout.manifest, rollout.conditions, rollout=rollout),
        rollout.bundle.network.schedule,
    )
    real_latents, _ = make_real_latents(
        AdversarySection(real=real),
        paths=paths,
        style_data=None,
        get_codec=lambda: rollout.bundle.codec,
        device=CPU,
    )
    table = level_table(schedule, 10)
    method = Std(table, make_target_sampler(StdSection(), paths.stored_levels(table), (2,)), "consistency")
    slots = {"num_slots": 4, "rate": 0.5}  # half of all items are fresh paths beside the slots
    bank = make_online_bank(
        rollout.teacher, rollout.pictures, rollout.sample_of, rank=rank, num_ranks=num_ranks, **slots
    )
    return OnlineSource(
        bank, method, Ranks(4, rank, num_ranks), seed=3, device=CPU, real_latents=real_latents
    )


def styles_of(rollout: TeacherRollout, art: Path) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Every style picture's embedding and latent."""
    found = {}
    for file in sorted(art.rglob("*.png")):
        rgb = read_image(file).rgb
        told, _ = rollout.bundle.condition(styles=[Image.fromarray(rgb)], size_px=(SIDE_PX, SIDE_PX))
        square = Image.fromarray(rgb).resize((SIDE_PX, SIDE_PX), Image.Resampling.LANCZOS)
        with torch.no_grad():
            latent = rollout.bundle.codec.encode(to_tensor(np.asarray(square)))[0]
        found[file.name] = told.tensors()["image_embeds"][0], latent
    return found


def names_of(batch: Batch, styles: dict[str, tuple[torch.Tensor, torch.Tensor]]) -> list[str]:
    """By each path's own condition: the style picture that has this very embedding."""
    names = []
    for own in batch.cond.tensors()["image_embeds"]:
        (name,) = [name for name, (embed, _) in styles.items() if torch.equal(embed, own)]
        names.append(name)
    return names


@pytest.mark.parametrize(("real", "rank", "num_ranks"), [("auto", 0, 1), ("style", 1, 2)])
def test_the_critic_sees_the_style_pictures_of_those_very_samples(
    rollout_of, art, real, rank, num_ranks
) -> None:
    rollout, seen = rollout_of("art"), set()
    styles = styles_of(rollout, art)
    source = source_of(rollout, real, rank=rank, num_ranks=num_ranks)
    for number in range(2):
        batch = source.batch(number)
        names = names_of(batch, styles)
        latents = torch.stack([styles[name][1] for name in names])
        torch.testing.assert_close(batch.real_latents, latents, rtol=0, atol=1e-5)
        assert batch.real_latents.dtype == batch.states.dtype
        seen |= set(names)
    assert seen == set(STYLES)


@pytest.mark.parametrize(("styles", "real"), [(None, "auto"), ("self", "auto"), ("art", "x0")])
def test_without_style_pictures_it_sees_the_samples(rollout_of, styles, real) -> None:
    rollout = rollout_of(styles)
    batch = source_of(rollout, real).batch(0)
    for number, latent in zip(batch.sample_ids.tolist(), batch.real_latents, strict=True):
        pixels = to_tensor(rollout.pictures.read(rollout.sample_of(number)))
        with torch.no_grad():
            torch.testing.assert_close(latent, rollout.bundle.codec.encode(pixels)[0], rtol=0, atol=1e-5)


def test_a_run_taken_up_again_sees_the_same_bits(rollout_of) -> None:
    source = source_of(rollout_of("art"))
    source.batch(0)
    kept = source.state()
    other = source_of(rollout_of("art"))
    other.restore(kept)
    for number in (1, 2):
        straight, resumed = source.batch(number), other.batch(number)
        assert torch.equal(straight.real_latents, resumed.real_latents) and torch.equal(
            straight.states, resumed.states
        )


@pytest.mark.parametrize("styles", [None, "self"])
def test_style_without_style_pictures_is_refused(rollout_of, styles) -> None:
    with pytest.raises(ConfigError, match=r"paths\.style_data: gives this run none; --style-data FOLDER"):
        source_of(rollout_of(styles), "style")
