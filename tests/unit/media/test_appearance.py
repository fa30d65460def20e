"""Clips that are not progressive BT.709: read as they are to be seen."""

import subprocess
from fractions import Fraction

import numpy as np
import pytest

from stdcli.errors import MediaError
from stdcli.media.appearance import WHITE_NITS, Appearance
from stdcli.media.containers import CONTAINERS, stream_plan
from stdcli.media.ffmpeg import ffmpeg_command
from stdcli.media.probe import list_streams, probe
from stdcli.media.video import iter_frames


def ffmpeg(*arguments):
    command = ffmpeg_command("-loglevel", "error", "-y", *map(str, arguments))
    return subprocess.run(command, check=True, capture_output=True).stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("appearance")


def flat(path, luma, primaries, transfer, matrix, chroma=(512, 512)):
    """Two frames of one colour, kept bit for bit: 10-bit codes, tagged."""
    codes = f"geq=lum={luma}:cb={chroma[0]}:cr={chroma[1]}"
    tags = f"setparams=color_primaries={primaries}:color_trc={transfer}:colorspace={matrix}:range=tv"
    filters = f"format=yuv444p10le,{codes},{tags}"
    ffmpeg("-f", "lavfi", "-i", "color=s=16x16:r=5", "-vf", filters, "-frames:v", 2, "-c:v", "ffv1", path)
    return path


def primaries_to_xyz(x, y, white=(0.3127, 0.3290)):
    """RGB to XYZ of three chromaticities, white being (1, 1, 1): the textbook's."""
    columns = np.array([x, y, 1 - np.add(x, y)]) / np.array(y)
    target = np.array([white[0], white[1], 1 - sum(white)]) / white[1]
    return columns * np.linalg.solve(columns, target)


BT709 = primaries_to_xyz((0.64, 0.30, 0.15), (0.33, 0.60, 0.06))
OTHERS = {
    "bt2020": primaries_to_xyz((0.708, 0.170, 0.131), (0.292, 0.797, 0.046)),
    "smpte432": primaries_to_xyz((0.680, 0.265, 0.150), (0.320, 0.690, 0.060)),
    "bt470bg": primaries_to_xyz((0.64, 0.29, 0.15), (0.33, 0.60, 0.06)),
}


SCREEN_GAMMA = 2.4  # of ITU-R BT.1886


@pytest.mark.parametrize("primaries", OTHERS)
def test_other_primaries_are_brought_to_bt709(folder, primaries):
    """BT.709 matrix, so that R'G'B' is known: R' = Y' + 1.5748 V', B' = Y' + 1.8556 U'."""
    path = flat(folder / f"{primaries}.mkv", 500, primaries, "bt709", "bt709", (400, 600))
    y, u, v = (500 - 64) / 876, (400 - 512) / 896, (600 - 512) / 896
    red, blue = y + 1.5748 * v, y + 1.8556 * u
    rgb = np.array([red, (y - 0.2126 * red - 0.0722 * blue) / 0.7152, blue])
    light = np.linalg.solve(BT709, OTHERS[primaries] @ rgb**SCREEN_GAMMA)
    expected = 255 * light ** (1 / SCREEN_GAMMA)
    (frame, *_), info = list(iter_frames(path)), probe(path)
    assert info.mapping and info.notes == ()
    assert np.abs(frame - expected).max() <= 1.5
    assert np.abs(255 * rgb - expected).max() > 1.5, "the mapping must be seen"


def test_colors_of_bt709_are_left_alone(folder):
    assert probe(flat(folder / "bt709.mkv", 500, "bt709", "bt709", "bt709")).mapping == ()


@pytest.mark.parametrize(
    ("transfer", "name", "luma"), [("smpte2084", "PQ", 573), ("arib-std-b67", "HLG", 721)], ids=["PQ", "HLG"]
)
def test_hdr_is_mapped_and_told(folder, transfer, name, luma):
    """Both codes are white, 203 nits (BT.2408). A Moebius map with its knee at 0.3 and its end at 10."""
    path = flat(folder / f"{name}.mkv", luma, "bt2020", transfer, "bt2020nc")
    info = probe(path)
    assert info.notes == (f"{name}.mkv is HDR ({name}): mapped to the standard range",)
    knee, end = 0.3, 10
    a = -(knee**2) * (end - 1) / (knee**2 - 2 * knee + end)
    b = (knee**2 - 2 * knee * end + end) / (end - 1)
    light = (b + knee) ** 2 / (b - a) * (1 + a) / (1 + b)
    shown = 255 * (1.055 * light ** (1 / 2.4) - 0.055)
    frames = list(iter_frames(path, info))
    assert len(frames) == 2 and WHITE_NITS == 203
    assert np.abs(frames[0] - shown).max() <= 2


def combed(frame):
    """Share of pixels that both neighbours above and below differ from, to the same side."""
    gray = frame.astype(int).mean(2)
    up, down = gray[1:-1] - gray[:-2], gray[1:-1] - gray[2:]
    return ((np.minimum(abs(up), abs(down)) > 25) & (up * down > 0)).mean()


@pytest.mark.parametrize(
    ("suffix", "order", "codec"),
    [
        (".mp4", "tff", ["-c:v", "libx264", "-x264opts", "tff=1", "-crf", 10]),
        (".ts", "bff", ["-c:v", "mpeg2video", "-q:v", 2]),
        (".avi", "tff", ["-c:v", "mpeg4", "-q:v", 2]),  # only its frames say so
    ],
)
def test_interlaced_clips_are_deinterlaced(folder, suffix, order, codec):
    """50 fields in a second become 25 whole frames; read woven they are combed."""
    path = folder / f"fields{suffix}"
    fields = {"tff": "interleave_top", "bff": "interleave_bottom"}[order]
    weave = f"tinterlace={fields},fieldorder={order},setfield={order}"
    source = ["-f", "lavfi", "-i", "testsrc2=s=128x96:r=50:d=1", "-vf", weave, "-flags", "+ilme+ildct"]
    ffmpeg(*source, *codec, "-r", 25, path)
    raw = ffmpeg("-i", path, "-f", "rawvideo", "-pix_fmt", "rgb24", "-")
    woven = np.frombuffer(raw, np.uint8).reshape(-1, 96, 128, 3)
    info = probe(path)
    frames = list(iter_frames(path, info))
    assert (info.frames, len(frames), info.fps, info.duration_s) == (25, 25, Fraction(25), 1.0)
    assert np.mean([combed(frame) for frame in frames]) <= 0.015
    assert np.mean([combed(frame) for frame in woven]) > 0.012
    assert "interlaced" in info.notes[0] and f"parity={order}" in info.filters[0]
    (tail,) = list(iter_frames(path, info, skip=24))
    assert np.array_equal(tail, frames[24]), "read from the middle, a frame is the same"


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ("(High), yuv420p(progressive), 64x48", Appearance()),
        ("(High), yuv420p(tv, bt709, top first), 64x48", Appearance("bt709", "bt709", "bt709", "tff")),
        ("(x), yuv420p(tv, top coded first (swapped)), 720x576", Appearance(parity="bff")),
        ("(x), yuv420p(tv, bottom coded first (swapped)), 720x576", Appearance(parity="tff")),
        ("(x), yuv420p10le(pc, bt2020nc/unknown/unknown), 9x9", Appearance("bt2020nc", "bt2020", "unknown")),
        ("(x), yuv420p, 9x9", Appearance()),
    ],
)
def test_descriptions(told, expected):
    assert Appearance.described(f" (avc1 / 0x31637661){told}".replace(" (avc1", ": (avc1", 1)) == expected


def test_a_second_video_stream_is_told(folder):
    sizes = [["-f", "lavfi", "-i", f"testsrc=s={size}:r=5:d=1"] for size in ("64x48", "32x32")]
    ffmpeg(*sizes[0], *sizes[1], "-map", "0", "-map", "1", "-c:v", "ffv1", folder / "two.mkv")
    (note,) = probe(folder / "two.mkv").notes
    assert note == "two.mkv has 2 video streams: the first is restyled, the others are left out"
    cover = ["-map", "0", "-map", "1", "-c:v:0", "mpeg4", "-c:v:1", "png", "-frames:v:1", 1]
    ffmpeg(*sizes[0], *sizes[1], *cover, "-disposition:v:1", "attached_pic", folder / "cover.mp4")
    assert probe(folder / "cover.mp4").notes == ()


@pytest.fixture(scope="module")
def unknown_sound(folder):
    """Two sounds in a .mov, of which nothing here reads the second: its description names Apple's `apac`."""
    tones = [part for hz in (440, 880) for part in ("-f", "lavfi", "-i", f"sine={hz}:d=0.5")]
    picture = ["-f", "lavfi", "-i", "testsrc=s=64x48:r=10:d=0.5"]
    maps = ["-map", "0", "-map", "1", "-map", "2", "-c:v", "mpeg4", "-c:a", "aac"]
    ffmpeg(*picture, *tones, *maps, folder / "both.mov")
    data = (folder / "both.mov").read_bytes()
    place = data.rindex(b"stsd")
    entry = data[place:].replace(b"mp4a", b"apac").replace(b"esds", b"dapa").replace(b"wave", b"free")
    path = folder / "apac.mov"
    path.write_bytes(data[:place] + entry)
    return path


@pytest.mark.parametrize("suffix", sorted(CONTAINERS))
def test_a_sound_that_cannot_be_kept_leaves_the_good_one(unknown_sound, folder, suffix):
    assert len(list_streams(unknown_sound, "Audio")) == 2
    options, notes = stream_plan(unknown_sound, folder / f"out{suffix}", CONTAINERS[suffix])
    encoder = "libopus" if suffix == ".webm" else "copy"
    assert options[:4] == ["-map", "1:a:0", "-c:a:0", encoder]
    if suffix != ".mov":  # which copies what it does not know
        assert options[4:] == [] and "audio stream 2" in notes[-1] and "was left out" in notes[-1]


def test_sound_of_which_nothing_can_be_kept_is_refused(unknown_sound, folder):
    data = (folder / "both.mov").read_bytes()
    for known, other in ((b"mp4a", b"apac"), (b"esds", b"dapa"), (b"wave", b"free")):
        data = data.replace(known, other)
    path = folder / "none.mov"
    path.write_bytes(data)
    with pytest.raises(MediaError, match=r"audio stream 1 .* cannot be kept") as raised:
        stream_plan(path, folder / "out.mp4", CONTAINERS[".mp4"])
    assert "--no-audio" in raised.value.hint
    assert stream_plan(path, folder / "out.mp4", CONTAINERS[".mp4"], audio=False) == ([], [])


@pytest.mark.parametrize("transfer", ["smpte2084", "arib-std-b67"])
def test_hdr_that_names_no_primaries_is_of_bt2020(folder, transfer):
    shown = []
    for primaries in ("unknown", "bt2020"):
        path = flat(folder / f"{transfer}-{primaries}.mkv", 500, primaries, transfer, "bt2020nc", (600, 400))
        shown.append(next(iter_frames(path, probe(path))))
    assert np.array_equal(*shown)


def test_hdr_of_constant_luminance_is_refused_by_name(folder):
    path = flat(folder / "constant.mkv", 500, "bt2020", "smpte2084", "bt2020c")
    with pytest.raises(MediaError, match="constant luminance"):
        probe(path)


def test_clips_of_odd_sides_are_mapped_too(folder):
    """VP9, as AV1 and VP8, has them with halved chroma; of one colour, so that sizes decide nothing."""
    shown = []
    for size in ("64x48", "65x49"):
        path = folder / f"{size}.webm"
        tags = "setparams=color_primaries=bt470bg:color_trc=smpte170m:colorspace=bt470bg:range=tv"
        filters = f"format=yuv420p,geq=lum=120:cb=150:cr=90,{tags}"
        coding = ["-c:v", "libvpx-vp9", "-lossless", "1", "-frames:v", 2]
        ffmpeg("-f", "lavfi", "-i", f"color=s={size}:r=5", "-vf", filters, *coding, path)
        info = probe(path)
        assert info.mapping
        shown.append(next(iter_frames(path, info)))
    assert shown[1].shape == (49, 65, 3)
    assert np.abs(shown[0][0, 0].astype(int) - shown[1].astype(int)).max() <= 1
