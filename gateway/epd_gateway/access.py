"""Who may use the API: keys, one a line, of which only hashes are kept."""

import hashlib
from pathlib import Path
from typing import Final

from epd_gateway.errors import NotAuthenticated
from epd_gateway.settings import SettingsError

_SCHEME: Final = "bearer "


class ApiKeys:
    """Checks bearer keys; with no keys, everybody may."""

    def __init__(self, keys: frozenset[str] = frozenset()) -> None:
        """Accept `keys`."""
        self._digests = frozenset(_digest(key) for key in keys)

    @classmethod
    def read(cls, path: Path | None) -> "ApiKeys":
        """Return the keys in a file; empty lines and lines that begin with # do not count.

        Raises:
            SettingsError: The file cannot be read or holds no key.
        """
        if path is None:
            return cls()
        try:
            lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"API keys {path}: {error}") from None
        keys = frozenset(line for line in lines if line and not line.startswith("#"))
        if not keys:
            raise SettingsError(f"API keys {path}: no key in it; put one on a line")
        return cls(keys)

    def check(self, authorization: str) -> None:
        """Check an `authorization` header.

        Raises:
            NotAuthenticated: It holds none of the keys.
        """
        if not self._digests:
            return
        if authorization[: len(_SCHEME)].lower() != _SCHEME:
            raise NotAuthenticated("an API key is needed: set authorization: Bearer KEY")
        # Hashes are looked up, so how long it takes tells nothing about the keys.
        if _digest(authorization[len(_SCHEME) :].strip()) not in self._digests:
            raise NotAuthenticated("the API key is not known here")


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
