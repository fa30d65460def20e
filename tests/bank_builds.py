"""Small banks built by the command, and what they hold by the names of their files."""

from __future__ import annotations

import hashlib
from pathlib import Path

from stdcli.bank.bank_files import BankFiles
from stdcli.bank.reader import Bank
from stdcli.cli.main import main

NAMES = [f"{letter}.png" for letter in "abcdefg"]
SMALL = ["--resolution", "32", "--num-solver-steps", "5", "--shard-size", "2", "--dtype", "float32"]
"""Strength 0.6 of five steps: levels 3 to 0, three evaluations."""


def build(*arguments: object, code: int = 0) -> None:
    flat = [part for item in arguments for part in (item if isinstance(item, list) else [item])]
    assert main(["bank", "build", *map(str, flat)]) == code


def verified(root: Path) -> Bank:
    assert main(["bank", "verify", str(root)]) == 0
    return Bank(root)


def rows(root: Path) -> dict[str, dict]:
    """A bank's samples by the name of their file."""
    return {row["source"]: row for row in BankFiles(root).read_lines("samples.jsonl")}


def by_source(root: Path) -> dict[str, int]:
    bank = Bank(root)
    return {bank.source(path)["source"]: path for path in range(len(bank))}


def shutil_sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
