"""What a lease on an embedding is called: after its content, and which of several it is.

Whoever has the same image encoded gets a lease of its own on the one embedding that is kept. A
gateway may release a lease twice, for it cannot know what arrived: by its own name the second
release finds nothing, and takes nothing from the other holders.
"""

from typing import Final

HANDLES: Final = 2
"""What handles look like. Part of the compatibility hash: workers of two kinds never meet."""


def lease_name(content: str, number: int) -> str:
    """Return the name of the `number`th lease that an engine gave, on what `content` names."""
    return f"{content}/{number}"


def content_of(lease: str) -> str:
    """Return what names the embedding itself."""
    return lease.rpartition("/")[0]
