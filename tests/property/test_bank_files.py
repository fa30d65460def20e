"""Banks of any shape and dtype come back bit for bit; damage anywhere is found."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stdcli.bank.bank_files import BankFiles
from stdcli.bank.format import SAMPLES, finished, read_manifest, write_manifest
from stdcli.bank.reader import Bank
from stdcli.bank.shard import COLUMNS, StoredPaths, read_shard, shard_problem, write_shard
from stdcli.bank.verify import verify
from stdcli.errors import BankError
from tests.tiny_banks import MANIFEST, write_tiny_bank

DTYPES = {"float16": torch.int16, "bfloat16": torch.int16, "float32": torch.int32}
"""Dtypes of states, and what their bits are read as."""

shapes = st.lists(st.integers(1, 4), min_size=0, max_size=3).map(tuple)


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(DTYPES[str(tensor.dtype).removeprefix("torch.")])


@settings(max_examples=40)
@given(
    st.sampled_from(sorted(DTYPES)),
    st.tuples(*[st.integers(1, 4)] * 3),
    st.integers(1, 4),
    st.integers(1, 9),
    st.integers(1, 5),
    st.dictionaries(st.sampled_from(["cond.a", "cond.b.c", "uncond.a"]), shapes, min_size=1),
    st.integers(0, 2**31),
)
def test_what_is_written_is_read_bit_for_bit(dtype, latent, levels, count, shard_size, kinds, seed):
    generator = torch.Generator().manual_seed(seed)
    kind = getattr(torch, dtype)

    def draw(*shape):
        return (torch.randn(shape, generator=generator) * 100).to(kind)

    manifest = replace(
        MANIFEST,
        latent_shape=latent,
        levels=MANIFEST.levels[:levels],
        num_paths=count,
        shard_size=shard_size,
        store_dtype=dtype,
    )
    ids = torch.randint(0, 2**62, (count,), generator=generator) * 2 + torch.arange(count) % 2
    pool = [{name: draw(*shape) for name, shape in kinds.items()} for _ in range(2)]
    choice = torch.randint(0, 2, (count,), generator=generator).tolist()
    paths = StoredPaths(
        states=draw(count, levels, *latent),
        x0=draw(count, *latent),
        guidance=torch.rand(count, generator=generator) * 9,
        noise_seed=torch.randint(0, 2**62, (count,), generator=generator),
        sample_id=ids,
        conditions=[pool[k] for k in choice],
        sources=[{"sample_id": id_} for id_ in ids.tolist()],
    )
    with tempfile.TemporaryDirectory() as folder:
        files = BankFiles(Path(folder))
        files.write_lines(SAMPLES, [dict(row) for row in paths.sources])
        for index in range(manifest.num_shards):
            part = paths.select(list(manifest.paths_of(index)))
            write_shard(files, manifest, index, part)
            back = read_shard(files, index)
            assert all(torch.equal(getattr(back, name), getattr(part, name)) for name in COLUMNS)
        write_manifest(files, finished(manifest))
        assert len(set(ids.tolist())) < count or verify(files, manifest) == []
        bank, every = Bank(folder), range(count)
        assert torch.equal(bits(torch.stack([bank.path(k) for k in every])), bits(paths.states))
        assert torch.equal(bits(bank.x0(every)), bits(paths.x0))
        assert torch.equal(bank.guidance(every), paths.guidance)
        assert torch.equal(bank.noise_seeds(every), paths.noise_seed)
        assert torch.equal(bank.sample_ids(every), ids)
        found = bank.conditions(every)
        assert set(found) == set(kinds)
        for name in kinds:
            assert torch.equal(bits(found[name]), bits(torch.stack([pool[k][name] for k in choice])))


@settings(max_examples=60)
@given(st.sampled_from(["shards/shard-00001.safetensors", "conditions/cond-00001.safetensors"]), st.data())
def test_any_cut_and_any_flipped_bit_is_found(name, data):
    with tempfile.TemporaryDirectory() as folder:
        files = write_tiny_bank(Path(folder))
        path = Path(folder) / name
        whole = path.read_bytes()
        place = data.draw(st.integers(0, len(whole) - 1))
        if data.draw(st.booleans()):
            path.write_bytes(whole[:place])
        else:
            flipped = whole[place] ^ (1 << data.draw(st.integers(0, 7)))
            path.write_bytes(whole[:place] + bytes([flipped]) + whole[place + 1 :])
        assert name in shard_problem(files, MANIFEST, 1, deep=True)
        assert [p.name for p in verify(files, MANIFEST)] == ["shards/shard-00001.safetensors"]


@settings(max_examples=60)
@given(st.sampled_from(["manifest.json", "samples.jsonl", "shards/shard-00001.json"]), st.data())
def test_text_cut_anywhere_is_an_error_or_a_problem_never_a_bug(name, data):
    """A cut that only takes the last line's end changes nothing."""

    with tempfile.TemporaryDirectory() as folder:
        files = write_tiny_bank(Path(folder))
        path = Path(folder) / name
        whole = path.read_bytes()
        place = data.draw(st.integers(0, len(whole) - 1))
        path.write_bytes(whole[:place])
        try:
            found = verify(files, read_manifest(files))
        except BankError:
            return
        assert bool(found) == (whole[place:] != b"\n")
