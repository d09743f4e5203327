"""How our engine bends methods of the pinned vLLM, whose files are never edited."""

import functools
from collections.abc import Callable
from typing import Any


def around(owner: Any, name: str) -> Callable[[Callable[..., Any]], None]:
    """Replace the method `owner.name`; the replacement gets the original as first argument."""
    original = getattr(owner, name)

    def replace(replacement: Callable[..., Any]) -> None:
        @functools.wraps(original)
        def method(self: Any, *args: Any, **kwargs: Any) -> Any:
            return replacement(original, self, *args, **kwargs)

        setattr(owner, name, method)

    return replace
