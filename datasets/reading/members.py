"""Which datasets a folder stands for: itself, or a mix by weight, and whether their shards lie in it or are read in S3 by ranges.

data/manifest.json   data/shard-*.arrow       one dataset, here
data/members.json    data/mix-1/manifest.json ...       several of them, each here or in S3; without this file there is one, here
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

from ..format.manifest import MANIFEST, Manifest, open_manifest, read_manifest
from ..places.storage import read_json, write_json
from ..places.store import is_remote
from ..progress import Progress, silent

MEMBERS = "members.json"
MOST_DIGITS = 12
REMEDY = "start a new run with --out"


@dataclass(frozen=True)
class Member:
    """A dataset of a mix. folder: of its manifest, and of its shards unless they are read by ranges; uri: of the place in S3 that it came
    from, if it did; cache_gb: how much of its shards this machine may keep meanwhile, in 10^9 bytes; above 0 they are read by ranges.
    """

    folder: Path
    weight: Fraction = Fraction(1)
    uri: str = ""
    cache_gb: float = 0.0

    @property
    def ranged(self) -> bool:
        return self.cache_gb > 0

    def manifest(self, verify: bool = True, progress: Progress = silent) -> Manifest:
        """Of its dataset; see `read_manifest`. The shards of one that is read by ranges are not here to be looked at."""
        return open_manifest(self.folder / MANIFEST) if self.ranged else read_manifest(self.folder, verify, progress)


def weight_of(text: str, what: str) -> Fraction:
    """A weight as a user writes it: a decimal number above 0, exactly.

    Raises:
        ValueError: it is none; `what` names the field.
    """
    try:
        weight = Fraction(text) if len(text) <= MOST_DIGITS and set(text) <= set("0123456789.") else Fraction(0)
    except ValueError:
        weight = Fraction(0)
    if weight <= 0:
        raise ValueError(f"{what}: weight {text[:40]!r} is no number above 0 of at most {MOST_DIGITS} characters; give one such as 0.5")
    return weight


def parse_mix(entries: Sequence[str], field: str = "data.mix") -> list[tuple[str, Fraction]]:
    """Entries "URI=WEIGHT" -> (URI, weight); weights are relative to the run's own dataset, which weighs 1.

    Raises:
        ValueError: an entry has another form, or a URI comes twice.
    """
    found = list[tuple[str, Fraction]]()
    for entry in entries:
        uri, equals, weight = entry.rpartition("=")
        if not equals or not uri:
            raise ValueError(f"{field}: {entry[:200]!r} is not URI=WEIGHT; give a prepared dataset and its weight, as prepared/b=0.5")
        if uri in dict(found):
            raise ValueError(f"{field}: {uri!r} stands in it twice; add up its weights")
        found.append((uri, weight_of(weight, f"{field}: {uri!r}")))
    return found


def members_of(folder: Path) -> list[Member]:
    """The datasets that a folder stands for, its own first.

    Raises:
        ValueError: the list of members is damaged.
    """
    if not (folder / MEMBERS).is_file():
        return [Member(folder)]
    told = read_json(folder / MEMBERS, "list of datasets")
    try:
        members = []
        for i, line in enumerate(told):
            weight, uri, cache_gb = weight_of(line["weight"], "weight"), line["uri"], float(line["cache_gb"])
            if not isinstance(uri, str) or not 0 <= cache_gb < 1e6 or (cache_gb and not is_remote(uri)):
                raise ValueError(f"{uri!r} with a cache of {cache_gb} GB is no place in S3")
            members.append(Member(folder_of(folder, i), weight, uri, cache_gb))
        if not members:
            raise ValueError("it is empty")
        return members
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"list of datasets: {folder / MEMBERS} is damaged ({error}); {REMEDY}") from error


def folder_of(folder: Path, number: int) -> Path:
    """Where a member's manifest lies."""
    return folder / f"mix-{number}" if number else folder


def write_members(folder: Path, members: Sequence[Member]) -> None:
    """Note them; one whose shards are here needs no note."""
    assert [m.folder for m in members] == [folder_of(folder, i) for i in range(len(members))]
    if len(members) == 1 and not members[0].ranged:
        (folder / MEMBERS).unlink(missing_ok=True)
        return
    write_json(folder / MEMBERS, [{"weight": digits_of(m.weight), "uri": m.uri, "cache_gb": m.cache_gb} for m in members])


def digits_of(weight: Fraction) -> str:
    """As a user writes it: `weight_of` is the inverse."""
    return f"{Decimal(weight.numerator) / Decimal(weight.denominator):f}"
