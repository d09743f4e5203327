"""A pod's prefix cache: KV caches of prompts' leading blocks, kept while nobody needs the room."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

BLOCK_TOKENS: Final = 512
"""Tokens of one block, as Mooncake's traces count them."""


class PrefixCache:
    """Which blocks a pod holds; the one that was used least lately goes first.

    A key stands for a block and all before it, as in vLLM.

    Attributes:
        hit_tokens: Tokens that were found here, in all.
    """

    def __init__(self) -> None:
        self.hit_tokens = 0
        self._blocks: OrderedDict[int, None] = OrderedDict()

    def find(self, keys: Sequence[int], prompt_tokens: int) -> int:
        """Return how many tokens of a prompt are here; one at least has to be computed."""
        blocks = self._blocks
        found = 0
        for key in keys:
            if key not in blocks:
                break
            blocks.move_to_end(key)
            found += 1
        tokens = min(found * BLOCK_TOKENS, prompt_tokens - 1)
        self.hit_tokens += tokens
        return tokens

    def keep(self, keys: Sequence[int], room_tokens: float) -> None:
        """Keep a prompt's blocks in what room there is, and let older ones go for it."""
        blocks = self._blocks
        for key in keys:
            blocks[key] = None
            blocks.move_to_end(key)
        while blocks and len(blocks) * BLOCK_TOKENS > room_tokens:
            blocks.popitem(last=False)
