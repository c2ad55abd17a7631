"""Makes a large picture small: unchanged stretches become one box, repeated blocks are drawn once.

Both are found in the order of the units, where a unit reads others at a distance. Blocks are equal
if their units are, distances included. That needs no cut through the graph, and holds across skip
connections. What is folded is a stretch of that order, so it never reads what reads it.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from kito.drawing.units import Unit

# A picture of so many units is readable as it is.
SMALL = 24
# The shortest and the longest block, in units, that is looked for.
SHORTEST, LONGEST = 3, 80
# What folding must save at least, in units.
WORTH = 3
# What so many units read, such as a mask, is not part of a block: it is the same for all of them.
COMMON = 8


@dataclass(frozen=True)
class Item:
    """What is drawn in one place: a unit, or a stretch of units.

    Attributes:
        units: the numbers of the units that it stands for.
        block: the number of the repeated block that it is, or is a part of.
        is_again: whether it stands for blocks that are drawn elsewhere.
        times: how often the block stands here, one after the other.
    """

    units: tuple[int, ...]
    block: int | None = None
    is_again: bool = False
    times: int = 1

    @property
    def is_folded(self) -> bool:
        """Whether it is drawn as one box for several calls."""
        return self.is_again or len(self.units) > 1


@dataclass(frozen=True)
class Folding:
    """The items in an order of computation, and the item that shows each unit."""

    items: list[Item]
    item_of: dict[int, int]

    @property
    def frames(self) -> dict[int, list[int]]:
        """The items of each block, where it is drawn."""
        frames: dict[int, list[int]] = {}
        for number, item in enumerate(self.items):
            if item.block is not None and not item.is_again:
                frames.setdefault(item.block, []).append(number)
        return frames


def unfolded(units: Sequence[Unit]) -> Folding:
    """Every unit for itself."""
    numbers = range(len(units))
    return Folding([Item((number,)) for number in numbers], {number: number for number in numbers})


def folded(units: Sequence[Unit], kinds: Mapping[tuple[str, ...], int]) -> Folding:
    """As much of the graph as is needed to see it all.

    Args:
        kinds: a number for each path to a graph; graphs that look the same have the same one.
    """
    if len(units) <= SMALL:
        return unfolded(units)
    stretches = list(_unchanged(units))
    blocks = _Blocks(units, stretches, kinds).find()
    return _fold(stretches, blocks)


def _unchanged(units: Sequence[Unit]) -> Iterator[tuple[int, ...]]:
    """The units, those together that are unchanged and not next to something that changed."""
    shown = {number for number, unit in enumerate(units) if not unit.is_plain}
    near = set(shown)
    for number, unit in enumerate(units):
        for read in unit.reads:
            if number in shown or read in shown:
                near |= {number, read}
    stretch: list[int] = []
    for number, unit in enumerate(units):
        if number in near or not unit.reads:
            yield from _closed(stretch)
            stretch = []
            yield (number,)
        else:
            stretch.append(number)
    yield from _closed(stretch)


def _closed(stretch: Sequence[int]) -> Iterator[tuple[int, ...]]:
    if len(stretch) > WORTH:
        yield tuple(stretch)
    else:
        yield from ((number,) for number in stretch)


@dataclass(frozen=True)
class _Block:
    """A number of stretches in a row, and the places where such are."""

    length: int
    starts: tuple[int, ...]


def _fold(stretches: Sequence[tuple[int, ...]], blocks: Sequence[_Block]) -> Folding:
    """Draw each block where it is first, and one box wherever it is again."""
    items: list[Item] = []
    item_of: dict[int, int] = {}

    def show(item: Item, units: Sequence[int]) -> None:
        item_of.update(dict.fromkeys(units, len(items)))
        items.append(item)

    block_at = {start: block for block in blocks for start in block.starts}
    numbers: dict[_Block, int] = {}  # from the top of the picture
    index = 0
    while index < len(stretches):
        block = block_at.get(index)
        if block is None:
            show(Item(stretches[index]), stretches[index])
            index += 1
            continue
        end = index + block.length
        while block_at.get(end) is block:
            end += block.length
        times = (end - index) // block.length
        if block in numbers:
            units = tuple(unit for stretch in stretches[index:end] for unit in stretch)
            show(Item(units, numbers[block], is_again=True, times=times), units)
        else:
            number = numbers[block] = len(numbers) + 1
            for first in range(index, index + block.length):
                # What reads one of the other times is drawn as if it read the first.
                same = [unit for each in stretches[first : end : block.length] for unit in each]
                show(Item(stretches[first], number, times=times), same)
        index = end
    return Folding(items, item_of)


class _Blocks:
    """Finds the block whose repetition saves most, then the next one in what is left."""

    def __init__(
        self,
        units: Sequence[Unit],
        stretches: Sequence[tuple[int, ...]],
        kinds: Mapping[tuple[str, ...], int],
    ) -> None:
        self.units = units
        self.kinds = kinds
        self.stretches = stretches
        self.place = {unit: index for index, each in enumerate(stretches) for unit in each}
        self.readers: list[set[int]] = [set() for _ in units]
        for number, unit in enumerate(units):
            for read in unit.reads:
                self.readers[read].add(number)
        known: dict[Hashable, int] = {}
        self.tokens = [
            known.setdefault(self.token(index), len(known)) for index in range(len(stretches))
        ]
        self.is_taken = [False] * len(stretches)

    def find(self) -> list[_Block]:
        blocks = []
        while (block := self.best()) is not None:
            blocks.append(block)
            for start in block.starts:
                self.is_taken[start : start + block.length] = [True] * block.length
        return blocks

    def token(self, index: int) -> Hashable:
        """What must be equal for two stretches to be drawn as one."""
        stretch = self.stretches[index]
        if len(stretch) > 1:
            return len(stretch), self.distances(index, "reads_before")
        (number,) = stretch
        unit = self.units[number]
        insides = tuple(self.kinds[call.inside] for call in unit.before if call.inside is not None)
        reads = self.distances(index, "reads_before"), self.distances(index, "reads_after")
        return unit.looks, insides, reads

    def distances(self, index: int, side: str) -> tuple[Hashable, ...]:
        reads = [read for unit in self.stretches[index] for read in getattr(self.units[unit], side)]
        return tuple(
            ("common", read) if len(self.readers[read]) >= COMMON else index - self.place[read]
            for read in reads
        )

    def best(self) -> _Block | None:
        """The block that saves most."""
        best, saves = None, WORTH - 1
        for length in range(SHORTEST, min(LONGEST, len(self.tokens) // 2) + 1):
            for starts in self.repeated(length):
                runs = sum(start - length not in starts for start in starts)
                saved = (len(starts) - 1) * length - runs + 1
                if saved > saves:
                    saved -= 2 * self.leaks(starts[0], length)
                if saved > saves:
                    best, saves = _Block(length, tuple(starts)), saved
        return best

    def repeated(self, length: int) -> Iterator[list[int]]:
        """The places of each block of this length that is there more than once."""
        places: dict[tuple[int, ...], list[int]] = {}
        for start in range(len(self.tokens) - length + 1):
            if any(self.is_taken[start : start + length]):
                continue
            starts = places.setdefault(tuple(self.tokens[start : start + length]), [])
            if not starts or starts[-1] + length <= start:
                starts.append(start)
        yield from (starts for starts in places.values() if len(starts) > 1)

    def leaks(self, start: int, length: int) -> int:
        """How many tensors more than one go into the block, and how many more come out of it."""
        inside = {unit for each in self.stretches[start : start + length] for unit in each}
        into = {
            read
            for unit in inside
            for read in self.units[unit].reads
            if read not in inside and len(self.readers[read]) < COMMON
        }
        out = {unit for unit in inside if not self.readers[unit] <= inside}
        return max(len(into) - 1, 0) + max(len(out) - 1, 0)
