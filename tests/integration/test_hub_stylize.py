"""`stylize` with names of the Hub gives what it gives with the same files on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stdcli.distill.student import save_student
from tests.hub_client import running_client
from tests.hub_server import running_hub
from tests.tiny_models import save_tiny_sd15
from tests.tiny_students import recipe_of, student_of, train

pytestmark = pytest.mark.slow


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.array(picture)


def test_a_model_and_a_student_of_the_hub(tmp_path: Path) -> None:
    model = save_tiny_sd15(tmp_path / "model")
    save_student(tmp_path / "student", train(student_of(model)), recipe=recipe_of(model))
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(
        tmp_path / "photo.png"
    )
    with running_hub() as hub, running_client(hub.url, tmp_path) as client:
        client.login()
        assert client("push", model, "me/model").code == 0
        assert client("push", tmp_path / "student", "me/student", "--base-model", "me/model").code == 0
        hub.repos["models", "me/model"].branches["v1"] = hub.repos["models", "me/model"].branches["main"]

        def stylize(out: str, *names: object) -> np.ndarray:
            given = [word for pair in zip(("--model", "--student"), names, strict=True) for word in pair]
            common = ("--prompt", "x", "--device", "cpu", "--dtype", "float32", "-o", tmp_path / out)
            ran = client.stdcli("stylize", tmp_path / "photo.png", *given, *common)
            assert ran.code == 0, ran.err
            return pixels(tmp_path / out)

        local = stylize("local.png", model, tmp_path / "student")
        assert (local != stylize("teacher.png", model, "none")).any()
        hub.log.clear()
        assert (stylize("hub.png", "me/model@v1", "me/student") == local).all()
        assert len({path for verb, path, _ in hub.log if verb == "GET" and "/cdn/" in path}) >= 3
        hub.log.clear()
        ran = client.stdcli("stylize", tmp_path / "photo.png", "--model", "me/model@v2", "--prompt", "x")
        assert ran.code == 6 and "no such revision of this model\n  at: me/model@v2" in ran.err
        repeated = stylize("again.png", "me/model@v1", "me/student")
        assert (repeated == local).all() and not hub.asked("GET", "/cdn/")
