"""What a bank costs and saves. Run it by name: `pytest tests/benchmarks/test_bank.py -s`.

Ratios are of things measured side by side in this run. The student's step is a forward and a backward of the
embedded UNet with an AdamW step, which is what any distillation of it does at least.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from stdcli.bank.order import PairOrder
from stdcli.bank.reader import Bank
from stdcli.cli.main import main
from stdcli.data.files import find_files
from stdcli.diffusion.levels import make_teacher_path, pick_levels
from stdcli.diffusion.noise import make_noise
from stdcli.diffusion.solvers import jump, start_state
from stdcli.models.condition import Condition
from stdcli.models.load import load_model
from stdcli.models.spec import ModelSpec
from stdcli.rollout.path_inputs import Pictures, make_sample
from stdcli.rollout.path_teacher import Teacher
from stdcli.rollout.prompts import Prompts
from stdcli.rollout.teacher_rollout import make_online_bank
from stdcli.runtime.seeding import fold

SIDE_PX, BATCH, STRENGTH = 128, 8, 0.4

pytestmark = pytest.mark.timeout(1800)


def say(name: str, value: str) -> None:
    sys.stdout.write(f"\n{name}: {value}")


def alternate(rounds: int, **works: Callable[[], object]) -> dict[str, float]:
    """Median seconds of each work, done in turns."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            began_s = time.perf_counter()
            work()
            seconds[name].append(time.perf_counter() - began_s)
    return {name: statistics.median(values) for name, values in seconds.items()}


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(3)
    for index in range(16):
        small = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8))
        small.resize((256, 192), Image.Resampling.BICUBIC).save(folder / f"{index}.png")
    return folder


@pytest.fixture(scope="module")
def bundle():
    return load_model(ModelSpec("embedded", dtype="float32"))


@pytest.fixture(scope="module")
def teacher(bundle) -> Teacher:
    plan = make_teacher_path(bundle.network.schedule, num_solver_steps=50, strength=STRENGTH)
    kept = frozenset(level.id for level in plan.levels)
    return Teacher(bundle, plan, kept, "colours", torch.float16, seed=0, side_px=SIDE_PX, guided=False)


@pytest.fixture(scope="module")
def work(photos, teacher):
    files = find_files([str(photos)]).files
    make = partial(make_sample, guidance_range=(1.0, 1.0), prompts=Prompts(), styles=files, seed=0)
    return files, Pictures(files, files, side_px=SIDE_PX), make


def test_building_costs_little_beside_the_forwards(work, teacher, bundle):
    files, pictures, make = work
    samples = [make(file, 0) for file in files[:BATCH]]
    cond = bundle.condition(styles=[Image.fromarray(files[0].read())], size_px=(SIDE_PX, SIDE_PX))[0]
    x = teacher.start_paths(samples, pictures.load(samples)).state

    @torch.no_grad()
    def bare() -> None:
        for level in teacher.path.levels[:-1]:
            bundle.network.denoiser(x, level.t, cond)

    teacher.rollout(samples, pictures, batch_size=BATCH)
    seconds = alternate(7, bare=bare, built=lambda: teacher.rollout(samples, pictures, batch_size=BATCH))
    share = seconds["bare"] / seconds["built"]
    say("building", f"{BATCH / seconds['built']:.2f} paths a second, {share:.3f} of the bare forwards' rate")
    assert share >= 0.95


def student_step(bundle, optimizer) -> Callable[[torch.Tensor, object, Condition, torch.Tensor], None]:
    def step(x: torch.Tensor, t: object, cond: Condition, target: torch.Tensor) -> None:
        optimizer.zero_grad()
        (bundle.network.denoiser(x, t, cond) - target).square().mean().backward()
        optimizer.step()

    return step


@pytest.fixture(scope="module")
def student():
    bundle = load_model(ModelSpec("embedded", dtype="float32"))
    weights = list(bundle.network.denoiser.network.requires_grad_(True).parameters())
    return bundle, torch.optim.AdamW(weights, lr=1e-7)


def test_reading_is_far_faster_than_training(tmp_path, photos, student):
    command = ["bank", "build", "--data", str(photos), "--style-data", str(photos), "--quiet"]
    command += ["--resolution", str(SIDE_PX), "--shard-size", "4", "-o", str(tmp_path / "bank")]
    assert main(command) == 0
    estimate = json.loads(subprocess_build(command, "--dry-run"))
    size = sum(file.stat().st_size for file in (tmp_path / "bank").rglob("*") if file.is_file())
    say("disk", f"{size} bytes, {size / estimate['total_bytes']:.4f} of the estimate")
    assert abs(size / estimate["total_bytes"] - 1) < 0.02
    bank = Bank(tmp_path / "bank")
    order = PairOrder(len(bank), bank.level_ids[:-1], seed=0)
    steps = iter(range(10**6))

    def read() -> None:
        for _ in range(20):
            pairs = order.batch(next(steps), batch_size=BATCH)
            bank.states(pairs.paths, pairs.level_ids)
            bank.states(pairs.paths, pairs.level_ids - 1)
            bank.conditions(pairs.paths)

    bundle, optimizer = student
    train = student_step(bundle, optimizer)
    x = bank.states(range(BATCH), [bank.level_ids[0]] * BATCH).float()
    rows = bank.conditions(range(BATCH))
    named = {name.removeprefix("cond."): rows[name].float() for name in rows if name.startswith("cond.")}
    cond = Condition.from_tensors(named)
    seconds = alternate(5, read=read, trained=lambda: train(x, 399, cond, x))
    factor = 20 * seconds["trained"] / seconds["read"]
    say(
        "reading", f"{20 * BATCH / seconds['read']:.0f} items a second, {factor:.0f} x a training step's need"
    )
    assert factor >= 20


def subprocess_build(command: list[str], *more: str) -> str:
    arguments = [part for part in command if part != "--quiet"]
    done = subprocess.run(
        [sys.executable, "-m", "stdcli", *arguments, "--json", *more],
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.splitlines()[-1]


def test_the_online_bank_costs_no_more_than_consistency_distillation(work, teacher, student):
    """Per training step: ordinary (noised data, one teacher step), with the bank, and without any."""
    files, pictures, make = work
    trained, optimizer = student
    train = student_step(trained, optimizer)
    bank = make_online_bank(
        teacher,
        pictures,
        lambda number: make(files[number % len(files)], number // len(files)),
        num_slots=8 * BATCH,
    )
    samples = [make(file, 0) for file in files[:BATCH]]
    begun = teacher.start_paths(samples, pictures.load(samples))
    pairs = [condition for condition, _ in begun.conditions]
    cond = Condition.from_tensors(
        {name: torch.cat([one.tensors()[name] for one in pairs]) for name in pairs[0].tensors()}
    )
    table, counter = teacher.path.levels[::-1], iter(range(10**6))
    noise = torch.stack([make_noise(begun.x0.shape[1:], 0, k) for k in range(BATCH)])
    times = torch.full((BATCH,), 399)

    @torch.no_grad()
    def down(x: torch.Tensor, first: int, count: int) -> torch.Tensor:
        for id_ in range(first, first - count, -1):
            here, below = (pick_levels(table, torch.full((BATCH,), i)) for i in (id_, id_ - 1))
            denoised = teacher.denoise(x, here, cond, cond, begun.guidance)
            x = jump(x, denoised, from_level=here, to_level=below)
        return x

    def draw_level() -> int:
        return int(torch.randint(1, len(table), (1,), generator=fold(0, "level", next(counter))))

    def ordinary() -> None:
        id_ = draw_level()
        x = start_state(begun.x0, noise, table[id_])
        train(x, times, cond, down(x, id_, 1))

    def banked() -> None:
        batch = bank.batch(next(counter) + bank.next_step, BATCH)
        train(batch.states, times, cond, batch.next_states)

    def without() -> None:
        start, id_ = len(table) - 1, draw_level()
        x = down(begun.state, start, start - id_)
        train(x, times, cond, down(x, id_, 1))

    for warm_up in (ordinary, banked, without):
        warm_up()
    few = alternate(24, ordinary=ordinary, banked=banked)
    many = alternate(24, without=without)
    say("online bank", f"{few['ordinary'] / few['banked']:.3f} of ordinary distillation's steps per second")
    say("without a bank", f"{many['without'] / few['banked']:.2f} x the time of a step with the bank")
    assert few["ordinary"] / few["banked"] >= 0.95


PEAK = """
import sys
from pathlib import Path
import torch
from stdcli.bank.bank_files import BankFiles
from stdcli.bank.format import Manifest, write_manifest, finished
from stdcli.bank.order import PairOrder
from stdcli.bank.reader import Bank
from stdcli.bank.shard import Paths, write_shard
root, count, what = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
shape, levels, size = (4, 32, 32), 10, 10
if what == "build":
    manifest = Manifest(
        model={}, schedule="", prediction="epsilon", strength=0.2, num_solver_steps=50, solver="ddim",
        levels=tuple({"id": k, "t": 20 * k, "alpha": 0.5, "sigma": 0.5} for k in range(levels - 1, -1, -1)),
        guidance={"min": 1, "max": 1, "form": "imagen"}, latent_shape=shape, resolution_px=256,
        compute_dtype="float32", store_dtype="float16", start={"transform": "none"}, seed=0,
        num_paths=count, shard_size=size,
    )
    files = BankFiles(root)
    for index in range(manifest.num_shards):
        ids = torch.tensor(list(manifest.paths_of(index)))
        generator = torch.Generator().manual_seed(index)
        draw = lambda *sides: torch.randn(sides, generator=generator).half()
        write_shard(files, manifest, index, Paths(
            states=draw(len(ids), levels, *shape), x0=draw(len(ids), *shape),
            guidance=torch.ones(len(ids)), noise_seed=ids, sample_id=ids.clone(),
            conditions=[{"cond.encoder_hidden_states": draw(77, 64)} for _ in ids],
            sources=[{"sample_id": int(i)} for i in ids],
        ))
    write_manifest(files, finished(manifest))
else:
    bank = Bank(root)
    order = PairOrder(100, bank.level_ids, seed=0)  # the same small order for both sizes
    spread = len(bank) // 100
    for step in range(200):
        pairs = order.batch(step, batch_size=16)
        bank.states(pairs.paths * spread, pairs.level_ids)
        bank.conditions(pairs.paths * spread)
lines = Path("/proc/self/status").read_text().splitlines()  # ru_maxrss would count the parent's memory
print(next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024)
"""


def test_memory_does_not_grow_with_the_bank(tmp_path):
    for what in ("build", "read"):
        peaks = {}
        for count in (100, 10_000):
            command = [sys.executable, "-c", PEAK, str(tmp_path / str(count)), str(count), what]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            peaks[count] = json.loads(done.stdout)
        listed = ", ".join(f"{count} paths {peak:.0f} MiB" for count, peak in peaks.items())
        say(f"peak memory, {what}", listed)
        assert peaks[10_000] < 1.05 * peaks[100]
