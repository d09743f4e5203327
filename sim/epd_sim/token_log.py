"""Runs of equal steps, and when each step ended: what gaps between tokens are read from."""

from array import array
from math import ceil, sqrt
from typing import Final

_LIMIT: Final = 1 << 18
_FLAT: Final = 1e-12
_ROUNDING: Final = 1e-9


class StepRun:
    """Steps that run one after another with the same batch, so that each is longer by the same.

    Attributes:
        from_s: When the first began.
        step_ms: How long the first takes.
        slope_ms: How much longer each next one takes: the context grows by a token a sequence.
        steps: How many there will be; 0: none runs.
        version: Grows with every change, so that events of former plans are known.
    """

    __slots__ = ("from_s", "slope_ms", "step_ms", "steps", "version")

    def __init__(self) -> None:
        self.from_s = 0.0
        self.step_ms = 0.0
        self.slope_ms = 0.0
        self.steps = 0
        self.version = 0

    def begin(self, from_s: float, step_ms: float, slope_ms: float, steps: int) -> None:
        """Run `steps` steps from now on."""
        self.from_s = from_s
        self.step_ms = step_ms
        self.slope_ms = slope_ms
        self.steps = steps
        self.version += 1

    def end_s(self) -> float:
        """Return when the last step will have ended."""
        steps = self.steps
        return self.from_s + (steps * self.step_ms + self.slope_ms * steps * (steps - 1) / 2) / 1e3

    def cut(self, now_s: float) -> bool:
        """Plan no step after the one that is under way; tells whether that changes anything."""
        elapsed_ms = (now_s - self.from_s) * 1e3
        # Steps done: the root of slope/2 n² + (step - slope/2) n = elapsed.
        half, linear = self.slope_ms / 2, self.step_ms - self.slope_ms / 2
        if half > _FLAT:
            done = (sqrt(linear * linear + 4 * half * elapsed_ms) - linear) / (2 * half)
        else:
            done = elapsed_ms / linear
        steps = max(1, ceil(done - _ROUNDING))
        if steps >= self.steps:
            return False
        self.steps = steps
        self.version += 1
        return True


class TokenLog:
    """The end of every step since the oldest that anybody may still ask for.

    Attributes:
        steps: Steps that have ended.
    """

    __slots__ = ("_ends_s", "_first", "steps")

    def __init__(self) -> None:
        self.steps = 0
        self._first = 0
        self._ends_s = array("d")

    def note(self, run: StepRun, now_s: float) -> None:
        """Note the steps of a run that ends now."""
        first, half = run.step_ms / 1e3, run.slope_ms / 2e3
        if run.steps > 1:
            from_s = run.from_s
            self._ends_s.extend(
                [from_s + first * i + half * i * (i - 1) for i in range(1, run.steps)]
            )
        self._ends_s.append(now_s)
        self.steps += run.steps

    def since(self, step: int) -> "array[float]":
        """Return when each step ended from number `step` on."""
        return self._ends_s[step - self._first :]

    @property
    def is_long(self) -> bool:
        """Whether it is worth asking which steps nobody will ask for again."""
        return len(self._ends_s) > _LIMIT

    def forget_before(self, step: int) -> None:
        """Nobody will ask for steps before `step` again."""
        del self._ends_s[: step - self._first]
        self._first = step
