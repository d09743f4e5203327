"""Which sizes `epd profile` asks for: of prompts, pictures, batches. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import sqrt
from typing import Final

_QUICK: Final = 5
_QUICK_BATCHES: Final = 2
"""What `--quick` keeps of prompts and batches."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """What is measured.

    Attributes:
        prompts: Tokens of prompts.
        held_out: Tokens of prompts that go into no fit.
        batches: Sequences of a decode step.
        contexts: Tokens of context of each of them.
        pictures: Width and height.
        pictures_at_once: Images of one run.
    """

    prompts: Sequence[int]
    held_out: Sequence[int]
    batches: Sequence[int]
    contexts: Sequence[int]
    pictures: Sequence[tuple[int, int]]
    pictures_at_once: Sequence[int]

    def within(self, longest: int, *, images: bool, quick: bool) -> "Sizes":
        """Return those that fit into a worker whose prompts may have `longest` tokens."""
        prompts = _up_to(self.prompts[:_QUICK] if quick else self.prompts, longest)
        return Sizes(
            prompts,
            between(prompts),
            self.batches[:_QUICK_BATCHES] if quick else self.batches,
            _up_to(self.contexts, longest),
            self.pictures if images else (),
            self.pictures_at_once,
        )


def between(sizes: Sequence[int]) -> list[int]:
    """Return the sizes half way, as ratios go."""
    return [round(sqrt(a * b)) for a, b in pairwise(sizes)]


def _up_to(sizes: Sequence[int], most: int) -> Sequence[int]:
    return [size for size in sizes if size <= most] or [max(1, most)]


_PROMPTS: Final = (64, 128, 256, 512, 1024, 2048, 4096, 8192)
SIZES: Final = Sizes(
    prompts=_PROMPTS,
    held_out=between(_PROMPTS),
    batches=(1, 8, 32, 128),
    contexts=(64, 1024),
    pictures=((448, 448), (1024, 1024), (1920, 1080)),
    pictures_at_once=(1, 4),
)
"""All of them; a small worker has room for fewer."""
