"""What a run learns from: a bank on disk, or the paper's bank, walked while the student learns."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from stdcli.bank.format import Manifest, sidecar_name
from stdcli.bank.reader import Bank
from stdcli.config.bank import BankConfig
from stdcli.console import Console
from stdcli.diffusion.levels import Level, level_table
from stdcli.errors import BankMismatchError
from stdcli.models.bundle import Network

if TYPE_CHECKING:
    from stdcli.rollout.teacher_rollout import TeacherRollout


@dataclass(frozen=True)
class TeacherPaths:
    """Paths of one teacher: stored, or walked on the way.

    Attributes:
        manifest: what they are.
        conditions: of one path, name -> tensor without batch dimension.
        bank: where they are stored; None for
        rollout: samples them.
    """

    manifest: Manifest
    conditions: Mapping[str, Tensor]
    bank: Bank | None = None
    rollout: TeacherRollout | None = None

    @classmethod
    def stored(cls, root: Path) -> TeacherPaths:
        """Those of a bank.

        Raises:
            BankError, BankCorruptError, BankMismatchError: it is no finished bank.
        """
        bank = Bank(root)
        first = {name: value[0] for name, value in bank.conditions([0]).items()}
        return cls(bank.manifest, first, bank=bank)

    @classmethod
    def online(cls, config: BankConfig, console: Console) -> TeacherPaths:
        """Those of a teacher that samples them on the way; it is loaded.

        Args:
            config: as for `stdcli bank build`.
            console: told of pictures that cannot be read.

        Raises:
            ConfigError, MediaError, ModelError, HubError, ResourceError: as `open_rollout`.
        """
        from stdcli.rollout.teacher_rollout import open_rollout  # a bank needs none of it

        rollout = open_rollout(config, console=console)
        return cls(rollout.manifest, rollout.conditions, rollout=rollout)

    @property
    def is_styled(self) -> bool:
        """Whether the teacher was given style pictures."""
        return "cond.image_embeds" in self.conditions and bool(self.conditions["cond.image_embeds"].any())

    @property
    def start_id(self) -> int:
        """The noisiest level."""
        return self.manifest.level_ids[0]

    def digest(self) -> str:
        """Of all shards' contents; of nothing for paths that are walked."""
        if self.bank is None:
            return ""
        names = map(sidecar_name, range(self.manifest.num_shards))
        hashes = [str(self.bank.files.read_json(name)["sha256"]) for name in names]
        return hashlib.sha256("".join(hashes).encode()).hexdigest()

    def check(self, network: Network) -> tuple[Level, ...]:
        """Refuse a base other than the one that walked the paths.

        Returns:
            All levels of the solver, by id.

        Raises:
            BankMismatchError: another network, style adapter, schedule or prediction; names both values.
        """
        identity, fingerprint = network.identity, network.schedule.fingerprint()
        found = [
            (name, stored, identity.get(name))
            for name, stored in self.manifest.model.items()
            if (name.endswith("_sha256") or name == "loras") and stored != identity.get(name)
        ]
        schedule_row = ("schedule", self.manifest.schedule, fingerprint)
        prediction_row = ("prediction", self.manifest.prediction, str(network.prediction))
        found += [row for row in (schedule_row, prediction_row) if row[1] != row[2]]
        if found:
            raise BankMismatchError(
                "these paths are of another teacher",
                where=self.bank.files.root if self.bank else network.name,
                got="; ".join(
                    f"{name}: {stored} there, {current} here" for name, stored, current in found[:3]
                ),
                expected=f"the model {self.manifest.model.get('name')} as it was when they were walked",
                hint="--model NAME, where the teacher has moved",
            )
        return level_table(network.schedule, self.manifest.num_solver_steps)

    def stored_levels(self, table: tuple[Level, ...]) -> tuple[Level, ...]:
        """The levels whose states there are, falling to level 0."""
        return tuple(table[id_] for id_ in self.manifest.level_ids)
