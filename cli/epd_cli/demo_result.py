"""What came of a demo: whether anything was lost, and what."""

from collections.abc import Sequence
from dataclasses import dataclass

from epd_cli.demo_flips import FlipRecord
from epd_cli.demo_streams import Slot
from epd_operator.local_state import LocalPod


@dataclass(frozen=True, slots=True)
class Result:
    """All that was recorded.

    Attributes:
        slots: The streams and their references.
        flips: The flips and what followed.
        before: The workers before the first flip.
        after: The workers after the last.
    """

    slots: Sequence[Slot]
    flips: Sequence[FlipRecord]
    before: Sequence[LocalPod]
    after: Sequence[LocalPod]

    @property
    def answers(self) -> int:
        """How many streams there were."""
        return sum(len(slot.answers) for slot in self.slots)

    @property
    def different(self) -> int:
        """How many whole streams are not what their reference is."""
        return sum(slot.different for slot in self.slots)

    def faults(self, *, exact: bool) -> list[str]:
        """Return everything that was lost, a line each; `exact`: streams must be identical."""
        errors = [error for slot in self.slots for error in slot.errors]
        errors += [error for flip in self.flips for error in flip.errors]
        faults = [f"error: {error}" for error in errors]
        if self.different and exact:
            faults.append(f"{self.different} of {self.answers} streams differ from their reference")
        faults += [
            f"no work of its new role reached {flip.pod} after it became {flip.after}"
            for flip in self.flips
            if not flip.took_effect
        ]
        return [*faults, *self._restarts()]

    def _restarts(self) -> list[str]:
        now = {pod.name: pod.process_id for pod in self.after}
        return [
            f"{pod.name} is another process: {pod.process_id} before, {now.get(pod.name)} now"
            for pod in self.before
            if now.get(pod.name) != pod.process_id
        ]
