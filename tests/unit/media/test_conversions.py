"""Hints that are commands: pasted as they stand, they work."""

import shlex
import subprocess

import numpy as np
import pytest
from PIL import Image

from stdcli.config.pasting import pasted
from stdcli.errors import MediaError
from stdcli.media.ffmpeg import ffmpeg_command
from stdcli.media.image import read_image
from stdcli.media.probe import probe


@pytest.mark.parametrize(
    ("path", "word"),
    [
        ("a.png", "a.png"),
        ("-a.png", "./-a.png"),
        ("my $HOME.png", "'my $HOME.png'"),
        ("a:b.png", "./a:b.png"),
        ("./-a.png", "./-a.png"),
        ("it's", "'it'\"'\"'s'"),
    ],
)
def test_a_pasted_path_is_one_plain_word(path, word):
    assert pasted(path) == word


def paste(hint):
    """Run the command at the end of a hint in a shell, with the ffmpeg that comes along."""
    binary, command = shlex.quote(ffmpeg_command()[0]), hint[hint.index("ffmpeg ") + len("ffmpeg") :]
    subprocess.run(f"{binary} -loglevel error{command} < /dev/null", shell=True, check=True)


@pytest.mark.parametrize(
    ("name", "suffix"), [("-odd size", "gif"), ("it's", "webp"), ("50%d", "png"), ("a:b", "avif")]
)
def test_an_animation_becomes_a_clip(tmp_path, monkeypatch, name, suffix):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(3)
    frames = [Image.fromarray(rng.integers(0, 256, (49, 65, 3), dtype=np.uint8)) for _ in range(3)]
    frames[0].save(f"{name}.{suffix}", save_all=True, append_images=frames[1:], duration=100)
    with pytest.raises(MediaError, match="an animation") as raised:
        read_image(tmp_path.joinpath(f"{name}.{suffix}").relative_to(tmp_path))
    paste(raised.value.hint)
    info = probe(tmp_path / f"{name}.mp4")
    assert (info.width, info.height, info.frames) == (66, 50, 3)
    with pytest.raises(MediaError, match="a video, not a picture") as raised:
        read_image(tmp_path.joinpath(f"{name}.mp4").relative_to(tmp_path))
    paste(raised.value.hint)
    assert read_image(tmp_path / f"{name}.png").rgb.shape == (50, 66, 3)
