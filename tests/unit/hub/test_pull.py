"""Which folders a pull may replace."""

from __future__ import annotations

from pathlib import Path

import pytest

from stdcli.errors import MediaError
from stdcli.hub.pull import Address, RepoContents, check_target, pull
from stdcli.remote.integrity import Announced, file_sha256
from tests.tiny_banks import write_tiny_bank
from tests.tiny_shares import LORA, weights, write, write_model, write_picture, write_run, write_student


def refusal(folder: Path) -> MediaError:
    """Why a folder is not replaced, even when asked."""
    with pytest.raises(MediaError, match="never replaced") as caught:
        check_target(folder, overwrite=True)
    return caught.value


def test_what_a_pull_wrote_is_replaced(tmp_path: Path) -> None:
    student = write(write_student(tmp_path / "s"), {"README.md": "# S", "comfyui/s.safetensors": weights()})
    write_picture(student / "samples/a.png")
    model = write_model(tmp_path / "m")
    for stray in ("unet/diffusion_pytorch_model.bin", "checkpoints/step-000100.safetensors"):
        (model / stray).unlink()
    bank = write_tiny_bank(tmp_path / "b").root
    loose = write(tmp_path / "l", {"style.safetensors": weights()})
    for folder in (student, model, bank, loose):
        check_target(folder, overwrite=True)


def test_a_run_is_not_replaced(tmp_path: Path) -> None:
    assert "a whole run" in refusal(write_run(tmp_path / "run")).what


@pytest.mark.parametrize("stray", ["thesis.tex", "checkpoints/a.safetensors", "samples/a.jpg", ".hidden"])
def test_what_lies_beside_a_student_is_not_lost(tmp_path: Path, stray: str) -> None:
    assert refusal(write(write_student(tmp_path), {stray: b"x"})).got == stray


def test_links_are_not_lost(tmp_path: Path) -> None:
    student = write_student(tmp_path / "s")
    (student / "photos").symlink_to(tmp_path)
    (student / "gone").symlink_to(tmp_path / "nowhere")
    assert refusal(student).got == "gone, photos"
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    assert "something else" in refusal(tmp_path / "link").what


def test_a_collection_of_loras_is_not_lost(tmp_path: Path) -> None:
    folder = write(tmp_path, {"a.safetensors": weights(), "b.safetensors": weights()})
    assert refusal(folder).got == "a.safetensors, b.safetensors"
    assert refusal(write(folder, {LORA: weights()})).got == "a.safetensors, b.safetensors"


def test_what_appears_during_a_download_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, out = write_student(tmp_path / "cache"), tmp_path / "out"

    def fetch(*_: object, **__: object) -> Path:
        write(out, {"thesis.tex": "years of work"})
        return cache

    monkeypatch.setattr("stdcli.remote.snapshot.files", fetch)
    announced = Announced((cache / LORA).stat().st_size, file_sha256(cache / LORA), "")
    found = RepoContents(Address("o/s"), "student", "c" * 40, {LORA: announced})
    for overwrite, message in ((False, "the output exists"), (True, "never replaced")):
        with pytest.raises(MediaError, match=message):
            pull(found, out, overwrite=overwrite, offline=False)
        assert [p.name for p in out.iterdir()] == ["thesis.tex"]
        (out / "thesis.tex").unlink()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cache", "out"]
