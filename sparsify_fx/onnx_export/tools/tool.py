"""What another tool is known to do with a file: facts by the file's traits, and no code."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

VERDICTS = {
    "works": "right, and the weights stay as they are",
    "slow": "right, but the weights are rebuilt in every run",
    "ignores": "right, but what the tool is for does not happen to packed weights",
    "undoes": "right, but the weights are dense again",
    "refuses": "an error",
    "breaks": "wrong outputs, or the process dies",
}
"""Every verdict and its meaning, the better ones first."""

FAILS = ("undoes", "refuses", "breaks")
"""Verdicts after which the file is not what it was meant to be."""


@dataclass(frozen=True)
class Case:
    """A file that has all of these traits gets this verdict; `why`: in a few words.

    `traits`: words of `TRAITS`, joined by " + "; empty: any file.

    >>> Case("coo + batch-norm", "breaks", "it dies").covers({"coo", "batch-norm", "fp16"})
    True
    """

    traits: str
    verdict: str
    why: str = ""

    @property
    def words(self) -> frozenset[str]:
        """The traits one by one."""
        return frozenset(self.traits.split(" + ") if self.traits else ())

    def covers(self, traits: Collection[str]) -> bool:
        """Whether a file with these traits is one of this case."""
        return self.words <= set(traits)


@dataclass(frozen=True)
class Tool:
    """A tool, and what it does with files.

    `name`: the word for users; `what`: what it is, in a few words; `package`: as its package index calls it, and
    `checked`: the version of that in which all of this was seen. `cases`: of those that cover a file the worst holds,
    of equal ones the first; where there is none, the tool works. A case with all traits of another and more takes the
    place of that one.

    >>> tool = Tool("mine", "an optimizer", "mine", "1.0", (Case("gap", "undoes"), Case("coo", "breaks", "it dies")))
    >>> tool.verdict({"gap"}).verdict, tool.verdict({"dense"}).verdict, tool.verdict({"gap", "coo"}).why
    ('undoes', 'works', 'it dies')
    """

    name: str
    what: str
    package: str
    checked: str
    cases: tuple[Case, ...] = ()

    def verdict(self, traits: Collection[str]) -> Case:
        """The case that decides on a file with these traits."""
        ranks = list(VERDICTS)
        found = [each for each in self.cases if each.covers(traits)]
        left = [each for each in found if not _replaced(each, found)]
        # The first of the worst: `max` keeps the first of equal ones.
        return max(
            left,
            key=lambda each: ranks.index(each.verdict),
            default=Case("", "works"),
        )


def _replaced(case: Case, others: Collection[Case]) -> bool:
    """Whether one of the others says all that the case does, and more."""
    return any(case.words < other.words for other in others)
