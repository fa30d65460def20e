"""`stdcli bank build` end to end: real pictures, a small random teacher, the real files."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from stdcli.bank.bank_files import BankFiles
from stdcli.bank.format import read_manifest
from stdcli.bank.reader import Bank
from stdcli.bank.verify import verify
from stdcli.cli.main import main
from stdcli.diffusion.noise import hash63, sample_id
from stdcli.models.bundle import Network
from stdcli.models.denoiser import Denoiser
from stdcli.rollout import shards as shards_module
from tests.integration.test_clips import write_clip
from tests.tiny_banks import contents, write_pictures
from tests.tiny_models import save_tiny_embedded, save_tiny_sd15, save_tiny_sdxl

NAMES = [f"{letter}.png" for letter in "abcdefg"]
SMALL = ["--resolution", "32", "--num-solver-steps", "5", "--shard-size", "2", "--dtype", "float32"]
"""Strength 0.6 of five steps: levels 3 to 0, three evaluations."""


pytestmark = pytest.mark.usefixtures("one_load")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A teacher, seven photos, two style pictures, and the bank that one run builds of them."""
    root = tmp_path_factory.mktemp("world")
    model = save_tiny_embedded(root / "model")
    photos, art = (
        write_pictures(root / "photos", NAMES),
        write_pictures(root / "art", ["x.png", "y.png"], seed=1),
    )
    common = ["--model", model, "--style-data", art, *SMALL]
    made = SimpleNamespace(root=root, model=model, photos=photos, art=art, common=common)
    build(common, "--data", photos, "-o", root / "bank")
    return SimpleNamespace(**vars(made), bank=root / "bank")


def build(*arguments: object, code: int = 0) -> None:
    flat = [part for item in arguments for part in (item if isinstance(item, list) else [item])]
    assert main(["bank", "build", *map(str, flat)]) == code


def verified(root: Path) -> Bank:
    assert main(["bank", "verify", str(root)]) == 0
    return Bank(root)


def rows(root: Path) -> dict[str, dict]:
    """A bank's samples by the name of their file."""
    return {row["source"]: row for row in BankFiles(root).read_lines("samples.jsonl")}


def by_source(root: Path) -> dict[str, int]:
    bank = Bank(root)
    return {bank.source(path)["source"]: path for path in range(len(bank))}


@pytest.fixture
def copy(world: SimpleNamespace, tmp_path: Path) -> Path:
    """The bank of the world, to be harmed."""
    return Path(shutil.copytree(world.bank, tmp_path / "copy"))


@pytest.fixture
def walked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Sources of every path that a teacher walks."""
    seen: list[str] = []
    original = shards_module.Teacher.rollout

    def walk(self: object, samples: list, *args: object, **options: object) -> object:
        seen.extend(sample.source for sample in samples)
        return original(self, samples, *args, **options)

    monkeypatch.setattr(shards_module.Teacher, "rollout", walk)
    return seen


def test_what_a_bank_holds(world: SimpleNamespace) -> None:
    bank = verified(world.bank)
    manifest = bank.manifest
    assert (manifest.state, manifest.num_paths, manifest.shard_size) == ("complete", 7, 2)
    assert bank.level_ids == (3, 2, 1, 0) and manifest.strength == 0.6 and manifest.resolution_px == 32
    for path, name in enumerate(NAMES):
        id_ = sample_id(shutil_sha(world.photos / name), 0)
        assert bank.source(path)["source"] == name
        assert bank.sample_ids([path]).item() == bank.source(path)["sample_id"] == id_
        assert bank.noise_seeds([path]).item() == hash63("noise", 0, id_)
        assert bank.guidance([path]).item() == 2.0  # the recipe's


def shutil_sha(path: Path) -> str:
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_start_is_the_transformed_sample_with_its_own_noise(
    world: SimpleNamespace, tmp_path: Path
) -> None:
    """states[:, 0] = alpha T(x0) + sigma noise: the sample's own noise, the recorded transform T."""
    for transform in ("none", "adain"):
        out = tmp_path / transform
        build(world.common, "--data", world.photos, "-o", out, "--set", f"start={transform}",
              "--set", "store_dtype=float32")  # fmt: skip
        bank = Bank(out)
        level = bank.manifest.path_levels()[0]
        for path in range(len(bank)):
            x0, state = bank.x0([path])[0], bank.path(path)[0]
            generator = torch.Generator().manual_seed(bank.noise_seeds([path]).item())
            moved = (state - level.sigma * torch.randn(x0.shape, generator=generator)) / level.alpha
            if transform == "none":
                assert torch.allclose(moved, x0, atol=1e-5)
            else:
                assert not torch.allclose(moved, x0, atol=0.05)
                assert bank.manifest.start == {"transform": "adain"}
        if transform == "adain":
            plain = Bank(tmp_path / "none")
            assert torch.equal(bank.x0(range(7)), plain.x0(range(7))), "x0 is the untransformed latent"


@pytest.mark.parametrize("count", [2, 4])
def test_workers_write_the_bytes_of_one(world: SimpleNamespace, tmp_path: Path, count: int) -> None:
    order = range(count) if count == 2 else (3, 1, 0, 2)
    for index in order:
        before = contents(tmp_path / "out") if (tmp_path / "out").exists() else {}
        build(world.common, "--data", world.photos, "-o", tmp_path / "out", "--worker", f"{index}/{count}")
        new = {name for name in set(contents(tmp_path / "out")) - set(before) if name.startswith("shards/")}
        own = [k for k in range(4) if k % count == index]
        assert new == {f"shards/shard-{k:05d}.{end}" for k in own for end in ("json", "safetensors")}
    assert contents(tmp_path / "out") == contents(world.bank)


def test_parts_in_two_folders_merge_to_the_bytes_of_one(world: SimpleNamespace, tmp_path: Path) -> None:
    for index in (0, 1):
        build(world.common, "--data", world.photos, "-o", tmp_path / str(index), "--worker", f"{index}/2")
    assert main(["bank", "merge", str(tmp_path / "0"), str(tmp_path / "1"), "-o", str(tmp_path / "m")]) == 0
    assert contents(tmp_path / "m") == contents(world.bank)


def test_the_rank_of_a_launcher_is_the_worker(
    world: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    build(world.common, "--data", world.photos, "-o", tmp_path / "b", "--json")
    told = json.loads(capsys.readouterr().out)
    assert (told["built"], told["missing_shards"], told["state"]) == (3, 2, "building")
    assert BankFiles(tmp_path / "b").names("conditions") == [
        f"conditions/cond-0000{k}.safetensors" for k in (1, 3)
    ]
    build(world.common, "--data", world.photos, "-o", tmp_path / "b", "--worker", "0/1")
    assert contents(tmp_path / "b") == contents(world.bank), "--worker goes before the environment"


def test_the_same_command_again_builds_nothing(
    world: SimpleNamespace, copy: Path, walked: list[str], capsys: pytest.CaptureFixture
) -> None:
    before = contents(copy)
    build(world.common, "--data", world.photos, "-o", copy)
    assert walked == [] and contents(copy) == before
    assert capsys.readouterr().out == f"{copy}: 0 paths built\n"


def test_more_files_build_only_what_is_new(
    world: SimpleNamespace, copy: Path, walked: list[str], tmp_path: Path
) -> None:
    """Whole shards keep their bytes; the last, half full, keeps its path. New names sort before old ones."""
    more = write_pictures(tmp_path / "more", ["0.png", "00.png", "zz.png"])
    before, old = contents(copy), Bank(copy)
    states, kept = old.path(6), old.source(6)
    build(world.common, "--data", world.photos, "--data", more, "-o", copy)
    assert walked == ["0.png", "00.png", "zz.png"]
    after, bank = contents(copy), verified(copy)
    for k in range(3):
        for name in (f"shards/shard-0000{k}.safetensors", f"shards/shard-0000{k}.json",
                     f"conditions/cond-0000{k}.safetensors"):  # fmt: skip
            assert after[name] == before[name]
    assert len(bank) == 10 and torch.equal(bank.path(6), states) and bank.source(6) == kept
    build(world.common, "--data", world.photos, "--data", more, "-o", copy)
    assert len(walked) == 3 and contents(copy) == after


def test_new_files_alone_are_enough(
    world: SimpleNamespace, copy: Path, walked: list[str], tmp_path: Path
) -> None:
    more = write_pictures(tmp_path / "more", ["0.png"])
    build(world.common, "--data", more, "-o", copy)
    assert walked == ["0.png"] and len(verified(copy)) == 8


def test_more_paths_repeat_the_files_with_other_noise(
    world: SimpleNamespace, copy: Path, walked: list[str]
) -> None:
    before = contents(copy)
    build(world.common, "--data", world.photos, "--num-paths", "10", "-o", copy)
    assert walked == ["a.png", "b.png", "c.png"]
    bank = verified(copy)
    assert [bank.source(path)["repeat"] for path in range(10)] == [0] * 7 + [1] * 3
    ids, seeds = bank.sample_ids(range(10)).tolist(), bank.noise_seeds(range(10)).tolist()
    assert len(set(ids)) == len(set(seeds)) == 10
    assert ids[7] == sample_id(shutil_sha(world.photos / "a.png"), 1)
    after = contents(copy)
    for name in (f"shards/shard-0000{k}.safetensors" for k in range(3)):
        assert after[name] == before[name]


def test_a_path_does_not_depend_on_other_files_or_batches(world: SimpleNamespace, tmp_path: Path) -> None:
    """Noise, guidance, crop and style are the sample's own; states differ by no more than rounding."""
    some = tmp_path / "photos"
    some.mkdir()
    for new, old in (("1.png", "f.png"), ("2.png", "b.png"), ("3.png", "d.png")):
        shutil.copy(world.photos / old, some / new)
    options = [*world.common, "--guidance-range", "1.5:6"]
    build(options, "--data", world.photos, "-o", tmp_path / "all", "--batch-size", "1")
    build(options, "--data", some, "-o", tmp_path / "some", "--batch-size", "3")
    every, few = Bank(tmp_path / "all"), Bank(tmp_path / "some")
    places = by_source(tmp_path / "all")
    for path, name in enumerate(("f.png", "b.png", "d.png")):
        other = places[name]
        one, two = few.source(path), every.source(other)
        assert one | {"source": name} == two
        for read in ("noise_seeds", "sample_ids", "guidance", "x0"):
            assert torch.equal(getattr(few, read)([path]), getattr(every, read)([other])), read
        assert torch.allclose(few.path(path).float(), every.path(other).float(), atol=0.02)
        distances = [(few.path(path).float() - every.path(k).float()).abs().mean() for k in range(7)]
        assert int(torch.stack(distances).argmin()) == other


def test_each_path_is_walked_with_the_guidance_it_stores(
    world: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redone by hand from what the bank stores alone: the conditional and the unconditional of each path."""
    pairs = []
    original = Denoiser.__call__

    def counted(self: object, x: torch.Tensor, t: object, condition: object) -> torch.Tensor:
        pairs.append((x.clone(), t, condition.tensors(), original(self, x, t, condition)))
        return pairs[-1][-1]

    build(world.common, "--data", world.photos, "-o", tmp_path / "b", "--guidance-range", "1.5:6",
          "--set", "store_dtype=float32")  # fmt: skip
    bank = verified(tmp_path / "b")
    values = bank.guidance(range(7))
    assert len(set(values.tolist())) == 7 and bool(((values >= 1.5) & (values < 6)).all())
    assert values.tolist() == pytest.approx([bank.source(k)["guidance"] for k in range(7)])
    monkeypatch.setattr(Denoiser, "__call__", counted)
    from stdcli.models.condition import Condition
    from stdcli.models.load import load_model
    from stdcli.models.spec import ModelSpec

    bundle = load_model(ModelSpec(str(world.model), dtype="float32", device="cpu"))
    first, second = bank.manifest.path_levels()[:2]
    stored = bank.conditions(range(7))
    sides = [
        Condition.from_tensors({n.removeprefix(s): v for n, v in stored.items() if n.startswith(s)})
        for s in ("cond.", "uncond.")
    ]
    start = bank.states(range(7), [3] * 7)
    with torch.no_grad():
        t = torch.full((7,), float(first.t))
        cond, uncond = (bundle.network.denoiser(start, t, side) for side in sides)
    assert not torch.allclose(cond, uncond, atol=1e-3)
    output = uncond + values.view(-1, 1, 1, 1) * (cond - uncond)
    if str(bundle.network.prediction) in ("v", "v_prediction", "Prediction.V"):
        x0 = first.alpha * start - first.sigma * output
        eps = first.sigma * start + first.alpha * output
    else:
        eps = output
        x0 = (start - first.sigma * eps) / first.alpha
    expected = second.alpha * x0 + second.sigma * eps
    assert torch.allclose(bank.states(range(7), [2] * 7), expected, atol=2e-3)


@pytest.mark.parametrize(
    ("name", "changes", "told"),
    [
        ("seed", ["--seed", "1"], "seed: 0 there, 1 here"),
        ("strength", ["--strength", "0.8"], "strength: 0.6 there, 0.8 here"),
        ("resolution", ["--resolution", "64"], "resolution_px: 32 there, 64 here"),
        ("guidance", ["--guidance-range", "2:5"], "guidance.max: 2.0 there, 5.0 here"),
        ("steps", ["--num-solver-steps", "10"], "num_solver_steps: 5 there, 10 here"),
        ("shard size", ["--shard-size", "3"], "plan.shard_size: 2 there, 3 here"),
        ("dtype", ["--set", "store_dtype=float32"], "store_dtype: float16 there, float32 here"),
        ("levels", ["--keep-levels", "2"], "levels: [{'id': 3"),
        ("start", ["--set", "start=adain"], "start.transform: none there, adain here"),
    ],
)
def test_a_bank_of_another_kind_is_refused(
    world: SimpleNamespace, name: str, changes: list[str], told: str, capsys: pytest.CaptureFixture
) -> None:
    before = contents(world.bank)
    build(world.common, "--data", world.photos, "-o", world.bank, changes, code=3)
    error = capsys.readouterr().err
    assert "this bank holds paths of another kind" in error and told in error and str(world.bank) in error
    assert "hint: choose another --out" in error
    assert contents(world.bank) == before


def test_another_teacher_is_refused(
    world: SimpleNamespace, copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    other = save_tiny_embedded(tmp_path / "other", seed=1)
    build(world.common, "--model", other, "--data", world.photos, "-o", world.bank, code=3)
    hashes = [
        shutil_sha(folder / "unet/diffusion_pytorch_model.safetensors") for folder in (world.model, other)
    ]
    assert "model.unet_sha256: {} there, {} here".format(*hashes) in capsys.readouterr().err
    moved = shutil.copytree(world.model, tmp_path / "moved")
    build(world.common, "--model", moved, "--data", world.photos, "-o", copy)
    assert read_manifest(BankFiles(copy)).model["name"] == str(moved)


def test_style_of_each_path(world: SimpleNamespace, tmp_path: Path) -> None:
    """Drawn for the path from the folder, or a crop of itself; equal styles are stored once per shard."""
    drawn = {row["style"] for row in rows(world.bank).values()}
    assert drawn == {"x.png", "y.png"}
    shas = {name: shutil_sha(world.art / name) for name in drawn}
    assert all(row["style_sha256"] == shas[row["style"]] for row in rows(world.bank).values())
    bank, styles = Bank(world.bank), {}
    for path in range(7):
        row = bank.conditions([path])
        same = styles.setdefault(bank.source(path)["style"], row)
        assert all(torch.equal(row[name], same[name]) for name in row)
    one, two = styles["x.png"], styles["y.png"]
    assert any(not torch.equal(one[name], two[name]) for name in one if name.startswith("cond."))
    build(world.common, "--style-data", "self", "--data", world.photos, "-o", tmp_path / "self")
    own = verified(tmp_path / "self")
    assert all(own.source(path)["style"] == "self" for path in range(7))
    found = own.conditions(range(7))
    assert any(len({tuple(v.flatten().tolist()) for v in value}) == 7 for value in found.values())


@pytest.mark.parametrize("kind", ["none", "sidecar", "txt", "jsonl"])
def test_prompts(tmp_path: Path, kind: str, capsys: pytest.CaptureFixture) -> None:
    model, small = save_tiny_sd15(tmp_path / "model"), [*SMALL, "--resolution", "64"]
    photos = write_pictures(tmp_path / "photos", NAMES[:4])
    for name in NAMES[:4]:
        (photos / name).with_suffix(".txt").write_text(f" a photo of {name[0]}\n")
    (tmp_path / "list.txt").write_text("one\n\n two \nthree\n")
    lines = [{"file_name": name, "text": f"line {name[0]}"} for name in NAMES[:4]]
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, lines)))
    given = kind if kind in ("none", "sidecar") else str(tmp_path / f"list.{kind}")
    out = tmp_path / "bank"
    build("--model", model, *small, "--data", photos, "--prompts", given, "--guidance-range", "3", "-o", out,
          "--strength", "0.6")  # fmt: skip
    told = {name: row["prompt"] for name, row in rows(out).items()}
    expected = {
        "none": dict.fromkeys(NAMES[:4]),
        "sidecar": {name: f"a photo of {name[0]}" for name in NAMES[:4]},
        "jsonl": {name: f"line {name[0]}" for name in NAMES[:4]},
    }
    if kind == "txt":
        assert set(told.values()) <= {"one", "two", "three"} and len(set(told.values())) > 1
    else:
        assert told == expected[kind]
    bank = verified(out)
    tokens = [v for name, v in bank.conditions(range(4)).items() if name.startswith("cond.") and v.ndim == 3]
    texts = [tuple(value.flatten().tolist()) for value in tokens[0]]
    prompts = [told[name] for name in NAMES[:4]]
    assert len(set(texts)) == len(set(prompts)) == len(set(zip(texts, prompts, strict=True)))
    (photos / "a.txt").unlink(missing_ok=True)
    (tmp_path / "list.jsonl").write_text(json.dumps(lines[1]))
    if kind in ("sidecar", "jsonl"):
        build("--model", model, *small, "--data", photos, "--prompts", given, "-o", tmp_path / "c", code=2)
        assert "a sample has no prompt" in capsys.readouterr().err


def test_pooled_embeddings_of_sdxl(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Zeros without text, or the prompt's, and one bank holds one kind only."""
    given = [
        "--model",
        save_tiny_sdxl(tmp_path / "model"),
        *SMALL,
        "--resolution",
        "64",
        "--guidance-range",
        "3",
    ]
    given += ["--data", write_pictures(tmp_path / "photos", NAMES[:2]), "--strength", "0.6", "-o"]
    build(*given, tmp_path / "zero")
    build(*given, tmp_path / "keep", "--set", "pooled=keep")
    for name in ("zero", "keep"):
        found = verified(tmp_path / name).conditions([0])
        prompt, uncond = found["cond.text_embeds"], found["uncond.text_embeds"]
        assert prompt.any() and torch.equal(uncond, prompt if name == "keep" else torch.zeros_like(prompt))
    capsys.readouterr()
    build(*given, tmp_path / "keep", code=3)
    assert "pooled" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "name", "told"),
    [("", "p.txt", "is empty"), ("x", "p.jsonl", "no prompts here"), ('{"a": 1}', "p.jsonl", "file_name")],
)
def test_prompts_that_are_none(
    world: SimpleNamespace, tmp_path: Path, text: str, name: str, told: str, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / name).write_text(text)
    for given in (tmp_path / name, tmp_path / f"not-{name}"):
        build(world.common, "--data", world.photos, "--prompts", given, "-o", tmp_path / "b", code=2)
        error = capsys.readouterr().err
        assert "no prompts here" in error and (told in error or "not-" in error)
    assert not (tmp_path / "b").exists()


def test_a_model_that_needs_styles_says_which_option(
    world: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    build("--model", world.model, *SMALL, "--data", world.photos, "-o", tmp_path / "b", code=4)
    assert "--style-data" in capsys.readouterr().err


def test_unreadable_files(world: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    photos = Path(shutil.copytree(world.photos, tmp_path / "photos"))
    (photos / "sub").mkdir()
    (photos / "sub/torn.png").write_bytes((photos / "a.png").read_bytes()[:200])
    (photos / "empty.jpg").write_bytes(b"")
    (photos / "notes.txt").write_text("no picture at all")
    (photos / ".hidden.png").write_bytes(b"")
    shutil.copy(photos / "b.png", photos / "sub/b again.png")
    build(world.common, "--data", photos, "-o", tmp_path / "b")
    told = capsys.readouterr().err
    assert "data: 2 unreadable and left out" in told and "empty.jpg" in told and "sub/torn.png" in told
    assert contents(tmp_path / "b") == contents(world.bank), "the other files are as if these were not there"
    build(world.common, "--data", photos, "--strict", "-o", tmp_path / "c", code=5)
    assert "2 files of data cannot be read" in capsys.readouterr().err and not (tmp_path / "c").exists()


def test_data_that_is_none(world: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn/a.png").write_bytes(b"x")
    (tmp_path / "notes.md").write_text("x")
    for given, code, told in (
        (["--data", tmp_path / "none"], 5, str(tmp_path / "none")),
        (["--data", tmp_path / "empty"], 5, "no picture or clip in this folder"),
        (["--data", tmp_path / "torn"], 5, "nothing readable in data"),
        (["--data", tmp_path / "notes.md"], 5, "notes.md"),
        ([], 2, "--data FOLDER"),
        (["--data", world.photos, "--style-data", tmp_path / "empty"], 5, "no picture or clip"),
        (["--data", world.photos, "--style-data", tmp_path / "torn"], 5, f"at: {tmp_path / 'torn'}\n"),
    ):
        build(world.common, given, "-o", tmp_path / "b", code=code)
        assert told in capsys.readouterr().err
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("worker", ["3/2", "2/2", "x", "1", "-1/2", "1/2/3", "0/0", ""])
def test_workers_that_cannot_be(
    world: SimpleNamespace, tmp_path: Path, worker: str, capsys: pytest.CaptureFixture
) -> None:
    build(world.common, "--data", world.photos, "-o", tmp_path / "b", f"--worker={worker}", code=2)
    assert "no such worker" in capsys.readouterr().err and not (tmp_path / "b").exists()


def test_frames_of_a_clip(world: SimpleNamespace, tmp_path: Path) -> None:
    """One frame per path, drawn for it; what is stored is the latent of that very frame."""
    data = tmp_path / "data"
    data.mkdir()
    clip = write_clip(data / "clip.mkv", 9, with_sound=False)
    build(
        world.common, "--data", data, "--num-paths", "5", "-o", tmp_path / "b", "--set", "store_dtype=float32"
    )
    bank = verified(tmp_path / "b")
    frames = [bank.source(path)["frame"] for path in range(5)]
    assert len(set(frames)) > 1 and all(0 <= frame < 9 for frame in frames)
    from stdcli.media.tensors import to_tensor
    from stdcli.media.video import iter_frames
    from stdcli.models.load import load_model
    from stdcli.models.spec import ModelSpec
    from stdcli.rollout.path_inputs import square

    codec, pictures = (
        load_model(ModelSpec(str(world.model), dtype="float32", device="cpu")).codec,
        list(iter_frames(clip)),
    )
    for path, frame in enumerate(frames):
        place = tuple(bank.source(path)["crop"])
        with torch.no_grad():
            distances = [
                (codec.encode(to_tensor(square(rgb, 32, position=place)))[0] - bank.x0([path])[0])
                .abs()
                .max()
                .item()
                for rgb in pictures
            ]
        assert int(np.argmin(distances)) == frame and distances[frame] < 1e-4


def test_some_levels(world: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    build(world.common, "--data", world.photos, "-o", tmp_path / "b", "--keep-levels", "1")
    bank, whole = verified(tmp_path / "b"), Bank(world.bank)
    assert bank.level_ids == (3, 1, 0)
    for path in range(7):
        assert torch.equal(bank.path(path), whole.path(path)[[0, 2, 3]])
    assert [level["id"] for level in bank.manifest.levels] == [3, 1, 0]
    build(world.common, "--data", world.photos, "-o", tmp_path / "c", "--keep-levels", "9,4,2", code=2)
    assert "4, 9 not in 0..3" in capsys.readouterr().err
    main(["bank", "prune", str(world.bank), "-o", str(tmp_path / "p"), "--keep-levels", "1"])
    shards = [name for name in contents(tmp_path / "b") if name.endswith(".safetensors")]
    assert all(contents(tmp_path / "p")[name] == contents(tmp_path / "b")[name] for name in shards)


def test_the_largest_size(world: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    def dry(*more: object) -> dict:
        build(world.common, "--data", world.photos, "-o", tmp_path / "d", "--dry-run", "--json", *more)
        return json.loads(capsys.readouterr().out)

    sizes = {count: dry("--num-paths", count)["total_bytes"] for count in (1, 3, 6)}
    for count, size in sizes.items():
        told = dry("--max-bytes", size)
        assert (told["paths"], told["total_bytes"]) == (count, size)
    assert dry("--max-bytes", sizes[3] - 1)["paths"] == 2
    build(world.common, "--data", world.photos, "-o", tmp_path / "d", "--max-bytes", sizes[1] - 1, code=2)
    assert f"one path takes {sizes[1]} bytes" in capsys.readouterr().err
    build(world.common, "--data", world.photos, "-o", tmp_path / "e", "--max-bytes", sizes[3])
    build(world.common, "--data", world.photos, "-o", tmp_path / "e", "--max-bytes", sizes[3])
    assert len(verified(tmp_path / "e")) == 3


def test_a_dry_run_writes_nothing(
    world: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    build(world.common, "--data", world.photos, "-o", tmp_path / "b", "--dry-run")
    streams = capsys.readouterr()
    assert streams.out == f"{tmp_path / 'b'}: nothing built (dry run)\n"
    for told in (
        "7 paths in 4 shards",
        "4 levels",
        "t 599 to 0",
        "6 forwards per path, 42 in all",
        "MB per path",
    ):
        assert told in streams.err
    assert not (tmp_path / "b").exists()
    before = contents(world.bank)
    build(world.common, "--data", world.photos, "-o", world.bank, "--num-paths", 20, "--dry-run")
    assert contents(world.bank) == before


@pytest.fixture
def forwards(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Paths of every evaluation of a teacher's network."""
    seen: list[int] = []
    original = Network.denoise

    def denoise(self: Network, x: torch.Tensor, *args: object, **options: object) -> object:
        seen.append(len(x))
        return original(self, x, *args, **options)

    monkeypatch.setattr(Network, "denoise", denoise)
    return seen


def test_nothing_is_computed_for_the_time_alone(
    world: SimpleNamespace,
    tmp_path: Path,
    forwards: list[int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    """Told from the first batch of all, kept, and told at once by the command that goes on."""
    original = shards_module.write_shard

    def stop_at_two(files: BankFiles, manifest: object, index: int, paths: object) -> None:
        if index == 2:
            raise KeyboardInterrupt
        original(files, manifest, index, paths)

    command = [world.common, "--data", world.photos, "-o", tmp_path / "b", "--batch-size", 8]
    with monkeypatch.context() as patch:
        patch.setattr(shards_module, "write_shard", stop_at_two)
        build(*command, code=130)
    assert forwards == [2] * 3 * 3, "three evaluations of each batch of two"
    assert re.search(r"^about \S+ (s|min) for 7 paths on this machine$", capsys.readouterr().err, re.M)
    forwards.clear()
    batches = BankFiles(tmp_path / "b").read_json("run.json")["pace"]
    assert [list(pace["batches"]) for pace in batches.values()] == [["2"]]
    build(*command, "--dry-run")
    assert forwards == [] and "for 7 paths on one such machine" in capsys.readouterr().err
    build(*command)
    assert forwards == [2, 2, 2, 1, 1, 1]
    lines = capsys.readouterr().err.splitlines()
    known = next(k for k, line in enumerate(lines) if line.startswith("about"))
    assert lines[known].endswith("for 3 paths on this machine")
    assert known < next(k for k, line in enumerate(lines) if line.startswith("paths:"))
    assert contents(tmp_path / "b") == contents(world.bank)


def test_a_dry_run_begins_one_batch_as_a_shard_has_it(
    world: SimpleNamespace, tmp_path: Path, forwards: list[int], capsys: pytest.CaptureFixture
) -> None:
    build(world.common, "--data", world.photos, "-o", tmp_path / "b", "--batch-size", 8, "--dry-run")
    assert forwards == [2, 2]
    assert re.search(r"^about \S+ (s|min) for 7 paths on one such machine$", capsys.readouterr().err, re.M)


def test_json_is_one_object(world: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    build(world.common, "--data", world.photos, "-o", tmp_path / "b", "--json")
    told = json.loads(capsys.readouterr().out)
    assert told.pop("seconds") > 0
    path_bytes = 5 * 8 * 4 * 4 * 2 + 4 + 8 + 8  # four states and x0 of 8 channels, 4x4 cells, float16
    path_bytes += 8 * len(Bank(tmp_path / "b").conditions([0]))
    on_disk = sum(len(data) for data in contents(tmp_path / "b").values())
    assert told.pop("total_bytes") == pytest.approx(on_disk, rel=0.5)  # headers weigh much in so small a bank
    assert told == {
        "path": str(tmp_path / "b"),
        "dry_run": False,
        "state": "complete",
        "paths": 7,
        "built": 7,
        "missing_shards": 0,
        "bytes_per_path": path_bytes,
        "forwards_per_path": 6,
    }
    assert main(["bank", "info", str(tmp_path / "b"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["shards"] == "4 of 4"
    assert main(["bank", "verify", str(tmp_path / "b"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"path": str(tmp_path / "b"), "paths": 7, "shards": 4}


def test_unguided_paths_take_one_forward(
    world: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    build(
        world.common,
        "--data",
        world.photos,
        "-o",
        tmp_path / "b",
        "--guidance-range",
        "1",
        "--json",
        "--resolution",
        "64",
    )
    assert json.loads(capsys.readouterr().out)["forwards_per_path"] == 3
    assert Bank(tmp_path / "b").guidance(range(7)).tolist() == [1.0] * 7


def test_ctrl_c_keeps_finished_shards(
    world: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    original = shards_module.write_shard

    def stop_at_two(files: BankFiles, manifest: object, index: int, paths: object) -> None:
        if index == 2:
            raise KeyboardInterrupt
        original(files, manifest, index, paths)

    with monkeypatch.context() as patch:
        patch.setattr(shards_module, "write_shard", stop_at_two)
        build(world.common, "--data", world.photos, "-o", tmp_path / "b", code=130)
    error = capsys.readouterr().err
    assert "4 paths built" in error and "the same command goes on" in error
    assert BankFiles(tmp_path / "b").names("shards")[::2] == [
        "shards/shard-00000.json",
        "shards/shard-00001.json",
    ]
    assert read_manifest(BankFiles(tmp_path / "b")).state == "building"
    build(world.common, "--data", world.photos, "-o", tmp_path / "b", "--json")
    assert json.loads(capsys.readouterr().out)["built"] == 3
    assert contents(tmp_path / "b") == contents(world.bank)


def test_nan_in_the_teacher(world: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    model = Path(shutil.copytree(world.model, tmp_path / "model"))
    path = model / "unet/diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    tensors["conv_out.bias"][0] = float("nan")
    save_file(tensors, path)
    build(world.common, "--model", model, "--data", world.photos, "-o", tmp_path / "b", code=9)
    error = capsys.readouterr().err
    assert "a state of a path is NaN or infinite" in error
    assert "a.png" in error and "level 2" in error and "float32" in error
    files = BankFiles(tmp_path / "b")
    assert files.names("shards") == [] == files.names("conditions") and files.leftovers() == []


def test_the_one_bad_path_of_a_batch_is_named(
    world: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """A teacher that breaks on one sample; a state too large for half precision."""
    bad = rows(world.bank)["d.png"]["sample_id"]
    original = shards_module.Teacher.start_paths

    def begin(self: object, samples: list, pictures: object) -> object:
        begun = original(self, samples, pictures)
        for k, sample in enumerate(samples):
            if sample.sample_id == bad:
                begun.state[k] *= value
        return begun

    monkeypatch.setattr(shards_module.Teacher, "start_paths", begin)
    for value, told in (
        (float("inf"), "a state of a path is NaN or infinite"),
        (1e6, "does not fit into float16"),
    ):
        out = tmp_path / str(value)
        build(world.common, "--data", world.photos, "-o", out, code=9)
        error = capsys.readouterr().err
        assert told in error and "at: d.png, level 3" in error
        assert BankFiles(out).names("shards") == ["shards/shard-00000.json", "shards/shard-00000.safetensors"]


def test_a_disk_too_small(
    world: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    build(world.common, "--data", world.photos, "-o", tmp_path / "b", code=7)
    assert "the disk is too small for the bank" in capsys.readouterr().err
    assert contents(tmp_path / "b") == {}
    build(world.common, "--data", world.photos, "-o", world.bank)  # a finished one needs no room


@pytest.mark.slow
@pytest.mark.parametrize("room_kb", [16, 40])
def test_a_disk_that_is_full(
    world: SimpleNamespace,
    tmp_path: Path,
    room_kb: int,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture,
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={room_kb}k", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(["mount", *options], check=False).returncode:
        pytest.skip("mounting is not permitted")
    try:
        with monkeypatch.context() as patch:
            patch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10**12))
            build(world.common, "--data", world.photos, "-o", disk / "b", code=7)
        assert "No space left on device" in capfd.readouterr().err
        assert BankFiles(disk / "b").leftovers() == []
        subprocess.run(["mount", "-o", "remount,size=4m", str(disk)], check=True)
        build(world.common, "--data", world.photos, "-o", disk / "b")
        assert contents(disk / "b") == contents(world.bank)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="no folder where even root may not write")
def test_a_folder_that_takes_no_file(world: SimpleNamespace, capsys: pytest.CaptureFixture) -> None:
    build(world.common, "--data", world.photos, "-o", "/proc/bank", code=3)
    assert "cannot be written" in capsys.readouterr().err


def test_two_builders(
    world: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """While the first is writing its first shard the second is refused, also with another split."""
    original, codes = shards_module.write_shard, []

    def write(files: BankFiles, manifest: object, index: int, paths: object) -> None:
        if index == 0:
            for more in ([], ["--worker", "0/2"], ["--worker", "1/3"]):
                arguments = [*world.common, "--data", world.photos, "-o", tmp_path / "b", *more]
                codes.append(main(["bank", "build", *map(str, arguments)]))
            codes.append(main(["bank", "prune", str(tmp_path / "b")]))
        original(files, manifest, index, paths)

    monkeypatch.setattr(shards_module, "write_shard", write)
    build(world.common, "--data", world.photos, "-o", tmp_path / "b")
    assert codes == [3, 3, 3, 3]
    assert capsys.readouterr().err.count("error: somebody is building this bank") == 4
    assert contents(tmp_path / "b") == contents(world.bank)


def test_workers_with_other_data(
    world: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """The second plans while the first has read an empty folder: it may not write over that plan."""
    other = write_pictures(tmp_path / "other", ["q.png", "r.png"])
    out = tmp_path / "b"
    original = shards_module.check_space

    def check(*arguments: object) -> None:
        monkeypatch.setattr(shards_module, "check_space", original)
        build(world.common, "--data", other, "-o", out, "--worker", "1/2")

    monkeypatch.setattr(shards_module, "check_space", check)
    build(world.common, "--data", world.photos, "-o", out, "--worker", "0/2", code=3)
    assert "another worker has planned other paths" in capsys.readouterr().err
    assert list(rows(out)) == ["q.png", "r.png"] and read_manifest(BankFiles(out)).num_paths == 2


def test_files_that_are_gone(
    world: SimpleNamespace, copy: Path, tmp_path: Path, capsys, walked: list[str]
) -> None:
    """Needed only for what is still to be built."""
    photos = Path(shutil.copytree(world.photos, tmp_path / "photos"))
    (photos / "a.png").unlink()
    build(world.common, "--data", photos, "-o", copy)
    assert walked == []
    (copy / "shards/shard-00000.safetensors").unlink()
    before = contents(copy)
    build(world.common, "--data", photos, "-o", copy, code=2)
    assert "files of this bank are gone" in (error := capsys.readouterr().err) and "a.png" in error
    assert contents(copy) == before


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 4
    path.write_bytes(data)


def swap(one: Path, two: Path) -> None:
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)


SHARD = "shards/shard-0000{}.safetensors"
HARMS: dict[str, tuple[Callable[[Path], object], list[int], str]] = {
    "truncated": (lambda r: (r / SHARD.format(1)).write_bytes(b"abc"), [1], SHARD.format(1)),
    "flipped": (lambda r: flip(r / SHARD.format(2)), [2], SHARD.format(2)),
    "missing": (lambda r: (r / SHARD.format(0)).unlink(), [0], SHARD.format(0)),
    "swapped": (lambda r: swap(r / SHARD.format(0), r / SHARD.format(2)), [0, 2], SHARD.format(0)),
    "conditions": (lambda r: flip(r / "conditions/cond-00003.safetensors"), [3], SHARD.format(3)),
    "sidecar": (lambda r: (r / "shards/shard-00001.json").write_text("{"), [1], SHARD.format(1)),
    "no manifest": (lambda r: (r / "manifest.json").unlink(), [], "manifest.json"),
    "torn manifest": (lambda r: (r / "manifest.json").write_text('{"format"'), [], "manifest.json"),
    "no samples": (lambda r: (r / "samples.jsonl").unlink(), [], "samples.jsonl"),
    "torn samples": (lambda r: (r / "samples.jsonl").write_text('{"sample_id": 3'), [], "samples.jsonl"),
    "extra": (lambda r: shutil.copy(r / SHARD.format(0), r / SHARD.format(9)), [], SHARD.format(9)),
}


@pytest.mark.parametrize("name", HARMS)
def test_what_verify_advises_repairs_the_bank(
    world: SimpleNamespace,
    copy: Path,
    tmp_path: Path,
    walked: list[str],
    name: str,
    capsys: pytest.CaptureFixture,
) -> None:
    harm, rebuilt, told = HARMS[name]
    harm(copy)
    assert main(["bank", "verify", str(copy)]) == 3
    error = capsys.readouterr().err
    assert told in error
    if name == "no manifest":  # nothing says any more that this is a bank
        command = f"stdcli bank build --config {copy}/run.json -o {copy}"
    else:
        command = error.split("hint: ")[1].strip()
    for part in command.split(" && "):
        if part.startswith("rm "):
            subprocess.run(part.split(), check=True)
        else:
            assert main(part.split()[1:]) == 0
    assert walked == [NAMES[path] for k in rebuilt for path in (2 * k, 2 * k + 1) if path < 7]
    assert contents(copy) == contents(world.bank)
    assert verify(BankFiles(copy), read_manifest(BankFiles(copy))) == []


def test_a_lost_list_of_a_bank_that_grew(
    world: SimpleNamespace, copy: Path, walked: list[str], tmp_path: Path
) -> None:
    """Its order is that of the shards, not that of the names."""
    more = write_pictures(tmp_path / "more", ["0.png"])
    build(world.common, "--data", world.photos, "--data", more, "-o", copy)
    before = contents(copy)
    (copy / "samples.jsonl").unlink()
    build(world.common, "--data", world.photos, "--data", more, "-o", copy)
    assert contents(copy) == before and walked == ["0.png"]


def test_merged_and_pruned_banks_through_the_command_line(
    world: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert (
        main(["bank", "prune", str(world.bank), "--num-paths", "3", "-o", str(tmp_path / "p"), "--json"]) == 0
    )
    assert json.loads(capsys.readouterr().out) == {"path": str(tmp_path / "p"), "paths": 3}
    assert torch.equal(verified(tmp_path / "p").path(2), Bank(world.bank).path(2))
    flip(tmp_path / "p" / SHARD.format(1))
    capsys.readouterr()
    assert main(["bank", "verify", str(tmp_path / "p")]) == 3
    assert "hint: repeat the command that wrote this bank" in capsys.readouterr().err
    for arguments, code, told in (
        (["prune", world.bank, "--num-paths", "0", "-o", tmp_path / "q"], 2, "--num-paths"),
        (["prune", world.bank, "--num-paths", "-1", "-o", tmp_path / "q"], 2, "--num-paths"),
        (["prune", world.bank, "--num-paths", "3"], 2, "--out"),
        (["prune", world.bank, "--keep-levels", "a", "-o", tmp_path / "q"], 2, "not level ids"),
        (["prune", world.bank, "--keep-levels", "7", "-o", tmp_path / "q"], 3, "no such level in this bank"),
        (["prune", tmp_path / "none"], 3, "no bank here"),
        (["verify", tmp_path / "none"], 3, "no bank here"),
        (["info", tmp_path / "none"], 3, "no bank here"),
        (["merge", world.bank, "-o", world.bank], 3, "there is a bank already"),
        (["info", world.bank, "--grid", tmp_path / "g.png", "--paths", "0"], 2, "--paths"),
    ):
        assert main(["bank", *map(str, arguments)]) == code, arguments
        assert told in capsys.readouterr().err
    assert not (tmp_path / "q").exists()


def test_a_picture_of_a_bank(world: SimpleNamespace, tmp_path: Path) -> None:
    """Rows are paths; the first column is the sample, then its states; the gaps are white."""
    assert main(["bank", "info", str(world.bank), "--grid", str(tmp_path / "g.png"), "--paths", "3"]) == 0
    with Image.open(tmp_path / "g.png") as image:
        sheet = np.asarray(image)
    assert sheet.shape == (3 * 32 + 2 * 4, 5 * 32 + 4 * 4, 3)
    assert (sheet[32:36] == 255).all() and (sheet[:, 32:36] == 255).all()
    from stdcli.media.tensors import to_uint8
    from stdcli.models.load import load_model
    from stdcli.models.spec import ModelSpec

    bank, codec = (
        Bank(world.bank),
        load_model(ModelSpec(str(world.model), dtype="float32", device="cpu")).codec,
    )
    with torch.no_grad():
        last = to_uint8(codec.decode(bank.path(6)[3:4].float()))[0]
        first = to_uint8(codec.decode(bank.x0([0]).float()))[0]
    assert np.array_equal(sheet[-32:, -32:], last) and np.array_equal(sheet[:32, :32], first)
