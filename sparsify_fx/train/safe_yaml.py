"""YAML that may come from anybody: read into plain values with bounded time and memory, and no key twice."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml
from yaml.constructor import ConstructorError

from sparsify_fx.errors import ConfigError

MOST_CHARACTERS = 200_000
MOST_VALUES = 10_000
"""Keys and values, each counted as often as aliases repeat it."""
DEEPEST = 20
"""Sections within sections."""
LONGEST_NUMBER = 100
"""Digits of a whole number."""


class _Loader(yaml.SafeLoader):
    """yaml.safe_load's loader that reads 1e-4 as a number (YAML 1.2), and refuses a key that is given twice."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """A mapping, whose keys are compared before merge keys (<<) add those of others."""
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                # With the tag, so that 1 and "1" differ, which are two keys to Python too.
                if (key.tag, key.value) in seen:
                    raise ConstructorError(
                        None,
                        None,
                        f"the key {key.value[:80]!r} is given twice",
                        key.start_mark,
                    )
                seen.add((key.tag, key.value))
        return node

    def construct_short_int(self, node: yaml.ScalarNode) -> int:
        """A whole number: thousands of digits would take Python's own conversion forever, or make it fail."""
        if len(node.value) > LONGEST_NUMBER:
            raise ConstructorError(
                None,
                None,
                f"a number of {len(node.value)} characters, more than {LONGEST_NUMBER}",
                node.start_mark,
            )
        return int(self.construct_yaml_int(node))


# PyYAML follows YAML 1.1, where a float needs a point: to it 1e-4 is text, and a learning rate would be no number.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_short_int)


def parse_yaml(text: str, source: str) -> Any:
    """yaml.safe_load, with 1e-4 as a number.

    Raises ConfigError, which begins with `source`, for text that is no YAML, a key given twice, or more than
    `MOST_CHARACTERS`, `MOST_VALUES` or `DEEPEST`.

    >>> parse_yaml("{lr: 1e-4}", "the recipe")
    {'lr': 0.0001}
    """
    if len(text) > MOST_CHARACTERS:
        raise ConfigError(
            f"{source} has more than {MOST_CHARACTERS:,} characters; a recipe is much shorter"
        )
    try:
        _check_events(text, source)
        return yaml.load(text, Loader=_Loader)
    except (
        yaml.YAMLError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        OverflowError,
    ) as error:
        if isinstance(error, ConfigError):
            raise
        # Not only YAMLError: dates of a thirteenth month, `!!float abc` and the like fail in Python's own conversions.
        raise ConfigError(
            f"{source} is not valid YAML: {' '.join(str(error).split())}"
        ) from None


def check_plain(value: Any, source: str) -> None:
    """Raise ConfigError for nested values that are too many, too deep (or hold themselves), or too large a number."""
    # With a list instead of recursion, which what is looked for here would overflow. A value that holds itself ends
    # as one that is too deep.
    waiting, count = [(value, 0)], 0
    while waiting:
        item, depth = waiting.pop()
        count += 1
        _check_limits(count, depth, source)
        if isinstance(item, Mapping):
            waiting += [(part, depth + 1) for part in (*item, *item.values())]
        elif isinstance(item, (list, tuple, set, frozenset)):
            waiting += [(part, depth + 1) for part in item]
        # A digit is 3.3 bits; str() would refuse numbers of thousands of digits, or take long for them.
        elif isinstance(item, int) and item.bit_length() > 4 * LONGEST_NUMBER:
            raise ConfigError(
                f"{source} holds a whole number of more than {LONGEST_NUMBER} digits"
            )


def _check_events(text: str, source: str) -> None:
    """Count values before anything is built of them: aliases within aliases double what they stand for."""
    # The values that an anchor marks, None while it is still open.
    sizes: dict[str | None, int | None] = {}
    # The collections around the current event: the anchor of each, and the total at its start.
    open_: list[tuple[str | None, int]] = []
    total = 0

    # Events come from a parser that needs no stack of Python's and expands no alias, so that nothing of what is refused
    # here was built: the composer, which comes after it, recurses, and merge keys (<<) multiply what they name.
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            open_.append((event.anchor, total))
            if event.anchor is not None:
                sizes[event.anchor] = None
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_.pop()
            if anchor is not None:
                sizes[anchor] = total - before
        elif isinstance(event, yaml.AliasEvent):
            # An unknown anchor counts as nothing here: the composer says so, with the line.
            size = sizes.get(event.anchor, 0)
            if size is None:
                raise ConfigError(
                    f"{source}: the alias *{event.anchor} stands inside of what it repeats; write it out"
                )
            total += size
        elif isinstance(event, yaml.ScalarEvent) and event.anchor is not None:
            sizes[event.anchor] = 1
        total += isinstance(event, (yaml.CollectionStartEvent, yaml.ScalarEvent))
        _check_limits(total, len(open_), source)


def _check_limits(count: int, depth: int, source: str) -> None:
    """ConfigError for more values, or deeper ones, than any recipe has."""
    if count > MOST_VALUES:
        raise ConfigError(
            f"{source} holds more than {MOST_VALUES:,} values, aliases counted as often as they are used; a recipe has "
            "some dozens"
        )
    if depth > DEEPEST:
        raise ConfigError(
            f"{source} is nested more than {DEEPEST} levels deep; a recipe needs four"
        )
