"""What a model's name stands for, without a network."""

from __future__ import annotations

import os
import socket
from functools import partial
from pathlib import Path

import pytest

from stdcli.errors import HubError, ModelError
from stdcli.models.locate import (
    EMBEDDED_FOLDER,
    NETWORK_FILES,
    locate_lora,
    locate_model,
    locate_network,
    locate_student,
)
from stdcli.remote import snapshot


def test_embedded_is_in_the_package() -> None:
    assert locate_model("embedded", offline=True).path == EMBEDDED_FOLDER
    assert EMBEDDED_FOLDER.parts[-3:] == ("stdcli", "assets", "embedded")


def test_local_folder_and_file(tmp_path: Path) -> None:
    file = tmp_path / "m.safetensors"
    file.touch()
    assert locate_model(str(tmp_path), offline=False).path == tmp_path
    assert locate_model(str(file), offline=False).path == file
    assert locate_model(str(file), offline=False).revision is None


def test_local_folder_wins_over_a_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "owner" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert locate_model("owner/name", offline=False).path == Path("owner/name")


@pytest.mark.parametrize("suffix", [".ckpt", ".bin", ".pt", ".pth", ".pkl"])
def test_pickle_is_refused_unread(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"model{suffix}"
    file.write_bytes(b"anything")
    for locate in (locate_model, locate_lora):
        with pytest.raises(ModelError, match="pickle files are never loaded") as caught:
            locate(str(file), offline=True)
        assert caught.value.where == str(file)
        assert caught.value.expected == ".safetensors"


def test_pipes_and_sockets_are_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the name could be one of the Hub's, which is then not asked."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own").mkdir()
    names = ("own/name", "own/name.safetensors")
    for name in names:
        os.mkfifo(name)
    with socket.socket(socket.AF_UNIX) as end:
        end.bind("s")
        for name in (*names, "s"):
            locate_one = partial(locate_network, what="DINOv2 model")
            for locate in (locate_model, locate_lora, locate_student, locate_one):
                with pytest.raises(ModelError, match="not a plain file") as caught:
                    locate(name, offline=True)
                assert caught.value.got == ("a socket" if name == "s" else "a named pipe")


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "vocab.json", "pytorch_model.bin"])
def test_a_network_with_a_pipe_among_its_files(tmp_path: Path, file: str) -> None:
    for name in NETWORK_FILES:
        (tmp_path / name).write_text("{}")
    (tmp_path / file).unlink(missing_ok=True)
    os.mkfifo(tmp_path / file)
    with pytest.raises(ModelError, match="this DINOv2 model is damaged") as caught:
        locate_network(str(tmp_path), what="DINOv2 model", offline=True)
    assert caught.value.where == str(tmp_path / file)
    assert caught.value.got == "not a plain file: a named pipe"


def test_other_files_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "photo.png"
    file.touch()
    with pytest.raises(ModelError, match="not a weights file"):
        locate_model(str(file), offline=True)


@pytest.mark.parametrize(
    "name", ["./gone", "/gone/model", "gone.safetensors", "a/gone.safetensors", "embeded", "a/b/c/d"]
)
def test_missing_local_names_never_become_hub_ids(name: str) -> None:
    with pytest.raises(ModelError, match="no such model") as caught:
        locate_model(name, offline=False)
    assert caught.value.where == name
    assert caught.value.exit_code == 4


def test_missing_file_names_its_neighbors(tmp_path: Path) -> None:
    (tmp_path / "sdxl.safetensors").touch()
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ModelError) as caught:
        locate_model(str(tmp_path / "sdx.safetensors"), offline=True)
    assert caught.value.hint == "in that folder: sdxl.safetensors"


def test_near_misses_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "night.safetensors").touch()
    for name, meant in (("embeded", "embedded"), ("nigth.safetensors", "night.safetensors")):
        with pytest.raises(ModelError, match="no such model") as caught:
            locate_model(name, offline=True)
        assert caught.value.hint == f"did you mean {meant}?"
    with pytest.raises(ModelError, match="no such LoRA") as caught:
        locate_lora("embeded", offline=True)
    assert caught.value.hint.startswith("check the spelling")


@pytest.mark.parametrize("name", ["x" * 300, "~no-such-user/model"])
def test_names_that_cannot_be_looked_up(name: str) -> None:
    for locate in (locate_model, locate_lora):
        with pytest.raises(ModelError, match="cannot be looked up"):
            locate(name, offline=True)


@pytest.mark.parametrize(
    "name", ["owner/name", "owner/name@main", "stabilityai/stable-diffusion-xl-base-1.0@abc"]
)
def test_hub_id_offline_and_not_cached(name: str) -> None:
    with pytest.raises(HubError, match="not in the local Hub cache, and offline") as caught:
        locate_model(name, offline=True)
    assert caught.value.where == name
    assert "without --offline" in caught.value.hint


def test_hub_id_is_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {}

    def model(repo: str, revision: str | None, **options: object) -> Path:
        asked.update(repo=repo, revision=revision, **options)
        return tmp_path / "c0ffee"

    monkeypatch.setattr("stdcli.models.locate.fetch_model", model)
    source = locate_model("owner/na-me.1@v2", offline=False, half=True)
    assert asked == {
        "repo": "owner/na-me.1",
        "revision": "v2",
        "offline": False,
        "half": True,
        "weights": True,
    }
    assert (source.name, source.revision) == ("owner/na-me.1@v2", "c0ffee")


def test_lora_in_a_folder(tmp_path: Path) -> None:
    (tmp_path / "only.safetensors").touch()
    assert locate_lora(str(tmp_path), offline=True).path.name == "only.safetensors"
    (tmp_path / "pytorch_lora_weights.safetensors").touch()
    assert locate_lora(str(tmp_path), offline=True).path.name == "pytorch_lora_weights.safetensors"


def test_ambiguous_lora_folder_lists_the_files(tmp_path: Path) -> None:
    for name in ("eta0.65.safetensors", "eta0.75.safetensors"):
        (tmp_path / name).touch()
    with pytest.raises(ModelError, match="2 weight files here") as caught:
        locate_lora(str(tmp_path), offline=True)
    assert caught.value.got == "eta0.65.safetensors, eta0.75.safetensors"
    assert caught.value.hint == f"--lora {tmp_path}/eta0.65.safetensors"


def test_lora_folder_with_only_pickles(tmp_path: Path) -> None:
    (tmp_path / "pytorch_lora_weights.bin").touch()
    with pytest.raises(ModelError, match=r"only pickle files \(pytorch_lora_weights.bin\)"):
        locate_lora(str(tmp_path), offline=True)


def test_lora_file_inside_a_hub_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "c0ffee"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "a.safetensors").touch()
    asked = []

    def files(repo: str, revision: str | None, patterns: list[str], *, offline: bool) -> Path:
        asked.append((repo, revision, patterns))
        return folder

    monkeypatch.setattr(snapshot, "files", files)
    source = locate_lora("o/n/sub/a.safetensors@v1", offline=False)
    beside = ["sub/recipe.json", "sub/adapter_config.json", "sub/target_time_embedder.safetensors"]
    assert asked == [("o/n", "v1", ["sub/a.safetensors", *beside])]
    assert source.path == folder / "sub" / "a.safetensors"
    assert source.revision == "c0ffee"
    with pytest.raises(HubError, match=r"no file b\.safetensors in o/n"):
        locate_lora("o/n/b.safetensors", offline=False)


def test_lora_of_a_hub_repository_takes_the_default_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pytorch_lora_weights.safetensors").touch()
    listing = ["README.md", "x.safetensors", "pytorch_lora_weights.safetensors"]
    monkeypatch.setattr(snapshot, "names", lambda *a, **k: listing)
    monkeypatch.setattr(snapshot, "files", lambda *a, **k: tmp_path)
    assert locate_lora("o/n", offline=False).path.name == "pytorch_lora_weights.safetensors"
