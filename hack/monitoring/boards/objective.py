"""The cluster's own objective, as a line that others should stay below."""

from typing import Final

from epd import telemetry as t
from monitoring import board as b
from monitoring.board import Query

_ONE_GATEWAY: Final = f"max({t.SLO_LIMIT.name}{{{b.OF_CLUSTER}, objective="


def limit(objective: str) -> Query:
    """Return the query of what the cluster's own objective allows."""
    return Query(f'{_ONE_GATEWAY}"{objective}"}})', "objective", is_limit=True)
