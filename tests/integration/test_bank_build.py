"""`stdcli bank build` end to end: real pictures, a small random teacher, the real files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from stdcli.bank.bank_files import BankFiles
from stdcli.bank.format import read_manifest
from stdcli.bank.reader import Bank
from stdcli.cli.main import main
from stdcli.diffusion.noise import hash63, sample_id
from stdcli.models.denoiser import Denoiser
from tests.bank_builds import NAMES, SMALL, build, by_source, rows, shutil_sha, verified
from tests.tiny_banks import contents, write_pictures
from tests.tiny_models import save_tiny_embedded, save_tiny_sd15, save_tiny_sdxl

pytestmark = pytest.mark.usefixtures("one_load")


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
