"""Fetching from a Hub: a small HTTP server on this machine plays the Hub."""

from __future__ import annotations

import errno
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants

from stdcli.errors import HubError, ModelError, ResourceError
from stdcli.models import layout
from stdcli.models.locate import fetch_model
from stdcli.remote import snapshot
from tests.hub_server import git_hash
from tests.tiny_models import add_style_adapter, save_tiny_sdxl

SHA = "0123456789abcdef0123456789abcdef01234567"
FILES = {
    "model_index.json": b"{}",
    "unet/config.json": b"{}",
    "unet/diffusion_pytorch_model.safetensors": b"full",
    "unet/diffusion_pytorch_model.fp16.safetensors": b"half",
    "unet/diffusion_pytorch_model.bin": b"pickle",
    "all_in_one.safetensors": b"root",
    "code.py": b"import os",
}


class FakeHub(BaseHTTPRequestHandler):
    """Answers the few questions that a download asks; `status` and `code` make it refuse."""

    status = 200
    code: str | None = None
    asked: list[str]

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def log_message(self, *args: object) -> None:
        pass

    def _answer(self, *, with_body: bool) -> None:
        path = self.path.partition("?")[0]
        self.asked.append(path)
        if self.status != 200:
            self._send(b"{}", {"X-Error-Code": self.code} if self.code else {}, status=self.status)
        elif "/revision/" in path:
            self._send(json.dumps({"id": "o/n", "sha": SHA, "siblings": []}).encode())
        elif "/tree/" in path:
            self._send(json.dumps([self._entry(n, b) for n, b in FILES.items()]).encode())
        else:
            body = FILES[path.partition(f"/resolve/{SHA}/")[2]]
            self._send(body, {"ETag": f'"{git_hash(body)}"', "X-Repo-Commit": SHA}, with_body=with_body)

    @staticmethod
    def _entry(name: str, body: bytes) -> dict[str, object]:
        return {"type": "file", "path": name, "size": len(body), "oid": git_hash(body)}

    def _send(
        self, body: bytes, headers: dict[str, str] | None = None, *, status: int = 200, with_body: bool = True
    ) -> None:
        self.send_response(status)
        for key, value in {
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            **(headers or {}),
        }.items():
            self.send_header(key, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[type[FakeHub]]:
    handler = type("Hub", (FakeHub,), {"asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    point_to(f"http://127.0.0.1:{server.server_port}", monkeypatch, tmp_path)
    yield handler
    huggingface_hub.close_session()
    server.shutdown()
    server.server_close()
    thread.join()


def point_to(url: str, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)


def stored(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def test_fetches_one_set_of_safe_files(hub: type[FakeHub]) -> None:
    folder = fetch_model("o/n", None, offline=False, half=False, weights=True)
    wanted = {"model_index.json", "unet/config.json", "unet/diffusion_pytorch_model.safetensors"}
    assert stored(folder) == wanted
    assert folder.name == SHA
    assert not any(name.endswith((".bin", ".py", "all_in_one.safetensors")) for name in hub.asked)


def test_half_precision_prefers_fp16_files(hub: type[FakeHub]) -> None:
    folder = fetch_model("o/n", "main", offline=False, half=True, weights=True)
    assert (folder / "unet/diffusion_pytorch_model.fp16.safetensors").read_bytes() == b"half"
    assert not (folder / "unet/diffusion_pytorch_model.safetensors").exists()


def test_configs_only(hub: type[FakeHub]) -> None:
    assert stored(fetch_model("o/n", None, offline=False, half=False, weights=False)) == {
        "model_index.json",
        "unet/config.json",
    }


def test_once_fetched_works_offline_without_asking(hub: type[FakeHub]) -> None:
    online = fetch_model("o/n", None, offline=False, half=False, weights=True)
    hub.asked.clear()
    assert fetch_model("o/n", None, offline=True, half=False, weights=True) == online
    assert hub.asked == []


def test_environment_variable_means_offline(hub: type[FakeHub], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="not in the local Hub cache, and offline"):
        fetch_model("o/n", None, offline=False, half=False, weights=True)
    assert hub.asked == []


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (401, "RepoNotFound", "no such model on the Hub"),
        (404, "RepoNotFound", "no such model on the Hub"),
        (403, "GatedRepo", "gated: its owner must let you in"),
        (404, "RevisionNotFound", "no such revision"),
        (500, None, "cannot reach the Hub, and not in its local cache"),
    ],
)
def test_refusals(hub: type[FakeHub], status: int, code: str | None, message: str) -> None:
    hub.status, hub.code = status, code
    with pytest.raises(HubError, match=message) as caught:
        fetch_model("o/n", "v2", offline=False, half=False, weights=True)
    assert caught.value.where == "o/n@v2"
    assert caught.value.hint


def test_no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    point_to("http://127.0.0.1:9", monkeypatch, tmp_path)
    with pytest.raises(HubError, match="cannot reach the Hub"):
        fetch_model("o/n", None, offline=False, half=False, weights=True)


def test_offline_and_missing_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(HubError) as caught:
        snapshot.files("o/n", "v2", ["a/b.safetensors", "a/config.json"], offline=True)
    assert (
        caught.value.hint
        == 'hf download o/n --revision v2 --include "a/b.safetensors" --include "a/config.json"'
    )


def test_disk_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(snapshot, "snapshot_download", fail)
    with pytest.raises(ResourceError, match="disk of the Hub cache is full"):
        snapshot.files("o/n", None, ["x"], offline=False)


def test_not_a_diffusers_repository(hub: type[FakeHub], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(FILES, "model_index.json")
    with pytest.raises(ModelError, match=r"no model_index\.json") as caught:
        fetch_model("o/n", None, offline=False, half=False, weights=True)
    assert "hf download o/n all_in_one.safetensors" in caught.value.hint


def test_a_model_with_its_own_style_adapter_is_wanted_whole(tmp_path: Path) -> None:
    folder = add_style_adapter(save_tiny_sdxl(tmp_path / "sdxl"))
    names = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    assert "ip_adapter/image_encoder/model.safetensors" in names
    assert set(layout.wanted_files(names, half=False)) == names


def test_wanted_files_of_real_listings() -> None:
    sdxl = [
        "README.md",
        "model_index.json",
        "sd_xl_base_1.0.safetensors",
        "scheduler/scheduler_config.json",
        "text_encoder/config.json",
        "text_encoder/flax_model.msgpack",
        "text_encoder/model.fp16.safetensors",
        "text_encoder/model.onnx",
        "text_encoder/model.safetensors",
        "tokenizer/merges.txt",
        "tokenizer/vocab.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "unet/model.onnx_data",
        "unet/openvino_model.bin",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
        "vae_1_0/diffusion_pytorch_model.safetensors",
        "safety_checker/model.safetensors",
    ]
    text = {
        "model_index.json",
        "scheduler/scheduler_config.json",
        "text_encoder/config.json",
        "tokenizer/merges.txt",
        "tokenizer/vocab.json",
        "unet/config.json",
        "vae/config.json",
    }
    only = {"unet/diffusion_pytorch_model.fp16.safetensors", "vae/diffusion_pytorch_model.safetensors"}
    assert set(layout.wanted_files(sdxl, half=False)) == text | only | {"text_encoder/model.safetensors"}
    assert set(layout.wanted_files(sdxl, half=True)) == text | only | {"text_encoder/model.fp16.safetensors"}
    assert set(layout.wanted_files(sdxl, half=True, weights=False)) == text


def test_shards_stay_together() -> None:
    shards = [f"unet/diffusion_pytorch_model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    index = "unet/diffusion_pytorch_model.safetensors.index.json"
    assert set(layout.wanted_files([*shards, index], half=True)) == {*shards, index}
