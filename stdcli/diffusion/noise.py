"""Noise from (seed, sample id), never from the order of work.

A path's noise is the same whatever the batch size, number of workers, order of files or number of resumes.
Also the hash that all seeds of the toolkit come from. No global random state is read or written.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def hash63(*parts: int | str | bytes) -> int:
    """The first 63 bits of a SHA-256 over the parts, in 0..2^63-1.

    Bytes hashed: for each part a tag (b"i", b"s" or b"b"), the length of its text as 8 bytes big-endian, then
    the text: decimal ASCII of an int, UTF-8 of a str, bytes as they are. So ("ab", "c") and ("a", "bc")
    differ, and so do 1 and "1". The first 8 bytes of the digest, read big-endian, are shifted right by one.

    Raises:
        TypeError: a part is of another type.
    """
    digest = hashlib.sha256()
    for part in parts:
        tag, text = _encode(part)
        digest.update(tag + len(text).to_bytes(8, "big") + text)
    return int.from_bytes(digest.digest()[:8], "big") >> 1


def _encode(part: int | str | bytes) -> tuple[bytes, bytes]:
    match part:
        case bool():
            raise TypeError("a truth value is not part of a seed")
        case int():
            return b"i", str(part).encode("ascii")
        case str():
            return b"s", part.encode("utf-8", "surrogateescape")  # names are bytes
        case bytes():
            return b"b", part
    raise TypeError(f"seeds are made of int, str and bytes, not {type(part).__name__}")


def sample_id(source_sha256: str, repeat: int = 0) -> int:
    """Identity of one sample: its source file and how often that file was used before, in 0..2^63-1.

    Args:
        source_sha256: SHA-256 of the source's bytes, 64 hex digits of either case.
        repeat: repeat index, >= 0.

    Raises:
        ValueError: not a SHA-256, or a negative index.
    """
    digest = bytes.fromhex(source_sha256)
    if len(digest) != 32 or repeat < 0:
        raise ValueError(f"not a SHA-256 and a repeat index: {source_sha256!r}, {repeat}")
    return hash63("sample", digest, repeat)


def noise_seed(seed: int, sample_id: int, *, step: int | None = None) -> int:
    """Seed of a sample's noise: `hash63("noise", seed, sample_id)`, in 0..2^63-1.

    Args:
        seed: the user's seed.
        sample_id: of `sample_id`.
        step: None for the noise of the start; the index of a later level for noise that a sampler adds there.
    """
    return hash63("noise", seed, sample_id, *([] if step is None else ["step", step]))


def make_noise(shape: Sequence[int], seed: int, sample_id: int, *, step: int | None = None) -> Tensor:
    """Standard normal noise of one sample, from a CPU generator of its own.

    Args:
        shape: of one sample, without batch dimension, such as (C, h, w) or (C, F, h, w).
        seed: the user's seed.
        sample_id: of `sample_id`.
        step: as in `noise_seed`.

    Returns:
        float32 CPU tensor of that shape; cast and move it afterwards.
    """
    return noise_from(shape, noise_seed(seed, sample_id, step=step))


def noise_from(shape: Sequence[int], noise_seed: int) -> Tensor:
    """The noise of a `noise_seed`, as banks store it: float32 on the CPU, of that shape."""
    generator = torch.Generator().manual_seed(noise_seed)
    return torch.randn(tuple(shape), generator=generator, dtype=torch.float32)
