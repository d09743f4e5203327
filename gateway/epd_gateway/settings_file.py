"""Settings that may change while the gateway runs: a file of them, and who is to hear of a change.

The file has one GROUP.NAME=VALUE a line, as `--set` has them; empty lines and lines that begin with
# do not count. The command line wins over it, and it wins over the environment.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from epd_gateway.settings import Settings, SettingsError

CHANGEABLE: Final = frozenset(
    {
        "slo.ttft_ms",
        "slo.tpot_ms",
        "slo.attainment_percent",
        "slo.overflow",
        "keys.max_in_flight",
        "keys.max_per_minute",
        "limits.max_body_bytes",
        "media.max_images",
        "media.max_image_bytes",
        "media.max_image_pixels",
        "media.fetch_timeout_s",
        "media.allowed_domains",
    }
)
"""What the file may hold: all that is read anew for each request."""


@dataclass(frozen=True, slots=True)
class SettingsSource:
    """Where this process's settings come from.

    Attributes:
        arguments: Dotted names to values, as given on the command line.
        environment: The process environment.
        file: The file of those that may change; None: none may.
    """

    arguments: Mapping[str, str]
    environment: Mapping[str, str]
    file: Path | None = None

    def read(self) -> Settings:
        """Return the settings as they are now.

        Raises:
            SettingsError: One is unknown, wrong, or may not stand in the file; or that cannot be
                read.
        """
        told = read_assignments(self.file) if self.file else {}
        return Settings.load({**told, **self.arguments}, self.environment)


def read_assignments(path: Path) -> dict[str, str]:
    """Return the names and values in a file.

    Raises:
        SettingsError: The file cannot be read, or holds what may not stand in it.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"settings {path}: {error}") from None
    told: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        if not line or line.startswith("#"):
            continue
        name, equals, value = (part.strip() for part in line.partition("="))
        if not equals:
            raise SettingsError(f"settings {path}:{number}: GROUP.NAME=VALUE was expected")
        if name not in CHANGEABLE:
            raise SettingsError(
                f"settings {path}:{number}: {name} is none that may stand here; it may hold "
                f"{', '.join(sorted(CHANGEABLE))}"
            )
        told[name] = value
    return told
