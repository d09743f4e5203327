"""Who may use the API, and how much: keys, one a line, of which only hashes are kept."""

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Final

from epd_gateway.errors import NotAuthenticated, RateLimited
from epd_gateway.settings import KeyLimits, SettingsError

_SCHEME: Final = "bearer "
_MINUTE_S: Final = 60.0


@dataclass(slots=True)
class KeyUse:
    """What one key uses now.

    Attributes:
        in_flight: Its requests that are being served.
        credit: Requests it may still send at once; refills over a minute.
        counted_s: When `credit` was right.
    """

    in_flight: int
    credit: float
    counted_s: float

    def enter(self, limits: KeyLimits, now_s: float) -> None:
        """Count a request that begins.

        Raises:
            RateLimited: The key has as many as it may; nothing was counted.
        """
        if limits.max_in_flight and self.in_flight >= limits.max_in_flight:
            raise RateLimited(
                f"this API key has {self.in_flight} requests in flight, the most it may have; "
                "try again when one has ended"
            )
        if limits.max_per_minute:
            refill = (now_s - self.counted_s) * limits.max_per_minute / _MINUTE_S
            self.credit = min(self.credit + refill, float(limits.max_per_minute))
            self.counted_s = now_s
            if self.credit < 1:
                wait_s = (1 - self.credit) * _MINUTE_S / limits.max_per_minute
                raise RateLimited(
                    f"this API key may send {limits.max_per_minute} requests a minute; "
                    "try again later",
                    retry_after_s=math.ceil(wait_s),
                )
            self.credit -= 1
        self.in_flight += 1

    def leave(self) -> None:
        """Count a request that has ended."""
        self.in_flight -= 1


class ApiKeys:
    """Checks bearer keys; with no keys, everybody may, without limits.

    Attributes:
        limits: What each key may.
    """

    def __init__(self, keys: frozenset[str] = frozenset(), limits: KeyLimits | None = None) -> None:
        """Accept `keys`, each within `limits`."""
        self.limits = limits or KeyLimits()
        self._uses: dict[bytes, KeyUse] = {}
        self.replace(keys)

    @classmethod
    def read(cls, path: Path | None, limits: KeyLimits | None = None) -> "ApiKeys":
        """Return the keys in a file.

        Raises:
            SettingsError: The file cannot be read or holds no key.
        """
        return cls(frozenset() if path is None else read_keys(path), limits)

    def replace(self, keys: frozenset[str]) -> None:
        """Accept `keys` only, from now on; requests in flight go on."""
        now_s, credit = monotonic(), float(self.limits.max_per_minute)
        digests = {_digest(key) for key in keys}
        self._uses = {
            digest: self._uses.get(digest) or KeyUse(0, credit, now_s) for digest in digests
        }

    def check(self, authorization: str) -> KeyUse | None:
        """Check an `authorization` header; return the key's use, None where none is needed.

        Raises:
            NotAuthenticated: It holds none of the keys.
        """
        if not self._uses:
            return None
        if authorization[: len(_SCHEME)].lower() != _SCHEME:
            raise NotAuthenticated("an API key is needed: set authorization: Bearer KEY")
        # Hashes are looked up, so how long it takes tells nothing about the keys.
        use = self._uses.get(_digest(authorization[len(_SCHEME) :].strip()))
        if use is None:
            raise NotAuthenticated("the API key is not known here")
        return use

    def enter(self, authorization: str) -> KeyUse | None:
        """Check a header and count a request; whoever gets a use must `leave` it.

        Raises:
            NotAuthenticated: It holds none of the keys.
            RateLimited: The key has as many requests as it may.
        """
        use = self.check(authorization)
        if use is not None:
            use.enter(self.limits, monotonic())
        return use


def read_keys(path: Path) -> frozenset[str]:
    """Return the keys in a file; empty lines and lines that begin with # do not count.

    Raises:
        SettingsError: The file cannot be read or holds no key.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"API keys {path}: {error}") from None
    keys = frozenset(line for line in lines if line and not line.startswith("#"))
    if not keys:
        raise SettingsError(f"API keys {path}: no key in it; put one on a line")
    return keys


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
