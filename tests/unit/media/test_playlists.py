"""Lists of other files under a clip's name: refused by what they are, wherever ffmpeg opens something."""

import subprocess

import pytest

from stdcli.errors import MediaError
from stdcli.media.containers import CONTAINERS, stream_plan
from stdcli.media.embedded_recipe import read_recipe
from stdcli.media.ffmpeg import ffmpeg_command
from stdcli.media.probe import list_streams, probe

CONCAT = "ffconcat version 1.0\nfile secret.mp4\n"
PLAYLIST = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nsecret.mp4\n#EXT-X-ENDLIST\n"
MANIFEST = """<?xml version="1.0"?>
<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT1S">
<Period><AdaptationSet contentType="video"><Representation id="0" mimeType="video/mp4" bandwidth="1">
<BaseURL>secret.mp4</BaseURL></Representation></AdaptationSet></Period></MPD>
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lists")
    drawn = ["-f", "lavfi", "-i", "testsrc=s=32x32:r=5:d=1", "-c:v", "mjpeg", "-pix_fmt", "yuvj420p"]
    subprocess.run(ffmpeg_command("-loglevel", "error", *drawn, folder / "secret.mp4"), check=True)
    return folder


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize("text", [CONCAT, PLAYLIST, MANIFEST], ids=["ffconcat", "HLS", "DASH"])
def test_a_list_of_files_is_no_clip(folder, text, suffix):
    path = folder / f"posing{suffix}"
    path.write_text(text)
    assert probe(folder / "secret.mp4").frames == 5, "the file that is listed could be read"
    with pytest.raises(MediaError, match="not a video") as raised:
        probe(path)
    assert raised.value.exit_code == 5
    with pytest.raises(MediaError):
        list_streams(path, "Audio")
    with pytest.raises(MediaError):
        stream_plan(path, folder / "out.mkv", CONTAINERS[".mkv"])
    with pytest.raises(MediaError):
        read_recipe(path)
