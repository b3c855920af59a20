"""Where the constants that moved into the main graph came from; it is written into the file."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass, field, replace


@dataclass(frozen=True)
class Origin:
    """Where a constant lay: its scope by number, its name there, and its node if it was in one.

    `at`: the position of that node among all nodes of its scope, or of the input; -1 for neither. `input`: it is an
    initializer of the main graph that was an input as well.
    """

    scope: int
    name: str
    at: int = -1
    node: str = ""
    tensor: str = ""
    input: bool = False


@dataclass(frozen=True)
class Moved:
    """The constants that have moved, by their name in the main graph.

    `constant_inputs`: those that were inputs were constants all the same, as before IR version 4.
    """

    origins: dict[str, Origin] = field(default_factory=dict)
    constant_inputs: bool = False

    def only(self, names: Collection[str]) -> Moved:
        """Those with these names, to put them back alone."""
        return replace(
            self,
            origins={
                name: origin for name, origin in self.origins.items() if name in names
            },
        )

    def without(self, names: Collection[str]) -> Moved:
        """What is left when those with these names are back."""
        return replace(
            self,
            origins={
                name: origin
                for name, origin in self.origins.items()
                if name not in names
            },
        )

    def to_json(self) -> list[list[object]]:
        """For the file's metadata: a list for each, cut off after the last that differs from the defaults."""
        return [
            _short([name, *asdict(origin).values()])
            for name, origin in self.origins.items()
        ]

    @classmethod
    def from_json(cls, rows: Iterable[Iterable[object]]) -> Moved:
        """What `to_json` gave; ValueError or TypeError for anything else.

        >>> import json
        >>> Moved.from_json(json.loads(json.dumps(Moved({"w": Origin(0, "w", 3)}).to_json()))).origins["w"].at
        3
        """
        origins = {}
        for name, *values in rows:
            # Types are compared exactly, since a file's metadata may hold anything:
            # `isinstance` would take True for a position.
            origin = Origin(*values)  # type: ignore[arg-type]
            kinds = [type(value) for value in asdict(origin).values()]
            if [type(name), *kinds] != [str, int, str, int, str, str, bool]:
                raise ValueError(f"no constant can have come from {values!r}")
            origins[str(name)] = origin
        return cls(origins)


def _short(row: list[object]) -> list[object]:
    defaults: list[object] = [None, None, None, -1, "", "", False]
    # Name, scope and name there stay in any case. A model of thousands of constants
    # writes a row for each, so defaults count.
    while len(row) > 3 and row[-1] == defaults[len(row) - 1]:
        row.pop()
    return row
