"""Reading a bank: any states of any paths, by memory mapping, with few shards open at a time.

Legend: B items, L stored levels, C latent channels, space: cells, h w of pictures and F h w of clips.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stdcli.bank.bank_files import BankFiles
from stdcli.bank.format import Manifest, conditions_name, read_manifest, shard_name, sidecar_name
from stdcli.bank.shard import read_conditions, shard_problem
from stdcli.config.pasting import pasted
from stdcli.diffusion.levels import Level
from stdcli.errors import BankCorruptError

OPEN_SHARDS = 8


class Bank:
    """A finished bank, read at random.

    What is mapped is at most `OPEN_SHARDS` shards, whatever the size of the bank. Use one per thread.

    Args:
        root: its folder.

    Attributes:
        manifest: what its paths are.
        level_ids: of the stored levels, falling.

    Raises:
        BankError: there is no bank, or it is unfinished.
        BankCorruptError: a file is missing or has another size.
        BankMismatchError: another format or version.
    """

    def __init__(self, root: Path | str) -> None:
        self.files = BankFiles(Path(root))
        self.manifest: Manifest = read_manifest(self.files)
        self.level_ids = self.manifest.level_ids
        self._row = {id_: row for row, id_ in enumerate(self.level_ids)}
        self._open: OrderedDict[int, tuple[Any, Any]] = OrderedDict()
        for index in range(self.manifest.num_shards):
            problem = shard_problem(self.files, self.manifest, index, deep=False)
            if problem:
                hint = f"stdcli bank verify {pasted(root)}"
                raise BankCorruptError(f"shard {index}: {problem}", where=self.files.root, hint=hint)

    @property
    def levels(self) -> tuple[Level, ...]:
        """The stored levels (id, t, alpha, sigma), from the start level to level 0."""
        return self.manifest.path_levels()

    def __len__(self) -> int:
        """Number of paths."""
        return self.manifest.num_paths

    def states(self, paths: Sequence[int] | Tensor, level_ids: Sequence[int] | Tensor) -> Tensor:
        """One state of each path.

        Args:
            paths: B numbers in 0..len(self)-1.
            level_ids: B ids among `level_ids`.

        Returns:
            [B, C, *space], dtype as stored.

        Raises:
            IndexError: no such path.
            KeyError: a level that is not stored.
        """
        rows = [self._row[int(id_)] for id_ in level_ids]
        both = zip(paths, rows, strict=True)
        return torch.stack([self._slice(path, "states", row) for path, row in both])

    def path(self, path: int) -> Tensor:
        """All states of a path, [L, C, *space]."""
        return self._slice(path, "states")

    def x0(self, paths: Sequence[int] | Tensor) -> Tensor:
        """Clean latents [B, C, *space]."""
        return torch.stack([self._slice(path, "x0") for path in paths])

    def guidance(self, paths: Sequence[int] | Tensor) -> Tensor:
        """float32 [B]."""
        return torch.stack([self._slice(path, "guidance") for path in paths])

    def noise_seeds(self, paths: Sequence[int] | Tensor) -> Tensor:
        """int64 [B]."""
        return torch.stack([self._slice(path, "noise_seed") for path in paths])

    def sample_ids(self, paths: Sequence[int] | Tensor) -> Tensor:
        """int64 [B]."""
        return torch.stack([self._slice(path, "sample_id") for path in paths])

    def conditions(self, paths: Sequence[int] | Tensor) -> dict[str, Tensor]:
        """Each path's own conditions, name -> [B, ...]."""
        found = []
        for path in paths:
            shard, row = self._locate(path)
            found.append(read_conditions(*self._files_of(shard), row))
        return {name: torch.stack([row[name] for row in found]) for name in found[0]}

    def source(self, path: int) -> dict[str, Any]:
        """What a path was made from."""
        shard, row = self._locate(path)
        return self.files.read_json(sidecar_name(shard))["sources"][row]

    def sources(self) -> Iterator[dict[str, Any]]:
        """What every path was made from, in order."""
        for shard in range(self.manifest.num_shards):
            yield from self.files.read_json(sidecar_name(shard))["sources"]

    def _slice(self, path: int | Tensor, name: str, *more: int) -> Tensor:
        shard, row = self._locate(path)
        return self._files_of(shard)[0].get_slice(name)[(row, *more)]

    def _locate(self, path: int | Tensor) -> tuple[int, int]:
        if not 0 <= int(path) < len(self):
            raise IndexError(f"path {int(path)} is not in 0..{len(self) - 1}")
        return divmod(int(path), self.manifest.shard_size)

    def _files_of(self, shard: int) -> tuple[Any, Any]:
        if shard not in self._open:
            names = shard_name(shard), conditions_name(shard)
            self._open[shard] = tuple(self.files.map_tensors(name) for name in names)
            if len(self._open) > OPEN_SHARDS:
                self._open.popitem(last=False)
        self._open.move_to_end(shard)
        return self._open[shard]


def open_bank(folder: Path | str) -> Bank:
    """Open a finished bank, to read states, conditions and clean latents of its paths.

    Args:
        folder: where `stdcli bank build` made it, or `stdcli hub pull` put it.

    Raises:
        BankError: there is no bank, or it is unfinished.
        BankCorruptError: a file is missing or has another size; `stdcli bank verify` reads them whole.
        BankMismatchError: another format or version.
    """
    return Bank(folder)
