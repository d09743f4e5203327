"""Which pods have prefilled prompts that begin alike, as far as this gateway sent them there.

A prompt is known by its leading blocks: each key stands for a block and all before it. Engines keep
the KV caches of such blocks as long as they have room, and tell nobody when they drop one: what is
believed here may be stale, which costs a prefill that was to be paid anyway.
"""

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from epd.wire.messages import IMAGE_REFERENCE_PREFIX

BLOCK_BYTES: Final = 1024
"""Of the request's JSON: some 250 tokens of English."""

_MAX_BLOCKS: Final = 64
_MAX_PODS: Final = 4  # that are remembered for one block, the latest first
_PROMPT_FIELDS: Final = (b'"messages"', b'"prompt"')
_IMAGE: Final = IMAGE_REFERENCE_PREFIX.encode()


def prompt_keys(body: bytes, images: Iterable[object] = ()) -> tuple[int, ...]:
    """Return the keys of a prompt's leading blocks; none where it is shorter than one.

    Keys are good in this process only.

    Args:
        body: The request as JSON, with references in the place of images.
        images: What the images are, in order: equal ones, equal content.
    """
    if len(body) <= BLOCK_BYTES:
        return ()
    start = max(0, *map(body.find, _PROMPT_FIELDS))
    first_image = body.find(_IMAGE, start)
    keys: list[int] = []
    key = 0
    last = min(len(body) - BLOCK_BYTES, start + (_MAX_BLOCKS - 1) * BLOCK_BYTES)
    for at in range(start, last + 1, BLOCK_BYTES):
        end = at + BLOCK_BYTES
        if 0 <= first_image < end:  # from here on, prompts are alike only if their images are
            key, first_image = hash((key, *images)), -1
        key = hash((key, body[at:end]))
        keys.append(key)
    return tuple(keys)


class PrefixBook:
    """Remembers who prefilled which blocks, up to a number of blocks; the oldest go first."""

    __slots__ = ("_capacity", "_pods")

    def __init__(self, capacity: int = 32_768) -> None:
        """Start empty."""
        self._capacity = capacity
        self._pods: OrderedDict[int, tuple[str, ...]] = OrderedDict()

    def note(self, keys: Sequence[int], pod: str) -> None:
        """Take note that a pod has prefilled a prompt of these blocks."""
        pods = self._pods
        for key in keys:
            known = pods.get(key, ())
            if pod not in known[:1]:
                pods[key] = (pod, *(other for other in known if other != pod))[:_MAX_PODS]
            pods.move_to_end(key)
        while len(pods) > self._capacity:
            pods.popitem(last=False)

    def shares(self, keys: Sequence[int]) -> Mapping[str, float]:
        """Return the share of a prompt's blocks that each pod is believed to hold, by name."""
        found: dict[str, float] = {}
        holders: tuple[str, ...] | None = None
        for number, key in enumerate(keys, 1):
            known = self._pods.get(key)
            if known is None:
                break
            holders = known if holders is None else tuple(p for p in holders if p in known)
            if not holders:
                break
            for pod in holders:
                found[pod] = number / len(keys)
        return found
