"""Asks a worker pod how much it does, at the port of its probes."""

from typing import Final

import aiohttp

from epd.vocabulary import DEFAULT_PORTS, PortName

TIMEOUT_S: Final = 1.0


class HttpWorkers:
    """Implements `ports.Workers`."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        """Ask with this session."""
        self._session = session

    async def in_flight(self, address: str) -> int | None:
        """Return how much work has begun and not ended; None if the pod does not say."""
        host = f"[{address}]" if ":" in address else address
        url = f"http://{host}:{DEFAULT_PORTS[PortName.WORKER_PROBES]}/load"
        try:
            timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
            async with self._session.get(url, timeout=timeout) as response:
                body = await response.json()
                return int(body["in_flight"])
        except (TimeoutError, aiohttp.ClientError, OSError):
            return None
        except (KeyError, TypeError, ValueError):
            return None
