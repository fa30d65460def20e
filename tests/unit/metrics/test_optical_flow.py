"""Flows: the file format to the byte, folders of files, and OpenCV's on known motion."""

import shutil
import struct
import sys

import numpy as np
import pytest

from stdcli.errors import MediaError, ResourceError
from stdcli.metrics.metric import NotMeasurable
from stdcli.metrics.optical_flow import dis_flows, folder_flows, read_flo, write_flo
from stdcli.metrics.warping import WarpProtocol, warping_error
from tests.tiny_subjects import noise, smooth

FLOW = np.array([[[1, -2], [0.5, 3e9]], [[0, 0], [-7.25, 8]], [[1, 1], [2, 2]]], np.float32)  # 2 wide, 3 high
BYTES = struct.pack("<fii12f", 202021.25, 2, 3, 1, -2, 0.5, 3e9, 0, 0, -7.25, 8, 1, 1, 2, 2)


def write_clip(folder, count=3, size=(3, 2)):
    """Flows of a clip of `count` + 1 frames; returns forward and backward."""
    rng = np.random.default_rng(0)
    flows = rng.normal(size=(2, count, *size, 2)).astype(np.float32)
    for direction, some in zip(("forward", "backward"), flows, strict=True):
        for i, flow in enumerate(some):
            write_flo(folder / direction / f"{i:05d}.flo", flow)
    return flows


def test_a_flow_is_written_to_the_byte_and_read_back(tmp_path):
    path = tmp_path / "new" / "a.flo"
    write_flo(path, FLOW)
    assert path.read_bytes() == BYTES
    assert BYTES[:4] == b"PIEH"
    np.testing.assert_array_equal(read_flo(path), FLOW)
    assert read_flo(path).dtype == np.float32


def test_opencv_reads_and_writes_the_same(tmp_path):
    cv2 = pytest.importorskip("cv2")
    write_flo(tmp_path / "ours.flo", FLOW)
    np.testing.assert_array_equal(cv2.readOpticalFlow(str(tmp_path / "ours.flo")), FLOW)
    cv2.writeOpticalFlow(str(tmp_path / "theirs.flo"), FLOW)
    np.testing.assert_array_equal(read_flo(tmp_path / "theirs.flo"), FLOW)


def test_cut_and_long_files_are_refused(tmp_path):
    path = tmp_path / "a.flo"
    for data in [BYTES[:length] for length in range(len(BYTES))] + [BYTES + b"\0"]:
        path.write_bytes(data)
        with pytest.raises(MediaError, match=r"\.flo") as caught:
            read_flo(path)
        assert caught.value.where == str(path)


@pytest.mark.parametrize("size", [(0, 3), (-2, 3), (2, -3), (2, 0), (100_000, 1), (2**31 - 1, 2**31 - 1)])
def test_impossible_sizes_are_refused(tmp_path, size):
    (tmp_path / "a.flo").write_bytes(BYTES[:4] + struct.pack("<ii", *size) + BYTES[12:])
    with pytest.raises(MediaError, match="impossible size"):
        read_flo(tmp_path / "a.flo")


def test_other_files_are_refused(tmp_path):
    (tmp_path / "a.flo").write_bytes(struct.pack(">f", 202021.25) + BYTES[4:])
    with pytest.raises(MediaError, match=r"not a \.flo file"):
        read_flo(tmp_path / "a.flo")
    with pytest.raises(MediaError, match="cannot read"):
        read_flo(tmp_path / "none.flo")


def test_only_flows_are_written(tmp_path):
    for shape in [(3, 2), (3, 2, 3), (0, 2, 2)]:
        with pytest.raises(ValueError, match="expected a flow"):
            write_flo(tmp_path / "a.flo", np.zeros(shape))
    (tmp_path / "file").touch()
    with pytest.raises(MediaError, match="cannot write"):
        write_flo(tmp_path / "file" / "a.flo", FLOW)


def test_a_folder_gives_both_ways_in_order(tmp_path):
    forward, backward = write_clip(tmp_path)
    flows = folder_flows(tmp_path, 4, (3, 2))
    np.testing.assert_array_equal(flows.forward, forward)
    np.testing.assert_array_equal(flows.backward, backward)


def test_the_method_of_a_folder_is_what_it_holds(tmp_path):
    write_clip(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    methods = [folder_flows(tmp_path / name, 4, (3, 2)).method for name in ("one", "two")]
    assert methods[0] == methods[1]
    assert methods[0].startswith("files sha256:")
    write_flo(tmp_path / "two" / "backward" / "00002.flo", np.zeros((3, 2, 2)))
    assert folder_flows(tmp_path / "two", 4, (3, 2)).method != methods[0]


def test_a_clip_of_one_frame_has_no_flows(tmp_path):
    assert folder_flows(tmp_path, 1, (3, 2)).forward.shape == (0, 3, 2, 2)


@pytest.mark.parametrize("num_frames", [3, 5, 1])
def test_folders_of_another_count_are_refused(tmp_path, num_frames):
    write_clip(tmp_path)
    with pytest.raises(MediaError, match="do not fit") as caught:
        folder_flows(tmp_path, num_frames, (3, 2))
    assert caught.value.got == "3 .flo files"
    assert caught.value.expected.startswith(f"{num_frames - 1}, ")


def test_a_gap_in_the_numbers_is_named(tmp_path):
    write_clip(tmp_path)
    (tmp_path / "backward" / "00001.flo").rename(tmp_path / "backward" / "00009.flo")
    with pytest.raises(MediaError, match=r"00001\.flo is missing") as caught:
        folder_flows(tmp_path, 4, (3, 2))
    assert caught.value.where == str(tmp_path / "backward")
    with pytest.raises(MediaError, match=r"00000\.flo is missing"):
        folder_flows(tmp_path / "nowhere", 4, (3, 2))


def test_flows_of_another_size_are_refused(tmp_path):
    write_clip(tmp_path)
    with pytest.raises(MediaError, match="another size") as caught:
        folder_flows(tmp_path, 4, (2, 3))
    assert (caught.value.got, caught.value.expected) == ("2x3", "3x2")


def test_a_damaged_file_of_a_folder_is_named(tmp_path):
    write_clip(tmp_path)
    path = tmp_path / "backward" / "00002.flo"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(MediaError, match="damaged") as caught:
        folder_flows(tmp_path, 4, (3, 2))
    assert caught.value.where == str(path)


@pytest.mark.parametrize("motion", [(2.0, 0.0), (1.5, -0.75), (-3.0, 2.25)])
def test_dis_finds_known_motion(motion):
    pytest.importorskip("cv2")
    frames = np.stack([smooth(3, 96, 128, shift=(i * motion[0], i * motion[1])) for i in range(3)])
    flows = dis_flows(frames)
    assert flows.forward.shape == flows.backward.shape == (2, 96, 128, 2)
    assert flows.forward.dtype == np.float32
    inner = (slice(None), slice(16, -16), slice(16, -16))
    assert np.abs(flows.forward[inner] - motion).mean((0, 1, 2)).max() < 0.1
    assert np.abs(flows.backward[inner] + motion).mean((0, 1, 2)).max() < 0.1


def test_dis_of_pictures_at_rest_is_nothing_and_the_same_each_time():
    pytest.importorskip("cv2")
    clip = np.stack([noise(0, 64, 64)] * 2)
    assert np.abs(dis_flows(clip).forward).max() < 1e-3
    moving = np.stack([noise(0, 64, 64), noise(1, 64, 64)])
    np.testing.assert_array_equal(dis_flows(moving).forward, dis_flows(moving).forward)


def test_dis_serves_the_default_protocol():
    pytest.importorskip("cv2")
    source = np.stack([smooth(3, 96, 128, shift=(2 * i, i)) for i in range(3)])
    flows = dis_flows(source)
    floor = warping_error(source, flows, WarpProtocol())
    fresh = np.stack([noise(i, 96, 128) // 4 + frame // 2 for i, frame in enumerate(source)])
    assert floor < 0.02 < 0.1 < warping_error(fresh, flows, WarpProtocol())


def test_dis_needs_some_pixels():
    pytest.importorskip("cv2")
    with pytest.raises(NotMeasurable, match="16 px"):
        dis_flows(np.stack([noise(0, 15, 40)] * 2))
    assert dis_flows(np.stack([noise(0, 16, 400)] * 2)).forward.shape == (1, 16, 400, 2)
    assert dis_flows(noise(0)[None]).backward.shape == (0, 48, 64, 2)


def test_what_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ResourceError, match="OpenCV") as caught:
        dis_flows(np.stack([noise(0)] * 2))
    assert caught.value.hint == "pip install 'stdcli[eval]'"
