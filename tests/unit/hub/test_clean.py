"""No path of this machine in what is uploaded."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stdcli.errors import ConfigError, ModelError
from stdcli.hub.clean import check_text, cleaned, public_base
from tests.tiny_shares import LORA, weights, write, write_picture, write_student


@pytest.mark.parametrize(
    "text",
    [
        "/srv/me/model",
        "trained on /srv/photos.",
        '{"data": ["/srv/x/y.png"]}',
        "~/models/x",
        "~me/models/x",
        "C:\\models\\me",
        "C:/models/me",
        '{"a": "D:\\\\\\\\data"}',
        "\\\\server\\share",
        "file:///srv/me/x",
        "file:/srv/me/x",
        "student:/srv/me/x",
        "s3:///srv/me/x",
        "https:/srv/me/x",
        "https:///srv/me/x",
        "see https://o.org/n and /srv/me/x",
    ],
)
def test_paths_are_seen(text: str) -> None:
    with pytest.raises(ModelError, match="names a path of this machine"):
        check_text(text, where="x")


@pytest.mark.parametrize(
    "text",
    [
        "https://huggingface.co/o/n/tree/main",
        "[o/n](https://huggingface.co/o/n), git+https://host.org/o/n.git",
        "http://localhost:8080/a/b",
        "hf://o/n/file.safetensors",
        "a // b",
        "o/n",
        "runs/art/student",
        "1/2, and/or, 3 / 4, ~5",
        "unet.down_blocks.0/attn",
        "arXiv:2412.18945",
        "epsilon: a\\b",
        "x: \\n",
        "</td></tr>",
        "./model and ../model",
    ],
)
def test_innocent_texts(text: str) -> None:
    check_text(text, where="x")


def test_files_as_they_are(tmp_path: Path) -> None:
    student = write_student(tmp_path)
    assert cleaned(student / LORA, LORA, base=None) is None
    assert cleaned(student / "recipe.json", "recipe.json", base="o/base") is None
    for name in ("tokenizer/vocab.json", "tokenizer_2/tokenizer.json", "tokenizer/added_tokens.json"):
        write(tmp_path, {name: {"</w>": 1, "/etc/passwd/x": 2, "name_or_path": "/srv/x"}})
        assert cleaned(tmp_path / name, name, base=None) is None


def test_configs_of_tokenizers_are_cleaned(tmp_path: Path) -> None:
    name = "tokenizer_2/tokenizer_config.json"
    places = {"name_or_path": "/srv/models/x", "special_tokens_map_file": "/srv/models/x/map.json"}
    write(tmp_path, {name: places | {"bos_token": "<|startoftext|>", "pad_token": "!"}})
    bare = {"bos_token": "<|startoftext|>", "pad_token": "!"}
    assert json.loads(cleaned(tmp_path / name, name, base=None)) == bare


def test_known_places_are_rewritten(tmp_path: Path) -> None:
    student = write_student(tmp_path, base="/srv/models/teacher")
    before = json.loads((student / "recipe.json").read_text())
    after = json.loads(cleaned(student / "recipe.json", "recipe.json", base="o/base"))
    assert after["trained"].pop("base") == "o/base" and before["trained"].pop("base")
    assert after == before
    config = {"_name_or_path": "/srv/models/teacher", "in_channels": 4}
    write(tmp_path, {"unet/config.json": config, "manifest.json": {"model": {"name": "/x/y", "family": "f"}}})
    assert json.loads(cleaned(tmp_path / "unet/config.json", "unet/config.json", base=None)) == {
        "in_channels": 4
    }
    assert json.loads(cleaned(tmp_path / "manifest.json", "manifest.json", base="embedded")) == {
        "model": {"name": "embedded", "family": "f"}
    }


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer/tokenizer_config.json", {"tokenizer_file": "/srv/models/x/tokenizer.json"}),
        ("vae/config.json", {"nested": [{"file": "/srv/models/x"}]}),
        ("shards/shard-00000.json", {"sources": [{"source": "/srv/photos/a.png"}]}),
        ("samples.jsonl", '{"source": "a.png"}\n{"source": "/srv/photos/b.png"}\n'),
        (LORA, weights(metadata={"note": json.dumps({"base": "/srv/models/x"})})),
        ("recipe.json", {"trained": {"base": "/srv/models/x"}}),
        ("x.json", "not JSON"),
        (LORA, b"not safetensors"),
        ("samples/x.png", b"no picture"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, name: str, content: object) -> None:
    write(tmp_path, {name: content})
    with pytest.raises(ModelError) as caught:
        cleaned(tmp_path / name, name, base=None)
    assert caught.value.where == str(tmp_path / name)


def test_prompts_may_say_anything(tmp_path: Path) -> None:
    row = {"source": "a.png", "prompt": "/imagine/a/harbour"}
    write(tmp_path, {"samples.jsonl": json.dumps(row) + "\n"})
    assert cleaned(tmp_path / "samples.jsonl", "samples.jsonl", base=None) is None


def test_pictures_lose_all_but_their_pixels(tmp_path: Path) -> None:
    path = write_picture(tmp_path / "x.png", level=77)
    assert str(tmp_path).encode() in path.read_bytes()
    bare = cleaned(path, "samples/x.png", base=None)
    assert str(tmp_path).encode() not in bare
    with Image.open(io.BytesIO(bare)) as picture:
        assert picture.info == {} and (np.array(picture) == 77).all() and picture.size == (12, 8)
    photo = Image.new("RGB", (4, 2), "red")
    exif = photo.getexif()
    exif[0x0112], exif[0x010E] = 6, str(tmp_path)  # on its side; a description
    photo.save(tmp_path / "y.jpg", exif=exif)
    bare = cleaned(tmp_path / "y.jpg", "samples/y.png", base=None)
    with Image.open(io.BytesIO(bare)) as picture:
        assert picture.size == (2, 4) and not picture.getexif()


def test_names_of_bases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert public_base("embedded", None) == "embedded"
    assert public_base("o/n@v1", None) == "o/n"
    assert public_base("/srv/x", "o/n") == "o/n"
    assert public_base("embedded", "me/teacher") == "me/teacher"
    (tmp_path / "runs/teacher").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for recorded, given in (
        ("runs/teacher", None),
        ("/srv/x", None),
        ("runs/a/model", None),
        ("x.safetensors", None),
        ("o/n", "/srv/x"),
        ("o/n", "embedded"),
        ("o/n", "o/n/file"),
    ):
        with pytest.raises(ConfigError, match="path of this machine"):
            public_base(recorded, given)
    assert public_base("o/n", "runs/teacher") == "runs/teacher"  # who says so means the Hub
