"""What every engine is told at its start."""

from dataclasses import dataclass, field
from pathlib import Path


class SettingsError(Exception):
    """A setting cannot work: the user's mistake, told in one line."""


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """How one engine of one worker is set up. A port of 0 means any free port."""

    name: str
    """The pod's name; unique in its cluster."""
    model: str
    """Folder or hub name."""
    served_name: str
    """What clients call the model."""
    side_channel_host: str = "127.0.0.1"
    """The address at which other workers fetch EC and KV from this one."""
    kv_side_channel_port: int = 0
    ec_side_channel_port: int = 0
    transport: str = "Auto"
    """What handoffs travel over, one of `transports.TRANSPORTS`."""
    kv_lease_s: float = 30.0
    """How long a KV cache waits for whoever takes it."""
    ec_lease_s: float = 60.0
    """How long an embedding waits for whoever takes it."""
    engine_args: list[str] = field(default_factory=list)
    """Verbatim; what they mean is the engine's affair."""
    cost_curves: Path | None = None
    """Simulated engine only: the curves file; None takes the one that is shipped."""
    seed: int = 0
    """Draws whatever an engine draws at random; never part of what makes engines compatible."""
