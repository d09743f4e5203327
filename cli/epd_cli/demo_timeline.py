"""Draws which role each pod had when."""

from collections.abc import Mapping, Sequence
from typing import Final

from epd.vocabulary import Role

WIDTH: Final = 64
LEGEND: Final = "E encode, P prefill, D decode, e/p/d: two of them in turn, * all"


def draw_roles(
    initial: Mapping[str, Role], flips: Sequence[tuple[float, str, Role]], end_s: float
) -> list[str]:
    """Return one line per pod: time runs to the right, a letter says the role.

    Args:
        initial: The role of each pod at the start.
        flips: When, which pod, to which role; in order of time.
        end_s: When the drawing ends.
    """
    lines = []
    for pod, role in initial.items():
        mine = [(at_s, new) for at_s, name, new in flips if name == pod]
        letters = []
        for column in range(WIDTH):
            now_s = end_s * column / WIDTH
            present = next((new for at_s, new in reversed(mine) if at_s <= now_s), role)
            letters.append(_letter(present, column))
        lines.append(f"{pod}  {''.join(letters)}")
    return lines


def _letter(role: Role, column: int) -> str:
    initials = [part[0] for part in role.value.split("-")]
    match len(initials):
        case 1:
            return initials[0].upper()
        case 2:
            return initials[column % 2]
        case _:
            return "*"
