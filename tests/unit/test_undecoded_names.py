"""Names that are not UTF-8: Python keeps their bytes as lone surrogates, and so do settings and JSON."""

from __future__ import annotations

import hashlib
import json
import os

import pytest

from stdcli.config.load import resolve
from stdcli.config.recipe import Recipe, Trained
from stdcli.data.split import is_held_out
from stdcli.diffusion.noise import hash63
from stdcli.errors import ConfigError

RAW = b"caf\xe9.png"
NAME = os.fsdecode(RAW)


def test_settings_take_them() -> None:
    config = resolve("stylize", flags={"style": [NAME], "lora": f"{NAME}:0.5", "model": NAME}).config
    assert (config.style, config.lora, config.model) == ((NAME,), (f"{NAME}:0.5",), NAME)
    stored = json.dumps(config.model_dump(mode="json", exclude_defaults=True))
    assert resolve("stylize", flags=json.loads(stored)).config == config
    assert resolve("eval", flags={"contents": [NAME], "title": NAME}).config.contents == (NAME,)


@pytest.mark.parametrize("name", ["prompt", "negative_prompt"])
def test_text_for_a_model_must_be_text(name) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve("stylize", flags={name: NAME})
    assert caught.value.problems[0][0] == name
    assert "is not UTF-8 text" in caught.value.problems[0][1]


def test_they_are_hashed_as_the_bytes_that_they_are() -> None:
    for raw in (b"caf\xc3\xa9.png", *(b"%d\xe9.png" % k for k in range(40))):
        digest = hashlib.sha256(raw).digest()
        assert is_held_out(os.fsdecode(raw)) == (int.from_bytes(digest[:8], "big") % 10 == 0)
    seeds = {hash63(1, os.fsdecode(raw)) for raw in (RAW, b"caf\xe8.png", b"caf\xc3\xa9.png")}
    assert len(seeds) == 3


def test_recipes_hold_them() -> None:
    trained = Trained(
        method="std", strength=0.4, start_t=399, supported_steps=(2,), base=NAME, base_sha256={"unet": "a"}
    )
    text = Recipe(trained=trained).as_json(indent=2)
    assert text.encode().count(b"caf\\udce9.png") == 1
    assert json.loads(text)["trained"]["base"] == NAME
