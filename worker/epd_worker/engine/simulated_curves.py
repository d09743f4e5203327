"""What each stage of the simulated engine costs: the arithmetic of its curves file."""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from pathlib import Path

from epd.api.curves import CurvesError, CurvesFile
from epd_worker.engine.settings import SettingsError


def at(curve: Sequence[tuple[float, float]], x: float) -> float:
    """Return the curve's milliseconds at `x`: straight lines between points, never below 0."""
    if len(curve) == 1:
        return curve[0][1]
    right = min(max(bisect_right(curve, x, key=lambda point: point[0]), 1), len(curve) - 1)
    (x0, y0), (x1, y1) = curve[right - 1], curve[right]
    return max(0.0, y0 + (y1 - y0) * (x - x0) / (x1 - x0))


class CostCurves(CurvesFile):
    """The curves as durations: in seconds, `time_scale` applied."""

    def encode_s(self, image_tokens: Iterable[int]) -> float:
        """Return the duration of one run of the encoder over images of so many tokens."""
        images_ms = sum(at(self.encode.image_ms, tokens) for tokens in image_tokens)
        return (self.encode.batch_ms + images_ms) * self.time_scale / 1e3

    def step_s(self, prefill_ms: float, running: int, context_tokens: int) -> float:
        """Return the duration of one engine step: a decode of all running, prefills beside it.

        The weights are read once a step, so a mixed step saves what a lone decode costs.
        """
        step_ms = prefill_ms
        if running:
            curve = self.decode_step.batch_ms
            step_ms += at(curve, running)
            step_ms += self.decode_step.ms_per_1000_tokens * context_tokens / 1e3
            if prefill_ms:
                step_ms -= at(curve, 1)
        return max(0.0, step_ms) * self.time_scale / 1e3

    def chunk_ms(self, done_tokens: int, chunk_tokens: int) -> float:
        """Return what a chunk of a prompt adds to a step after `done_tokens` of it (unscaled)."""
        whole_ms = at(self.prefill_ms, done_tokens + chunk_tokens)
        return whole_ms - at(self.prefill_ms, done_tokens)

    def kv_handoff_s(self, tokens: int) -> float:
        """Return the duration of moving the KV cache of so many tokens."""
        handoff = self.handoff
        return self._moved_s(handoff.fixed_ms, tokens * handoff.kv_bytes_per_token)

    def ec_handoff_s(self, size_bytes: int) -> float:
        """Return the duration of moving an embedding of so many bytes."""
        return self._moved_s(self.handoff.embedding_ms, size_bytes)

    def _moved_s(self, fixed_ms: float, size_bytes: int) -> float:
        transfer_ms = size_bytes / (self.handoff.gib_per_s * 2**30) * 1e3
        return (fixed_ms + transfer_ms) * self.time_scale / 1e3


def load_curves(path: Path | None, overrides: Iterable[str] = ()) -> CostCurves:
    """Read a curves file; see `CurvesFile.read`. Raises `SettingsError` with one line."""
    try:
        return CostCurves.read(path, overrides)
    except CurvesError as error:
        raise SettingsError(str(error)) from None
