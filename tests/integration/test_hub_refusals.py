"""What `stdcli hub` refuses: tokens, gates, names, contents; with one clear message, and nothing done."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.hub_client import HubClient
from tests.hub_server import SIGNATURE, HubServer
from tests.tiny_shares import LORA, weights, write, write_run, write_student

WRONG = "hf_a-wrong-token-9876543210"


def cached(client: HubClient) -> list[Path]:
    """Files whose content the client keeps."""
    return [path for path in client.home.glob("hub/*/blobs/*") if path.is_file()]


def test_a_wrong_token(hub: HubServer, client: HubClient, tmp_path: Path) -> None:
    hub.put("me/s", {LORA: weights()})
    client.login(WRONG)
    for argv in (("push", write_student(tmp_path / "s"), "me/new"), ("pull", "me/s", "-o", tmp_path / "b")):
        ran = client(*argv, "--debug")
        assert ran.code == 6 and "error: the Hub does not accept your token\n" in ran.err
        assert "hint: hf auth login --force" in ran.err
        assert WRONG not in ran.out + ran.err
    assert list(hub.repos) == [("models", "me/s")] and not (tmp_path / "b").exists()
    assert WRONG not in (client.home.parent / "stderr.txt").read_text()


def test_nobody_logged_in(hub: HubServer, client: HubClient, tmp_path: Path) -> None:
    repo = hub.put("o/open", {LORA: weights()})
    hub.put("o/closed", {LORA: weights()}, private=True)
    client.login(None)
    ran = client("push", write_student(tmp_path / "s"), "me/s")
    assert (ran.code, ran.out) == (6, "") and hub.log == []
    assert ran.err == "error: nobody is logged in to the Hub\n  at: me/s\n  hint: hf auth login\n"
    assert client("pull", "o/open", "-o", tmp_path / "open").code == 0
    assert (tmp_path / "open" / LORA).read_bytes() == repo.files[LORA]
    ran = client("pull", "o/closed", "-o", tmp_path / "closed")
    assert ran.code == 6 and "no such model or dataset on the Hub" in ran.err and "hf auth login" in ran.err


def test_someone_elses_repository(hub: HubServer, client: HubClient, tmp_path: Path) -> None:
    student = write_student(tmp_path / "s")
    hub.put("them/s", {"README.md": b"x"})
    for name in ("them/s", "them/new"):
        ran = client("push", student, name)
        assert ran.code == 6 and "error: the Hub does not let you do this\n" in ran.err
        assert "don't have the rights" in ran.err
    assert hub.received == [] and list(hub.repos) == [("models", "them/s")]


def test_a_gated_model(hub: HubServer, client: HubClient, tmp_path: Path) -> None:
    hub.put("o/gated", {LORA: weights()}, gated=True)
    ran = client("pull", "o/gated", "-o", tmp_path / "b")
    assert ran.code == 6 and "this model is gated: its owner must let you in" in ran.err
    assert "accept its licence on https://huggingface.co/o/gated" in ran.err
    assert not (tmp_path / "b").exists() and cached(client) == []


def test_a_missing_revision(hub: HubServer, client: HubClient, tmp_path: Path) -> None:
    hub.put("o/s", {LORA: weights()})
    ran = client("pull", "o/s@v9", "-o", tmp_path / "b")
    assert ran.code == 6 and "no such revision of this model\n  at: o/s@v9\n" in ran.err
    assert not (tmp_path / "b").exists()


def test_a_missing_repository(hub: HubServer, client: HubClient, tmp_path: Path) -> None:
    ran = client("pull", "o/nothing", "-o", tmp_path / "b")
    assert ran.code == 6 and "no such model or dataset on the Hub\n  at: o/nothing\n" in ran.err
    assert hub.asked("GET", "/revision/") == [
        "/api/models/o/nothing/revision/main",
        "/api/datasets/o/nothing/revision/main",
    ]


@pytest.mark.parametrize("busy", ["/revision/", "/resolve/"])
def test_a_rate_limit_that_stays(hub: HubServer, client: HubClient, tmp_path: Path, busy: str) -> None:
    hub.put("o/s", {LORA: weights()})
    hub.faults.busy = {busy: 99}
    ran = client("pull", "o/s", "-o", tmp_path / "b")
    assert ran.code == 6 and "the Hub asks for fewer requests" in ran.err


ODD = {
    "not UTF-8": (b'{"sha": "\xff\xfe"}', "UnicodeDecodeError"),
    "a page": (b"<html>please sign in</html>", "JSONDecodeError"),
    "nothing": (b"", "JSONDecodeError"),
    "another kind": (b"[3]", ""),
    "nested": (b"[" * 200_000, "RecursionError"),
}


@pytest.mark.parametrize("odd", ODD)
def test_answers_that_cannot_be_read(hub: HubServer, client: HubClient, tmp_path: Path, odd: str) -> None:
    """Those to every request of a pull, and of a push where the client asks in another way."""
    answer, kind = ODD[odd]
    asked = dict.fromkeys(("/revision/", "/tree/"), ("pull", "me/s", "-o", tmp_path / "b"))
    if odd in ("not UTF-8", "another kind"):
        requests = ("whoami", "/create", "validate", "/preupload/", "/batch", "/commit/")
        asked |= dict.fromkeys(requests, ("push", write_student(tmp_path / "s"), "me/new"))
    elif odd == "nested":
        asked["/preupload/"] = ("push", write_student(tmp_path / "s"), "me/new")
    for part, argv in asked.items():
        hub.repos.clear()
        hub.objects.clear()
        hub.put("me/s", {LORA: weights(), "notes": odd.encode()})
        hub.faults.answers = {part: answer}
        ran = client(*argv)
        assert ran.code == 6, (part, ran.err)
        assert ran.err.startswith("error: an answer of the Hub cannot be read\n  at: me/"), (part, ran.err)
        assert f"got {kind}" in ran.err, (part, ran.err)
    assert not (tmp_path / "b").exists()


def test_sizes_that_are_none(hub: HubServer, client: HubClient, tmp_path: Path) -> None:
    hub.put("me/s", {LORA: weights(), "notes": b"sizes"})
    for size in ('"9"', "null", "9.5", "true"):
        row = f'[{{"type": "file", "path": "{LORA}", "size": {size}, "oid": "aa"}}]'
        hub.faults.answers = {"/tree/": row.encode()}
        ran = client("pull", "me/s", "-o", tmp_path / "b")
        assert ran.code == 6 and "an answer of the Hub cannot be read" in ran.err, (size, ran.err)


@pytest.mark.parametrize(
    "name",
    [
        "../outside.safetensors",
        "unet/../../outside.json",
        "/etc/outside.json",
        "..\\outside.safetensors",
        "C:/outside.safetensors",
        "a//b.safetensors",
        ".git/hooks/x.safetensors",
    ],
)
def test_names_that_escape(hub: HubServer, client: HubClient, tmp_path: Path, name: str) -> None:
    hub.put("o/s", {LORA: weights(), name: b"{}"})
    ran = client("pull", "o/s", "-o", tmp_path / "in" / "b")
    assert ran.code == 6 and "a file of this repository would escape its folder" in ran.err
    assert f"got {name!r}" in ran.err
    assert hub.sent == {} and cached(client) == [] and list(tmp_path.iterdir()) == []


def test_pickles_are_left_out(hub: HubServer, client: HubClient, tmp_path: Path) -> None:
    pickles = {"pytorch_lora_weights.bin": b"p", "unet/diffusion_pytorch_model.bin": b"p", "x.ckpt": b"p"}
    hub.put("o/s", {LORA: weights(), "run.py": b"import os", **pickles})
    ran = client("pull", "o/s", "-o", tmp_path / "b")
    assert ran.code == 0
    assert ran.err == f"warning: left out, because pickle files can run any code: {', '.join(pickles)}\n"
    assert [p.name for p in (tmp_path / "b").rglob("*")] == [LORA] and hub.sent.keys() == {LORA}


def test_nothing_but_pickles(hub: HubServer, client: HubClient, tmp_path: Path) -> None:
    hub.put("o/s", {"pytorch_lora_weights.bin": b"p", "config.json": b"{}"})
    ran = client("pull", "o/s", "-o", tmp_path / "b")
    assert ran.code == 4 and "only pickle files, which are never fetched" in ran.err
    assert "got pytorch_lora_weights.bin" in ran.err and hub.sent == {}


def test_a_pickle_under_another_name(hub: HubServer, client: HubClient, tmp_path: Path) -> None:
    hub.put("o/s", {LORA: b"\x80\x04cposix\nsystem\n" + b"." * 200})
    ran = client("pull", "o/s", "-o", tmp_path / "b")
    assert ran.code == 4 and "this file is not what its name says: no safetensors" in ran.err
    assert list(tmp_path.iterdir()) == []


def test_a_file_larger_than_announced(hub: HubServer, client: HubClient, tmp_path: Path) -> None:
    """By what comes behind its end, and by another file in its place, as far as it is read at all."""
    for name in ("o/behind", "o/other", "o/huge"):
        hub.put(name, {LORA: weights(), "recipe.json": b"{}"})
    hub.faults.extra = {LORA: b"x" * 50}
    ran = client("pull", "o/behind", "-o", tmp_path / "b")
    assert ran.code == 6 and "a file is not of the size that was announced" in ran.err
    hub.faults.extra, hub.faults.swapped = {}, {"recipe.json": b"{" + b" " * 500 + b"}"}
    ran = client("pull", "o/other", "-o", tmp_path / "b")
    assert ran.code == 6 and "a file of this repository is larger than was announced" in ran.err
    assert "at: o/other@" in ran.err and "got 502 bytes, expected 2 bytes" in ran.err
    assert [p.name for p in client.home.glob("hub/*other/snapshots/*/*")] == [LORA]
    hub.faults.swapped = {"recipe.json": b"{" + b" " * 3_000_000 + b"}"}
    ran = client("pull", "o/huge", "-o", tmp_path / "b")
    assert ran.code == 6 and "larger than was announced; the download was stopped" in ran.err
    assert list(tmp_path.iterdir()) == []
    assert max(path.stat().st_size for path in cached(client)) == len(weights())


def test_other_content_than_announced(hub: HubServer, client: HubClient, tmp_path: Path) -> None:
    """Of the same size, by `pull` and by what `stylize --student` fetches."""
    for number, (file, other) in enumerate(((LORA, weights(seed=1)), ("recipe.json", b'{"steps": 9}'))):
        hub.put(f"o/s{number}", {LORA: weights(), "recipe.json": b'{"steps": 4}'})
        hub.faults.swapped = {file: other}
        ran = client("pull", f"o/s{number}", "-o", tmp_path / "b")
        assert ran.code == 6 and "a file of this repository is not what was announced" in ran.err
        assert f" {file}\n  got other content of the same size" in ran.err
        assert list(client.home.glob(f"hub/*s{number}/snapshots/*/{file}")) == []
    assert list(tmp_path.iterdir()) == []


def test_what_a_name_of_a_model_or_student_fetches_is_checked_too(hub: HubServer, client: HubClient) -> None:
    hub.put("o/s", {LORA: weights(), "recipe.json": b"{}"})
    for swapped, message in ((weights(seed=1), "is not what"), (weights(num_bytes=9000), "is larger than")):
        hub.faults.swapped = {LORA: swapped}
        with pytest.raises(LookupError, match=f"a file of this repository {message} was announced"):
            client.locate("student", "o/s")
        assert not list(client.home.glob(f"hub/*/snapshots/*/{LORA}"))
    hub.put("o/escape", {LORA: weights(), "unet/../../x.safetensors": weights()})
    with pytest.raises(LookupError, match="would escape its folder"):
        client.locate("student", "o/escape")
    hub.faults.swapped = {}
    assert (client.locate("student", "o/s") / LORA).read_bytes() == weights()


def test_a_signed_link_is_not_shown(hub: HubServer, client: HubClient, tmp_path: Path) -> None:
    hub.put("o/s", {LORA: weights()})
    hub.faults.broken = "/cdn/"
    ran = client("pull", "o/s", "-o", tmp_path / "b")
    assert ran.code == 6 and "error: the Hub failed" in ran.err and "/cdn/" in ran.err
    assert SIGNATURE not in ran.out + ran.err


def test_paths_of_this_machine_stay_here(hub: HubServer, client: HubClient, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", base=str(tmp_path / "teacher"))
    ran = client("push", run, "me/s")
    assert ran.code == 2 and "--base-model" in ran.err
    assert client("push", run, "me/s", "--base-model", "o/base").code == 0
    sent = b"".join(hub.repos["models", "me/s"].files.values())
    assert str(tmp_path).encode() not in sent and b'"base": "o/base"' in sent

    hub.received.clear()
    noted = weights(metadata={"ss_sd_model_name": str(tmp_path / "teacher.safetensors")})
    student = write(write_student(tmp_path / "noted"), {LORA: noted})
    ran = client("push", student, "me/noted")
    assert ran.code == 4 and "this names a path of this machine; nothing was sent" in ran.err
    assert f"got {tmp_path}" in ran.err
    student = write(write_student(tmp_path / "page"), {"README.md": f"Trained on {tmp_path}/photos.\n"})
    assert client("push", student, "me/page").code == 4
    assert hub.received == [] and ("models", "me/page") not in hub.repos


def test_nothing_to_share(hub: HubServer, client: HubClient, tmp_path: Path) -> None:
    student = write_student(tmp_path / "s")
    early = write(tmp_path / "early", {"run.json": {}})
    cases = {
        (tmp_path / "nowhere", "me/s"): (4, "not a folder"),
        (tmp_path, "me/s"): (4, "nothing here that can be shared"),
        (early, "me/s"): (4, "this run has nothing to share yet"),
        (student, "no-owner"): (2, "REPO: 'no-owner' is no OWNER/NAME"),
        (student, "me/s@v1"): (2, "a student goes to a model repository"),
        (student, "datasets/me/s"): (2, "a student goes to a model repository"),
        (student, "me/s--x..y"): (6, "not a name of a repository"),
    }
    for argv, (code, message) in cases.items():
        ran = client("push", *argv)
        assert ran.code == code and message in ran.err, ran.err
    assert client("push", student, "me/s", "--offline").code == 2
    assert hub.repos == {}


def test_a_change_by_somebody_else_meanwhile(hub: HubServer, client: HubClient, tmp_path: Path) -> None:
    """The commit names the one it was compared with; another in between makes the Hub refuse it."""
    student = write_student(tmp_path / "s")
    client("push", student, "me/s")
    repo = hub.repos["models", "me/s"]
    write(student, {LORA: weights(seed=8)})
    hub.meanwhile = lambda: repo.commit(repo.files | {"new.md": b"theirs"})
    ran = client("push", student, "me/s")
    assert ran.code == 6 and "somebody changed this repository meanwhile" in ran.err
    assert repo.files[LORA] == weights() and repo.files["new.md"] == b"theirs"
