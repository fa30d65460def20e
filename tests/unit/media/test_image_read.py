"""Reading pictures of every kind, against values written down or computed by NumPy."""

import io
import struct
import sys
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from stdcli.errors import MediaError, ResourceError
from stdcli.media.ffmpeg import run_ffmpeg
from stdcli.media.image import check_image, read_image

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
CORNERS = np.array([[RED, GREEN, WHITE], [BLUE, WHITE, WHITE]], np.uint8).repeat(16, 0).repeat(16, 1)  # 32x48

# what a reader must do with the stored rows and columns, from the table of EXIF 2.3 (tag 0x0112)
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a[::-1].swapaxes(0, 1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: a[:, ::-1].swapaxes(0, 1),
}


def save(path, image, **options):
    image.save(path, **options)
    return path


def smooth(height=40, width=50):
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 5, y * 6, (x + y) * 2], axis=2).astype(np.uint8)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_orientation_is_applied(tmp_path, suffix, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    lossless = {"webp": {"lossless": True}, "jpg": {"quality": 100, "subsampling": 0}}.get(suffix, {})
    path = save(tmp_path / f"a.{suffix}", Image.fromarray(CORNERS), exif=exif, **lossless)
    expected = UPRIGHT[orientation](CORNERS)
    rgb = read_image(path).rgb
    assert rgb.shape == expected.shape
    assert np.abs(rgb.astype(int) - expected).max() <= (3 if suffix == "jpg" else 0)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (333, 2), (17, 31)])
@pytest.mark.parametrize("suffix", ["png", "bmp", "tif"])
def test_any_size_is_read_exactly(tmp_path, size, suffix):
    rgb = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
    picture = read_image(save(tmp_path / f"a.{suffix}", Image.fromarray(rgb)))
    assert np.array_equal(picture.rgb, rgb)
    assert picture.alpha is None
    assert picture.info == {"format": {"tif": "TIFF"}.get(suffix, suffix.upper()), "mode": "RGB", "notes": []}


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_gray_is_scaled_not_clipped(tmp_path, suffix):
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    picture = read_image(save(tmp_path / f"a.{suffix}", Image.fromarray(values)))
    exact = np.rint(values / 257).astype(np.uint8)
    for channel in range(3):
        assert np.array_equal(picture.rgb[..., channel], exact)
    assert picture.info["notes"] == []


def test_16_bit_gray_with_a_transparent_value(tmp_path):
    values = np.array([[1000, 65535], [0, 1000]], np.uint16)
    picture = read_image(save(tmp_path / "a.png", Image.fromarray(values), transparency=1000))
    assert picture.alpha.tolist() == [[0, 255], [255, 0]]
    assert picture.rgb[..., 0].tolist() == [[128, 255], [0, 128]]


def test_16_bit_gray_that_holds_8_bits_is_reported(tmp_path):
    picture = read_image(save(tmp_path / "a.tif", Image.fromarray(np.array([[0, 255]], np.uint16))))
    assert picture.rgb[..., 1].tolist() == [[0, 1]]
    assert "dark" in picture.info["notes"][0]


def test_gray_beyond_16_bits_and_float_are_refused(tmp_path):
    path = save(tmp_path / "a.tif", Image.fromarray(np.array([[0, 70000]], np.int32)))
    with pytest.raises(MediaError, match="beyond 16 bits"):
        read_image(path)
    path = save(tmp_path / "b.tif", Image.fromarray(np.array([[0.0, 0.5]], np.float32)))
    with pytest.raises(MediaError, match="floating-point"):
        read_image(path)


def test_gray_and_bilevel(tmp_path):
    gray = np.array([[0, 100, 255]], np.uint8)
    assert read_image(save(tmp_path / "a.png", Image.fromarray(gray))).rgb.tolist() == [
        [[0] * 3, [100] * 3, [255] * 3]
    ]
    bilevel = Image.fromarray(gray).point(lambda v: 255 * (v > 50)).convert("1")
    assert read_image(save(tmp_path / "b.png", bilevel)).rgb[..., 0].tolist() == [[0, 255, 255]]


def test_gray_with_alpha(tmp_path):
    pair = np.array([[[10, 0], [200, 128]]], np.uint8)
    picture = read_image(save(tmp_path / "a.png", Image.fromarray(pair, "LA")))
    assert picture.rgb.tolist() == [[[200] * 3, [200] * 3]]
    assert picture.alpha.tolist() == [[0, 128]]


def test_hidden_colors_give_way_to_the_mean_of_what_is_visible(tmp_path):
    rgba = np.random.default_rng(2).integers(0, 256, (5, 6, 4), dtype=np.uint8)
    rgba[..., 3] |= 1
    rgba[0, :, 3] = 0
    picture = read_image(save(tmp_path / "a.png", Image.fromarray(rgba)))
    assert np.array_equal(picture.rgb[1:], rgba[1:, :, :3]) and np.array_equal(picture.alpha, rgba[..., 3])
    weights = np.repeat(rgba[1:, :, 3:], 3, axis=2).astype(float)
    mean = np.average(rgba[1:, :, :3], axis=(0, 1), weights=weights)
    assert np.abs(picture.rgb[0] - mean).max() <= 0.5
    unseen = Image.new("RGBA", (4, 3), (255, 0, 255, 0))
    assert (read_image(save(tmp_path / "b.png", unseen)).rgb == 128).all()


@pytest.mark.parametrize("suffix", ["png", "webp", "tif"])
def test_what_is_hidden_is_not_read(tmp_path, suffix):
    pictures = []
    for hidden in (GREEN, (255, 0, 255)):
        rgba = np.dstack([smooth(), np.full(smooth().shape[:2], 255, np.uint8)])
        rgba[:, 20:, 3], rgba[:, 20:, :3] = 0, hidden
        options = {"lossless": True, "exact": True} if suffix == "webp" else {}
        pictures.append(
            read_image(save(tmp_path / f"{hidden[0]}.{suffix}", Image.fromarray(rgba), **options))
        )
    assert np.array_equal(pictures[0].rgb, pictures[1].rgb)
    assert np.array_equal(pictures[0].rgb[:, :20], smooth()[:, :20])


@pytest.mark.parametrize("transparency", [1, bytes([255, 0, 99])])
def test_palette_with_transparency(tmp_path, transparency):
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "P")
    image.putpalette([*RED, *GREEN, *BLUE])
    picture = read_image(save(tmp_path / "a.png", image, transparency=transparency))
    hidden = (
        [128, 0, 128] if transparency == 1 else [184, 0, 71]
    )  # of red 255 and blue 255, or red 255, blue 99
    assert picture.rgb.tolist() == [[list(RED), hidden, list(BLUE)]]
    assert picture.alpha.tolist() == ([[255, 0, 255]] if transparency == 1 else [[255, 0, 99]])


def test_rgb_with_a_transparent_color(tmp_path):
    image = Image.fromarray(np.array([[RED, BLUE]], np.uint8))
    assert read_image(save(tmp_path / "a.png", image, transparency=BLUE)).alpha.tolist() == [[255, 0]]


def test_cmyk(tmp_path):
    pixels = {(0, 0, 0, 0): (255, 255, 255), (0, 0, 0, 255): (0, 0, 0), (0, 255, 255, 0): (255, 0, 0)}
    for cmyk, rgb in pixels.items():
        path = save(tmp_path / "a.jpg", Image.new("CMYK", (16, 16), cmyk), quality=100)
        assert np.abs(read_image(path).rgb.astype(int) - rgb).max() <= 2


def png(header, *chunks):
    """A PNG from its header fields (width, height, depth, colour type) and further chunks."""
    parts = [(b"IHDR", struct.pack(">IIBBBBB", *header, 0, 0, 0)), *chunks, (b"IEND", b"")]
    packed = (struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


@pytest.mark.parametrize("channels", [3, 4])
def test_16_bit_colors_are_scaled_not_clipped(tmp_path, channels):
    """Pillow keeps the high byte, floor(v / 256), which differs from v / 257 by less than one level."""
    values = np.random.default_rng(4).integers(0, 65536, (12, 10, channels)).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in values)  # filter 0: as it is
    data = png((10, 12, 16, {3: 2, 4: 6}[channels]), (b"IDAT", zlib.compress(rows)))
    (tmp_path / "a.png").write_bytes(data)
    picture = read_image(tmp_path / "a.png")
    read = picture.rgb if channels == 3 else np.dstack([picture.rgb, picture.alpha])
    assert np.abs(read - values / 257).max() < 1


@pytest.mark.parametrize(
    ("suffix", "mode", "options", "tolerance"),
    [
        ("png", "P", {}, 0),
        ("png", "L", {}, 0),
        ("png", "1", {}, 0),
        ("gif", "P", {}, 0),
        ("bmp", "P", {}, 0),
        ("tif", "P", {}, 0),
        ("tif", "RGB", {"compression": "tiff_lzw"}, 0),
        ("webp", "RGB", {"lossless": True}, 0),
        ("jpg", "CMYK", {"quality": 100, "subsampling": 0}, 3),
        ("jpg", "L", {}, 2),
        ("jpg", "RGB", {"subsampling": 0, "progressive": True}, 3),
    ],
)
def test_pixels_are_those_of_another_decoder(tmp_path, suffix, mode, options, tolerance):
    image = Image.fromarray(smooth())
    image = image.quantize(16) if mode == "P" else image.convert(mode)
    path = save(tmp_path / f"a.{suffix}", image, **options)
    arguments = ["-i", f"file:{path}", "-sws_flags", "accurate_rnd+full_chroma_int", "-pix_fmt", "rgb24"]
    run_ffmpeg(*arguments, "-frames:v", "1", "-f", "rawvideo", f"file:{tmp_path}/raw")
    theirs = np.fromfile(tmp_path / "raw", np.uint8).reshape(smooth().shape)
    assert np.abs(read_image(path).rgb.astype(int) - theirs).max() <= tolerance


def s15(value):
    return struct.pack(">i", round(value * 65536))


def matrix_profile(columns, gamma, name="test", curve=None):
    """An ICC v2 RGB profile: colour = columns (3x3, to D50 XYZ) x channel ** gamma, or by a curve."""
    told = name.encode() + b"\0"
    tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", len(told)) + told + b"\0" * 78,
        b"wtpt": b"XYZ \0\0\0\0" + s15(0.9642) + s15(1.0) + s15(0.8249),
    }
    for index, name in enumerate("rgb"):
        tags[f"{name}XYZ".encode()] = b"XYZ \0\0\0\0" + b"".join(s15(v) for v in columns[:, index])
        tags[f"{name}TRC".encode()] = b"curv\0\0\0\0" + (
            struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
            if curve is None
            else struct.pack(">I", len(curve)) + np.asarray(curve, ">u2").tobytes()
        )
    table, data, offset = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for name, value in tags.items():
        value += b"\0" * (-len(value) % 4)
        table += name + struct.pack(">II", offset + len(data), len(value))
        data += value
    header = struct.pack(">I4sI4s4s4s", offset + len(data), b"\0" * 4, 0x02100000, b"mntr", b"RGB ", b"XYZ ")
    header += b"\0" * 12 + b"acsp" + b"\0" * 28 + s15(0.9642) + s15(1.0) + s15(0.8249) + b"\0" * 48
    return header + table + data


SRGB_TO_XYZ_D50 = np.array([[0.4361, 0.3851, 0.1431], [0.2225, 0.7169, 0.0606], [0.0139, 0.0971, 0.7141]])


def srgb_encode(linear):
    return np.where(
        linear <= 0.0031308, 12.92 * linear, 1.055 * np.maximum(linear, 1e-9) ** (1 / 2.4) - 0.055
    )


def test_a_color_profile_is_converted_to_srgb(tmp_path):
    """Primaries in another order and gamma 1.8: every step can be computed by hand."""
    profile = matrix_profile(SRGB_TO_XYZ_D50[:, [1, 2, 0]], 1.8)
    rgb = smooth()
    picture = read_image(save(tmp_path / "a.png", Image.fromarray(rgb), icc_profile=profile))
    linear = (rgb / 255) ** 1.8
    expected = 255 * srgb_encode(linear[..., [2, 0, 1]])
    assert np.abs(picture.rgb - expected).max() <= 1.5
    assert picture.info["notes"] == []


def test_a_color_profile_leaves_alpha_alone(tmp_path):
    profile = matrix_profile(SRGB_TO_XYZ_D50, 1.8)
    rgba = np.dstack([smooth(), smooth()[..., :1] // 2])
    picture = read_image(save(tmp_path / "a.png", Image.fromarray(rgba), icc_profile=profile))
    assert np.array_equal(picture.alpha, rgba[..., 3])
    off = np.abs(picture.rgb - 255 * srgb_encode((rgba[..., :3] / 255) ** 1.8))
    assert off[picture.alpha > 0].max() <= 1.5


def test_an_srgb_profile_changes_nothing(tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    path = save(tmp_path / "a.png", Image.fromarray(smooth()), icc_profile=profile)
    assert np.array_equal(read_image(path).rgb, smooth())


def test_a_profile_is_judged_by_what_it_does(tmp_path):
    """Light that is linear, under a name with sRGB in it, and sRGB's own curve under another name."""
    linear = matrix_profile(SRGB_TO_XYZ_D50, 1.0, "linear sRGB built-in")
    picture = read_image(save(tmp_path / "a.png", Image.fromarray(smooth()), icc_profile=linear))
    assert np.abs(picture.rgb - 255 * srgb_encode(smooth() / 255)).max() <= 1.5
    own = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    renamed = own.replace("sRGB".encode("utf-16-be"), "acme".encode("utf-16-be")).replace(b"sRGB", b"acme")
    assert renamed != own
    picture = read_image(save(tmp_path / "b.png", Image.fromarray(smooth()), icc_profile=renamed))
    assert np.array_equal(picture.rgb, smooth()) and picture.info["notes"] == []


def test_a_coarse_profile_of_srgb_is_srgb(tmp_path):
    """Columns of four decimals, a curve of 26 steps, as small profiles have: off by a level in places."""
    encoded = np.linspace(0, 1, 26)
    light = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    profile = matrix_profile(SRGB_TO_XYZ_D50, 0, "camera", curve=(65535 * light).round())
    every = np.random.default_rng(5).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = save(tmp_path / "a.png", Image.fromarray(every), icc_profile=profile)
    assert np.array_equal(read_image(path).rgb, every)
    gamma = matrix_profile(SRGB_TO_XYZ_D50, 2.2, "sRGB")
    path = save(tmp_path / "b.png", Image.fromarray(every), icc_profile=gamma)
    assert np.abs(read_image(path).rgb - 255 * srgb_encode((every / 255) ** 2.2)).max() <= 1.5


def ifd(*entries):
    """EXIF of little-endian entries (tag, type, count, 4 bytes of value), or of values after the table."""
    table = b"".join(struct.pack("<HHI", *entry[:3]) + entry[3] for entry in entries)
    return struct.pack("<2sHIH", b"II", 42, 8, len(entries)) + table + struct.pack("<I", 0)


TURNED = (0x112, 3, 1, struct.pack("<HH", 6, 0))
AFTER = struct.pack("<I", 8 + 2 + 24 + 4)


@pytest.mark.parametrize(
    ("exif", "turned"),
    [
        (ifd(TURNED, (0x11A, 10, 1, AFTER)) + struct.pack("<ii", -1, 0), True),
        (ifd(TURNED, (0x11A, 2, 6, AFTER)) + b"72.0\0\0", True),
        (ifd(TURNED, (0x11A, 5, 1, b"\xff" * 4)), True),
        (ifd((0x112, 2, 4, b"six\0")), False),
        (ifd((0x112, 3, 1, struct.pack("<HH", 9, 0))), False),
        (b"no TIFF header", False),
        (ifd(TURNED, *((tag, 5, 1, b"\xff" * 4) for tag in (0x11A, 0x11B, 0x829A))), True),
    ],
    ids=[
        "-1/0",
        "text resolution",
        "beyond the end",
        "orientation in words",
        "orientation 9",
        "no header",
        "thrice beyond",
    ],
)
def test_damaged_metadata_is_no_damaged_picture(tmp_path, exif, turned):
    image = Image.fromarray(smooth())
    image.save(tmp_path / "plain.jpg", quality=95)
    image.save(tmp_path / "a.jpg", quality=95, exif=b"Exif\0\0" + exif)
    check_image(tmp_path / "a.jpg")
    plain, picture = read_image(tmp_path / "plain.jpg").rgb, read_image(tmp_path / "a.jpg")
    assert np.array_equal(picture.rgb, np.rot90(plain, -1) if turned else plain)
    assert len(picture.info["notes"]) <= 1


@pytest.mark.parametrize(
    ("mode", "profile"), [("RGB", b"no profile"), ("CMYK", matrix_profile(SRGB_TO_XYZ_D50, 2.2))]
)
def test_a_useless_profile_is_reported_and_ignored(tmp_path, mode, profile):
    image = Image.fromarray(smooth()).convert(mode)
    picture = read_image(save(tmp_path / "a.tif", image, icc_profile=profile))
    assert np.array_equal(picture.rgb, np.asarray(image.convert("RGB")))
    assert "profile ignored" in picture.info["notes"][0]


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_an_animation_is_refused_and_says_what_to_do(tmp_path, suffix):
    frames = [Image.new("RGB", (8, 8), color) for color in (RED, GREEN, BLUE)]
    path = save(
        tmp_path / f"my clip.{suffix}", frames[0], save_all=True, append_images=frames[1:], duration=100
    )
    with pytest.raises(MediaError, match="an animation") as caught:
        read_image(path)
    assert caught.value.got == "3 frames"
    assert caught.value.hint.endswith("/my clip.mp4'")


def test_a_gif_of_one_frame_is_a_picture(tmp_path):
    picture = read_image(save(tmp_path / "a.gif", Image.new("RGB", (8, 9), RED)))
    assert picture.rgb.shape == (9, 8, 3)
    assert (picture.rgb == RED).all()


def test_the_first_of_several_pages_or_previews_is_read(tmp_path):
    pages = [Image.fromarray(smooth()), Image.new("RGB", (8, 8), RED)]
    picture = read_image(save(tmp_path / "a.tif", pages[0], save_all=True, append_images=pages[1:]))
    assert np.array_equal(picture.rgb, smooth())
    assert "2 pages" in picture.info["notes"][0]
    path = save(tmp_path / "a.jpg", pages[0], format="MPO", save_all=True, append_images=pages[1:])
    assert read_image(path).rgb.shape == (40, 50, 3)


@pytest.mark.parametrize(
    "options", [{"format": f} for f in ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF")], ids=str
)
def test_a_truncated_file_is_an_error_never_a_partial_picture(tmp_path, options):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    save(whole, Image.fromarray(smooth()), **options)
    data, rgb = whole.read_bytes(), read_image(whole).rgb
    for length in range(len(data) - 1, 0, -max(1, len(data) // 40)):
        cut.write_bytes(data[:length])
        try:
            picture = read_image(cut)
        except MediaError:
            continue
        assert len(data) - length < 24  # checksums and padding behind the pixels
        assert np.array_equal(picture.rgb, rgb)


def refuses(read, path):
    try:
        read(path)
    except MediaError:
        return True
    return False


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP"])
def test_checking_refuses_what_reading_refuses(tmp_path, image_format):
    save(tmp_path / "whole", Image.fromarray(smooth()), format=image_format)
    data = (tmp_path / "whole").read_bytes()
    for length in range(0, len(data) + 1, max(1, len(data) // 40)):
        (tmp_path / "cut").write_bytes(data[:length])
        assert refuses(check_image, tmp_path / "cut") == refuses(read_image, tmp_path / "cut")
    check_image(tmp_path / "whole")
    with pytest.raises(MediaError, match="too large"):
        check_image(tmp_path / "whole", max_pixels=1999)


def test_a_picture_beyond_the_memory_is_a_resource_error(tmp_path, monkeypatch):
    path = save(tmp_path / "a.png", Image.fromarray(smooth()))
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", _exhaust)
    with pytest.raises(ResourceError, match="not enough memory for this picture"):
        read_image(path)


def _exhaust(_image):
    raise MemoryError


def test_a_clip_is_told_apart_and_a_frame_is_offered(tmp_path):
    (tmp_path / "my clip.mp4").write_bytes(b"anything")
    with pytest.raises(MediaError, match="a video, not a picture") as caught:
        read_image(tmp_path / "my clip.mp4")
    source, frame = (f"'{tmp_path}/my clip.{suffix}'" for suffix in ("mp4", "png"))
    assert caught.value.hint == f"take a frame of it: ffmpeg -i {source} -frames:v 1 -update 1 {frame}"


def test_near_misses_of_a_missing_file_are_named(tmp_path):
    save(tmp_path / "photo.png", Image.fromarray(smooth()))
    with pytest.raises(MediaError, match="no such picture") as caught:
        read_image(tmp_path / "photo.jpg")
    assert caught.value.hint == "did you mean photo.png?"
    with pytest.raises(MediaError, match="cannot be read: File name too long"):
        read_image(tmp_path / f"{'a' * 300}.png")


def test_missing_folder_empty_and_text_files(tmp_path):
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("no picture")
    cases = {
        "none.png": "no such picture",
        ".": "a folder",
        "empty.png": "not a picture",
        "text.png": "not a picture",
    }
    for name, message in cases.items():
        with pytest.raises(MediaError, match=message):
            read_image(tmp_path / name)


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    path = save(tmp_path / "a.png", Image.fromarray(smooth()))
    monkeypatch.setattr("PIL.Image.open", _deny)
    with pytest.raises(MediaError, match="may not be read"):
        read_image(path)


def _deny(*_args, **_options):
    raise PermissionError(13, "Permission denied")


def test_a_huge_picture_is_refused_before_it_is_decoded(tmp_path):
    path = save(tmp_path / "a.png", Image.fromarray(smooth()))
    with pytest.raises(MediaError, match="too large") as caught:
        read_image(path, max_pixels=1999)
    assert "50x40 = 2,000 pixels" in caught.value.got
    assert read_image(path, max_pixels=2000).rgb.shape == (40, 50, 3)


@pytest.mark.parametrize("side", [13_000, 60_000])
def test_a_decompression_bomb_says_how_large_it_is(tmp_path, side):
    """A PNG of a few bytes that claims side x side pixels, below and above Pillow's own limit."""
    (tmp_path / "bomb.png").write_bytes(png((side, side, 8, 2), (b"IDAT", zlib.compress(b"\0" * 100))))
    with pytest.raises(MediaError, match="too large") as caught:
        read_image(tmp_path / "bomb.png")
    assert f"{side**2}" in caught.value.render().replace(",", "")


def test_damaged_bytes_never_pass_as_another_exception(tmp_path):
    rng = np.random.default_rng(3)
    for image_format in ("PNG", "GIF", "TIFF", "WEBP", "BMP", "JPEG"):
        stream = io.BytesIO()
        Image.fromarray(smooth()).save(stream, format=image_format)
        for _ in range(25):
            data = np.frombuffer(stream.getvalue(), np.uint8).copy()
            data[rng.integers(0, min(len(data), 200), 4)] = rng.integers(0, 256, 4)
            (tmp_path / "damaged").write_bytes(data.tobytes())
            try:
                read_image(tmp_path / "damaged")
            except MediaError as error:
                assert error.where == str(tmp_path / "damaged")


@pytest.mark.parametrize("suffix", ["jfif", "jpe", "mpo", "avif", "apng"])
def test_less_usual_suffixes(tmp_path, suffix):
    image, kind = Image.fromarray(smooth()), {"avif": "AVIF", "apng": "PNG"}.get(suffix, "JPEG")
    path = tmp_path / f"a.{suffix}"
    image.save(path, kind, quality=95)
    check_image(path)
    picture = read_image(path)
    assert picture.info["format"] == kind and np.abs(picture.rgb.astype(int) - smooth()).mean() < 4


def test_heic_with_its_package(tmp_path):
    heif = pytest.importorskip("pillow_heif")
    heif.from_pillow(Image.fromarray(smooth())).save(tmp_path / "a.heic", quality=95)
    check_image(tmp_path / "a.heic")
    assert np.abs(read_image(tmp_path / "a.heic").rgb.astype(int) - smooth()).mean() < 4


def test_heic_without_its_package_says_what_to_type(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic")
    with pytest.raises(MediaError, match="need pillow-heif: pip install") as raised:
        read_image(tmp_path / "a.heic")
    assert raised.value.exit_code == 5
