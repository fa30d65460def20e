"""Reading a YAML or JSON file as one mapping, strictly.

Stricter than PyYAML: a key that occurs twice is an error, not the last value. Values stay as YAML read them
(`1e-4` is text, `no` is False); the schemas make sense of them. Knows nothing of tasks.
"""

from __future__ import annotations

import json
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from stdcli.disk.reading import MAX_DEPTH, depth_of, read_text
from stdcli.errors import ConfigError


def read_mapping(path: Path) -> dict[str, Any]:
    """The mapping in a .json, or else YAML, file; an empty YAML file is an empty mapping.

    Raises:
        ConfigError: no such file, not UTF-8, broken syntax, a key twice, or not a mapping.
    """
    text = read_text(path, ConfigError)
    try:
        if path.suffix == ".json":
            data = json.loads(text, object_pairs_hook=_unique_pairs)
        else:
            data = yaml.load(text, Loader=_StrictLoader)
    except json.JSONDecodeError as error:
        raise ConfigError(f"not JSON: {error.msg}", where=f"{path}:{error.lineno}") from error
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f":{error.problem_mark.line + 1}"
        raise ConfigError(f"not YAML: {error.problem}", where=f"{path}{line}") from error
    except RecursionError as error:
        raise ConfigError("cannot be read: nested too deeply", where=path) from error
    except (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise ConfigError(f"cannot be read: {error}", where=path) from error
    if depth_of(data) > MAX_DEPTH:
        raise ConfigError("cannot be read: nested too deeply", where=path)
    if data is None and path.suffix != ".json":
        return {}
    if not isinstance(data, dict):
        raise ConfigError("not a mapping of keys to values", where=path, got=f"a {type(data).__name__}")
    return {str(key): value for key, value in data.items()}


def _unique_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        twice = next(key for index, (key, _) in enumerate(pairs) if key in dict(pairs[:index]))
        raise ValueError(f"the key {twice!r} occurs twice")
    return mapping


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key twice, and aliases, by which a few lines can unfold without end."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            problem = "aliases (*name) are not allowed; write the value out"
            raise yaml.composer.ComposerError(None, None, problem, self.peek_event().start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key_node, _ in node.value:
            if isinstance(key_node, yaml.ScalarNode) and key_node.value in seen:
                problem = f"the key {key_node.value!r} occurs twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
            if isinstance(key_node, yaml.ScalarNode):
                seen.add(key_node.value)
        return super().construct_mapping(node, deep)
