"""`stdcli hub push` and `pull` by the Hub's real client against a real server on this machine."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

from tests.hub_client import HubClient
from tests.hub_server import PART_BYTES, TOKEN, HubServer
from tests.tiny_banks import MANIFEST, changed, write_tiny_bank
from tests.tiny_shares import LORA, weights, write, write_model, write_picture, write_run, write_student

CHUNK_BYTES = 10 * 2**20  # what the client keeps of a download that breaks off, it keeps in such pieces


def files(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def git(hub: HubServer, repo: str, kind: str = "models") -> dict[str, bytes]:
    """The files of a repository but the Hub's own."""
    return {k: v for k, v in hub.repos[kind, repo].files.items() if k != ".gitattributes"}


def test_a_student_there_and_back(hub: HubServer, client: HubClient, tmp_path: Path) -> None:
    student = write_student(tmp_path / "student")
    ran = client("push", student, "me/student", "--json")
    assert (ran.code, ran.data["sent"]) == (0, [LORA, "recipe.json", "README.md"])
    assert ran.data["path"] == f"{hub.url}/me/student"
    there = git(hub, "me/student")
    assert {name: there[name] for name in files(student)} == files(student)
    assert hub.repos["models", "me/student"].private
    assert hub.repos["models", "me/student"].messages[-1] == "Upload with stdcli hub push"
    ran = client("pull", "me/student", "-o", tmp_path / "back")
    assert ran.code == 0, ran.err
    assert files(tmp_path / "back") == there
    size = sum(map(len, there.values()))
    assert ran.out == f"{tmp_path / 'back'}: a student, 3 files, {size} bytes\n"


def test_a_second_push_sends_what_differs(hub: HubServer, client: HubClient, tmp_path: Path) -> None:
    student = write_student(tmp_path / "student")
    assert client("push", student, "me/s").code == 0
    commit = hub.repos["models", "me/s"].branches["main"]
    hub.forget()
    ran = client("push", student, "me/s", "--json")
    assert (ran.code, ran.data["sent"], ran.data["commit"]) == (0, [], commit)
    assert hub.received == [] and hub.asked("POST", "/commit/") == []
    assert client("push", student, "me/s").out == f"{hub.url}/me/s: nothing to send\n"

    changed = weights(seed=5)
    (student / LORA).write_bytes(changed)
    ran = client("push", student, "me/s", "--json")
    assert (ran.data["sent"], ran.data["bytes"]) == ([LORA], len(changed))
    assert ran.data["same"] == ["recipe.json", "README.md"]
    assert hub.received == [hashlib.sha256(changed).hexdigest(), f"lfsFile {LORA}"]
    assert git(hub, "me/s")[LORA] == changed


def test_a_dry_run_sends_nothing_and_tells_sizes(hub: HubServer, client: HubClient, tmp_path: Path) -> None:
    student = write_student(tmp_path / "student")
    size = (student / LORA).stat().st_size
    ran = client("push", student, "me/s", "--dry-run", "--json")
    rows = {row["file"]: (row["bytes"], row["state"]) for row in ran.data["rows"]}
    assert rows.keys() == {LORA, "recipe.json", "README.md"} and rows[LORA] == (size, "new")
    assert ran.data["bytes"] == sum(row["bytes"] for row in ran.data["rows"]) and ran.data["is_new"]
    assert "stdcli stylize photo.jpg" in ran.data["card"]
    assert {method for method, _, _ in hub.log} == {"GET"} and not hub.repos

    client("push", student, "me/s")
    (student / LORA).write_bytes(weights(seed=5, num_bytes=70))
    hub.forget()
    ran = client("push", student, "me/s", "--dry-run", "--json")
    states = {row["file"]: row["state"] for row in ran.data["rows"]}
    assert states == {LORA: "changed", "recipe.json": "same", "README.md": "same"}
    assert ran.data["bytes"] == (student / LORA).stat().st_size
    assert {method for method, _, _ in hub.log} == {"GET"}
    hub.forget()
    assert client("push", student, "me/s", "--dry-run", "--offline").code == 0 and hub.log == []


def test_only_what_belongs_to_a_student_leaves_a_run(
    hub: HubServer, client: HubClient, tmp_path: Path
) -> None:
    run = write_run(tmp_path / "run")
    assert client("push", run, "me/s", "--public").code == 0
    there = git(hub, "me/s")
    assert there.keys() == {LORA, "recipe.json", "README.md", "samples/step-000800.png"}
    assert not hub.repos["models", "me/s"].private
    assert str(tmp_path).encode() not in b"".join(there.values())
    with Image.open(io.BytesIO(there["samples/step-000800.png"])) as sample:
        assert (np.array(sample) == 200).all() and sample.info == {}
    card = there["README.md"].decode()
    assert "| steps | 800 |" in card and f"| bank | {'cd' * 32} |" in card
    assert "![samples/step-000800.png](samples/step-000800.png)" in card


def test_what_an_earlier_push_left_goes(hub: HubServer, client: HubClient, tmp_path: Path) -> None:
    """A LoRA that stayed beside new full weights would be taken for the student."""
    write_picture(tmp_path / "a.png")
    assert client("push", write_student(tmp_path / "s"), "me/s", "--sample", tmp_path / "a.png").code == 0
    repo = hub.repos["models", "me/s"]
    repo.commit(repo.files | {"my-notes.md": b"kept"})
    unet = {"unet/config.json": {}, "unet/diffusion_pytorch_model.safetensors": weights()}
    ran = client("push", write(tmp_path / "full", unet), "me/s", "--base-model", "o/base", "--json")
    assert ran.data["deleted"] == [LORA, "recipe.json", "samples/a.png"]
    assert git(hub, "me/s").keys() == {*unet, "README.md", "my-notes.md"}


def test_a_page_edited_by_hand_stays(hub: HubServer, client: HubClient, tmp_path: Path) -> None:
    student = write_student(tmp_path / "s")
    client("push", student, "me/s")
    repo = hub.repos["models", "me/s"]
    repo.commit(repo.files | {"README.md": b"# Mine\n"})
    (student / LORA).write_bytes(weights(seed=3))
    ran = client("push", student, "me/s")
    assert (ran.code, ran.err) == (0, "warning: the page there was edited by hand and stays as it is\n")
    assert repo.files["README.md"] == b"# Mine\n" and repo.files[LORA] == weights(seed=3)
    write(student, {"README.md": "# Beside the files\n"})
    assert client("push", student, "me/s").code == 0
    assert repo.files["README.md"] == b"# Beside the files\n"


def test_a_page_that_was_pulled_is_written_anew(hub: HubServer, client: HubClient, tmp_path: Path) -> None:
    """It bears our mark; what was pulled with it goes along, and a page edited on the Hub stays."""
    picture = write_picture(tmp_path / "a b.png")
    client("push", write_student(tmp_path / "s"), "me/s", "--sample", picture)
    back = tmp_path / "back"
    assert client("pull", "me/s", "-o", back).code == 0
    ran = client("push", back, "me/other", "--license", "mit")
    assert (ran.code, ran.err) == (0, "")
    there = git(hub, "me/other")
    page = there["README.md"].decode()
    assert "license: mit\n" in page and "--student me/other\n" in page and "me/s" not in page
    assert "(samples/a%20b.png)" in page and "samples/a b.png" in there
    repo = hub.repos["models", "me/other"]
    repo.commit(repo.files | {"README.md": b"# Mine\n"})
    ran = client("push", back, "me/other")
    assert ran.err == "warning: the page there was edited by hand and stays as it is\n"
    assert git(hub, "me/other") == there | {"README.md": b"# Mine\n"}


def test_a_page_of_ones_own_leaves_options_idle(hub: HubServer, client: HubClient, tmp_path: Path) -> None:
    student = write(write_student(tmp_path / "s"), {"README.md": "# Mine\n"})
    assert client("push", student, "me/s").err == ""
    ran = client("push", student, "me/s", "--license", "mit", "--base-model", "o/base")
    assert ran.code == 0 and git(hub, "me/s")["README.md"] == b"# Mine\n"
    said = "the page is your own README.md, which is sent without what --base-model, --license says"
    assert ran.err == f"warning: {said}\n"


def test_a_model_there_and_back(hub: HubServer, client: HubClient, tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    assert client("push", model, "me/m", "--license", "mit").code == 0
    there = git(hub, "me/m")
    assert set(files(model)) - set(there) == {
        "unet/diffusion_pytorch_model.bin",
        "checkpoints/step-000100.safetensors",
    }
    assert not any(b"_name_or_path" in content for content in there.values())
    assert "license: mit\n" in there["README.md"].decode()
    assert client("pull", "me/m", "-o", tmp_path / "back").code == 0
    half = "unet/diffusion_pytorch_model.fp16.safetensors"
    assert files(tmp_path / "back") == {name: content for name, content in there.items() if name != half}
    assert (
        client.locate("model", "me/m")
        == client.home / "hub/models--me--m/snapshots" / (hub.repos["models", "me/m"].branches["main"])
    )


def test_a_bank_there_and_back(hub: HubServer, client: HubClient, tmp_path: Path) -> None:
    """As a dataset; without the settings of its build, which hold paths."""
    manifest = changed(model=MANIFEST.model | {"name": str(tmp_path / "teacher")})
    bank = write_tiny_bank(tmp_path / "bank", manifest).root
    write(bank, {"run.json": {"config": {"data": [str(tmp_path)]}}, "locks/plan.lock": ""})
    ran = client("push", bank, "me/bank")
    assert ran.code == 2 and f"--base-model: {tmp_path / 'teacher'} is no OWNER/NAME" in ran.err
    ran = client("push", bank, "me/bank", "--base-model", "o/base")
    assert ran.code == 0, ran.err
    there = git(hub, "me/bank", "datasets")
    own = files(bank)
    assert own.keys() - there.keys() == {"run.json", "locks/plan.lock"}
    assert json.loads(there["manifest.json"])["model"]["name"] == "o/base"
    made = {"manifest.json", "README.md"}
    assert {name: own[name] for name in there.keys() - made} == {n: there[n] for n in there.keys() - made}
    for number, name in enumerate(("datasets/me/bank", "me/bank")):
        ran = client("pull", name, "-o", tmp_path / f"back{number}")
        assert ran.code == 0, ran.err
        assert files(tmp_path / f"back{number}") == there


def test_banks_that_are_not_whole(hub: HubServer, client: HubClient, tmp_path: Path) -> None:
    half = write_tiny_bank(tmp_path / "half", shards=[0]).root
    ran = client("push", half, "me/b", "--base-model", "o/base")
    assert ran.code == 3 and "this bank is not complete" in ran.err
    bank = write_tiny_bank(tmp_path / "torn", changed(num_paths=3)).root
    shard = bank / "shards/shard-00000.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1] + b"!")
    ran = client("push", bank, "me/b", "--base-model", "o/base")
    assert ran.code == 3 and "a shard is not as it was written" in ran.err
    assert hub.repos == {}


def test_revisions(hub: HubServer, client: HubClient, tmp_path: Path) -> None:
    client("push", write_student(tmp_path / "one", seed=1), "me/s")
    repo = hub.repos["models", "me/s"]
    first = repo.branches["v1"] = repo.branches["main"]
    client("push", write_student(tmp_path / "two", seed=2), "me/s")
    wanted = {"me/s@v1": 1, f"me/s@{first}": 1, "me/s@main": 2, "me/s": 2}
    for name, seed in wanted.items():
        out = tmp_path / f"back-{len(name)}"
        assert client("pull", name, "-o", out).code == 0
        assert (out / LORA).read_bytes() == weights(seed=seed), name
        assert (client.locate("student", name) / LORA).read_bytes() == weights(seed=seed), name
    hub.log.clear()
    assert client.locate("student", "me/s@v1", offline=True).name == first
    assert hub.log == []


def test_a_pull_request_leaves_the_branch_alone(hub: HubServer, client: HubClient, tmp_path: Path) -> None:
    mine = write_student(tmp_path / "s")
    ran = client("push", mine, "them/s", "--create-pr")
    assert ran.code == 6 and "a pull request needs a repository that is there" in ran.err
    repo = hub.put("them/s", {"README.md": b"# Theirs\n"})
    ran = client("push", mine, "them/s", "--create-pr", "-q")
    assert (ran.code, ran.out) == (0, f"{hub.url}/them/s/discussions/1\n")
    assert repo.files == {"README.md": b"# Theirs\n"}
    assert repo.commits[repo.branches["refs/pr/1"]][LORA] == weights()


def test_large_files_go_in_parts(hub: HubServer, client: HubClient, tmp_path: Path) -> None:
    large = weights(num_bytes=2 * PART_BYTES + 77)
    student = write(write_student(tmp_path / "s"), {LORA: large})
    hub.faults.busy = {"/preupload/": 1, "/lfs/": 2}
    ran = client("push", student, "me/s")
    assert ran.code == 0, ran.err
    oid = hashlib.sha256(large).hexdigest()
    assert len(hub.asked("PUT", f"/lfs/{oid}/")) >= 3
    assert git(hub, "me/s")[LORA] == large
    assert hub.faults.busy == {"/preupload/": 0, "/lfs/": 0}


def test_a_cut_download_goes_on_where_it_broke_off(hub: HubServer, client: HubClient, tmp_path: Path) -> None:
    large = weights(num_bytes=CHUNK_BYTES + 900_000)
    repo = hub.put("o/s", {LORA: large, "recipe.json": b"{}"})
    cut = CHUNK_BYTES + 500_000
    hub.faults.cut = {LORA: (cut, 1)}
    ran = client("pull", "o/s", "-o", tmp_path / "back")
    assert ran.code == 0, ran.err
    assert files(tmp_path / "back") == repo.files
    ranges = [headers.get("range") for verb, path, headers in hub.log if verb == "GET" and "/cdn/" in path]
    assert ranges == [None, f"bytes={CHUNK_BYTES}-"]
    assert hub.sent[LORA] == cut + len(large) - CHUNK_BYTES


def test_a_server_without_ranges_sends_all_again(hub: HubServer, client: HubClient, tmp_path: Path) -> None:
    repo = hub.put("o/s", {LORA: weights(num_bytes=CHUNK_BYTES + 900_000)})
    hub.faults.cut, hub.faults.no_ranges = {LORA: (CHUNK_BYTES + 5, 1)}, True
    assert client("pull", "o/s", "-o", tmp_path / "back").code == 0
    assert files(tmp_path / "back") == repo.files


def test_a_pull_that_fails_leaves_nothing_and_keeps_what_was_whole(
    hub: HubServer, client: HubClient, tmp_path: Path
) -> None:
    repo = hub.put("o/s", {LORA: weights(), "recipe.json": b'{"steps": 4}', "README.md": b"x" * 99})
    hub.faults.swapped = {"README.md": b"y" * 99}
    assert client("pull", "o/s", "-o", tmp_path / "back").code == 6
    assert sorted(tmp_path.iterdir()) == []
    sent = hub.sent[LORA]
    hub.faults.swapped = {}
    assert client("pull", "o/s", "-o", tmp_path / "back").code == 0
    assert files(tmp_path / "back") == repo.files and hub.sent[LORA] == sent


def test_rate_limits_are_waited_for(hub: HubServer, client: HubClient, tmp_path: Path) -> None:
    repo = hub.put("o/s", {LORA: weights()})
    hub.faults.busy = {"/cdn/": 2}
    assert client("pull", "o/s", "-o", tmp_path / "back").code == 0
    assert files(tmp_path / "back") == repo.files and len(hub.asked("GET", "/cdn/")) == 3


def test_long_lists_come_in_pages(hub: HubServer, client: HubClient, tmp_path: Path) -> None:
    repo = hub.put("o/m", files(write_model(tmp_path / "model")))
    hub.page = 2
    assert client("pull", "o/m", "-o", tmp_path / "back").code == 0
    assert len(files(tmp_path / "back")) == 6 and len(hub.asked("GET", "/tree/")) == len(repo.files) // 2 + 1


def test_offline(hub: HubServer, client: HubClient, tmp_path: Path) -> None:
    repo = hub.put("o/s", {LORA: weights(), "recipe.json": b"{}", "README.md": b"# S\n"})
    ran = client("pull", "o/s", "-o", tmp_path / "back", "--offline")
    assert ran.code == 6 and "not in the local Hub cache, and offline" in ran.err and hub.log == []
    client.locate("student", "o/s")  # as `stylize --student` does, without the page
    hub.log.clear()
    assert client("pull", "o/s", "-o", tmp_path / "back", "--offline").code == 0
    assert files(tmp_path / "back") == {k: v for k, v in repo.files.items() if k != "README.md"}
    assert hub.log == []


def test_half_of_a_repository_in_the_cache_is_not_all(
    hub: HubServer, client: HubClient, tmp_path: Path
) -> None:
    """A name of a student fetches no files for other programs, a model's in half precision not the plain."""
    extra = "comfyui/s.safetensors"
    hub.put("o/s", {LORA: weights(), "recipe.json": b"{}", extra: weights(seed=1)})
    client.locate("student", "o/s")
    model = files(write_model(tmp_path / "model"))
    hub.put("o/m", model)
    assert client("pull", "o/m", "-o", tmp_path / "m").code == 0
    assert client("pull", "o/m", "-o", tmp_path / "again", "--offline").code == 0, "half precision is unused"
    plain = "unet/diffusion_pytorch_model.safetensors"
    next(client.home.glob(f"hub/*--o--m/snapshots/*/{plain}")).unlink()
    for name, missing in (("o/s", extra), ("o/m", plain)):
        ran = client("pull", name, "-o", tmp_path / "back", "--offline")
        assert ran.code == 6 and "is not in the local Hub cache, and offline" in ran.err
        assert f"got no {missing}" in ran.err and "without --offline" in ran.err
    assert not (tmp_path / "back").exists()


def test_what_is_there_is_replaced_only_when_asked(hub: HubServer, client: HubClient, tmp_path: Path) -> None:
    repo = hub.put("o/s", {LORA: weights(seed=1)})
    old = write_student(tmp_path / "old", seed=2)
    ran = client("pull", "o/s", "-o", old)
    assert ran.code == 5 and "the output exists" in ran.err and hub.log == []
    assert (old / LORA).read_bytes() == weights(seed=2)
    assert client("pull", "o/s", "-o", old, "--overwrite").code == 0
    assert files(old) == repo.files
    other = write(tmp_path / "other", {"thesis.tex": "years of work"})
    ran = client("pull", "o/s", "-o", other, "--overwrite")
    assert ran.code == 5 and "something else, which is never replaced" in ran.err
    assert files(other) == {"thesis.tex": b"years of work"}


def test_a_pull_into_the_folder_one_is_in(hub: HubServer, client: HubClient, tmp_path: Path) -> None:
    repo = hub.put("o/s", {LORA: weights()})
    here = tmp_path / "here"
    here.mkdir()
    ran = client.stdcli("hub", "pull", "o/s", "-o", ".", cwd=here)
    assert ran.code == 0 and "cd ." in ran.err, ran.err
    assert files(here) == repo.files and [p.name for p in tmp_path.iterdir()] == ["here"]
    ran = client.stdcli("hub", "pull", "o/s", "-o", ".", cwd=here)
    assert ran.code == 5 and "the output exists" in ran.err


def test_a_dry_run_of_a_pull(hub: HubServer, client: HubClient, tmp_path: Path) -> None:
    hub.put("o/s", {LORA: weights(), "recipe.json": b"{}"})
    ran = client("pull", "o/s", "-o", tmp_path / "back", "--dry-run", "--json")
    sizes = {row["file"]: row["bytes"] for row in ran.data["rows"]}
    assert sizes == {LORA: len(weights()), "recipe.json": 2}
    assert hub.sent == {} and not (tmp_path / "back").exists()


def test_the_token_is_sent_and_never_shown(hub: HubServer, client: HubClient, tmp_path: Path) -> None:
    student = write_student(tmp_path / "s")
    hub.faults.busy = {"/lfs/": 1}
    ran = [client("push", student, "me/s", "--debug", "-v")]
    ran += [client("pull", "me/s", "-v", "-o", tmp_path / "back")]
    assert [r.code for r in ran] == [0, 0]
    sent = [(path, headers.get("authorization")) for _, path, headers in hub.log]
    assert {token for path, token in sent if path.startswith("/api/")} == {f"Bearer {TOKEN}"}
    storage = {token for path, token in sent if path.startswith("/cdn/")}
    assert storage == {None}  # another origin
    shown = "".join(r.out + r.err for r in ran) + (client.home.parent / "stderr.txt").read_text()
    assert TOKEN not in shown and "X-Signature" not in shown
    assert TOKEN.encode() not in b"".join(git(hub, "me/s").values())
