"""JSON that anybody may have written, at every place where it is read: used, or an ordinary error."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stdcli.bank.bank_files import BankFiles
from stdcli.bank.format import read_manifest, read_samples
from stdcli.bank.info import bank_metadata
from stdcli.bank.reader import Bank
from stdcli.bank.verify import verify
from stdcli.config.presets import read_task_file
from stdcli.errors import StdcliError
from stdcli.evaluate.report import read_report
from stdcli.inference.job import Job, job_folder, read_metadata
from stdcli.inference.outputs import _is_record
from stdcli.models.folder import check_folder, read_folder, read_recipe
from stdcli.models.unet_denoiser import UNET_CLASSES, check_unet
from stdcli.rollout.prompts import read_prompts
from stdcli.training.resume import RunKind, check_run
from stdcli.training.run_folder import RunFolder
from tests.tiny_banks import write_tiny_bank
from tests.tiny_reports import make_report

ODD = (None, True, -1, 0, 10**30, 1e300, 10**7, "", "x", [], {}, [[]], [None], {"x": None}, ["x", "y", "z"])
BYTES = (
    b"",
    b"\xff\xfe{}",
    b"[" * 100_000,
    b"{}",
    b"[]",
    b"3",
    b'{"a":' * 101 + b"1" + b"}" * 101,
    b"9" * 10_000,
    b"NaN",
)


def variants(value: Any) -> Iterator[Any]:
    """The value with each part of it in turn replaced by odd ones, or left out."""
    places = list(_places(value, ()))
    for place in places:
        for odd in ODD:
            yield _put(value, place, odd)
        if place:
            yield _put(value, place, None, drop=True)


def _places(value: Any, at: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    yield at
    parts = (
        value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    )
    for key, part in parts:
        yield from _places(part, (*at, key))


def _put(value: Any, place: tuple[Any, ...], odd: Any, *, drop: bool = False) -> Any:
    if not place:
        return odd
    made = copy.deepcopy(value)
    inner = made
    for key in place[:-1]:
        inner = inner[key]
    if drop:
        del inner[place[-1]]
    else:
        inner[place[-1]] = odd
    return made


def use_bank(root: Path) -> None:
    files = BankFiles(root)
    manifest = read_manifest(files)
    bank_metadata(files, manifest)
    read_samples(files)
    verify(files, manifest)
    Bank(root).source(0)


def use_model(root: Path) -> None:
    folder = read_folder(root)
    check_folder(folder, needed=("unet", "vae"), kinds={"unet": UNET_CLASSES})
    check_unet(folder)
    read_recipe(root)


def use_run(root: Path) -> None:
    run = RunFolder(root)
    check_run(run, RunKind("distill", (), lambda _: ()), {"seed": 1, "a": {"b": 2}}, overwrite=False)
    run.rewind_reports(1)


def use_job(root: Path) -> None:
    read_metadata(root / "out.mp4")
    with Job(root / "out.mp4", {"seed": 1}, discard=False) as job:
        job.memory()


MODEL = {"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"]}
MODEL |= {"vae": ["diffusers", "AutoencoderKL"], "safety_checker": [None, None], "scale": 1}
UNET = {"in_channels": 4, "out_channels": 4, "layers_per_block": 2, "block_out_channels": [32, 64]}
RUN = {"task": "distill", "state": "running", "config": {"seed": 1, "a": {"b": 2}}}
JOB = {"format": 1, "facts": {"seed": 1}, "segments": [{"frames": 1, "bytes": 3}]}
RECORD = {"task": "stylize", "config": {"seed": 1, "style": ["a.png"]}, "versions": {}}
FILES: dict[str, tuple[str, Callable[[Path], object]]] = {
    "manifest": ("manifest.json", use_bank),
    "sidecar": ("shards/shard-00000.json", use_bank),
    "samples": ("samples.jsonl", use_bank),
    "index": ("model_index.json", use_model),
    "unet": ("unet/config.json", use_model),
    "recipe": ("recipe.json", use_model),
    "run": ("run.json", use_run),
    "metrics": ("metrics.jsonl", use_run),
    "job": ("out.mp4.job/job.json", use_job),
    "record": (
        "record.json",
        lambda root: (_is_record(root / "record.json"), read_task_file(root / "record.json")),
    ),
    "report": ("report.json", read_report),
    "prompts": ("prompts.jsonl", lambda root: read_prompts(str(root / "prompts.jsonl"))),
}


def make(kind: str, root: Path) -> None:
    """The files that a reader of this kind wants, whole."""
    if FILES[kind][1] is use_bank:
        write_tiny_bank(root)
        return
    for folder in ("unet", "vae"):
        (root / folder).mkdir()
    (root / "out.mp4.job").mkdir()
    wholes = {
        "model_index.json": MODEL,
        "unet/config.json": UNET,
        "vae/config.json": {"latent_channels": 4},
        "recipe.json": {"timesteps": [799, 399], "strength": 0.8},
        "run.json": RUN,
        "metrics.jsonl": {"progress/step": 1},
        "out.mp4.job/job.json": JOB,
        "record.json": RECORD,
        "report.json": make_report(),
        "prompts.jsonl": {"file_name": "a.png", "text": "b"},
    }
    for name, whole in wholes.items():
        (root / name).write_text(json.dumps(whole))
    (root / "out.mp4.job/00000").write_bytes(b"123")


@pytest.mark.slow
@pytest.mark.parametrize("kind", FILES)
def test_every_reader_refuses_in_plain_words(tmp_path: Path, kind: str) -> None:
    make(kind, tmp_path)
    name, use = FILES[kind]
    whole = (tmp_path / name).read_bytes()
    first = json.loads(whole.splitlines()[0] if name.endswith("l") else whole)
    rest = b"\n".join(whole.splitlines()[1:]) if name.endswith("l") else b""
    texts = [json.dumps(value).encode() + b"\n" + rest for value in variants(first)]
    refused = 0
    for data in (*BYTES, *texts):
        make_again = name.startswith("out.mp4.job") and not job_folder(tmp_path / "out.mp4").exists()
        (tmp_path / name).parent.mkdir(exist_ok=True)
        if make_again:
            (tmp_path / "out.mp4.job/00000").write_bytes(b"123")
        (tmp_path / name).write_bytes(data)
        try:
            use(tmp_path)
        except StdcliError as error:
            refused += 1
            assert error.exit_code != 70 and "\n" not in error.what
        except Exception as error:
            raise AssertionError(f"{data[:300]!r}") from error
    assert refused > 2 or kind in ("metrics", "job"), "reads nothing"


@pytest.mark.skipif(os.name != "posix", reason="named pipes")
@pytest.mark.parametrize("kind", FILES)
def test_no_reader_waits_for_a_pipe(tmp_path: Path, kind: str) -> None:
    make(kind, tmp_path)
    name, use = FILES[kind]
    (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name)
    try:
        use(tmp_path)
    except StdcliError as error:
        assert error.exit_code != 70
