"""What each stage costs on a simulated pod, in milliseconds and bytes.

Curves are pairs (x, milliseconds) at rising x, joined by straight lines and prolonged by the last.
Where a number comes from stands beside it, and in `docs/simulator.md`.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

from epd.api.curves import CurvesFile
from epd.policy.curves import CostCurves
from epd.policy.curves import Curve as PolicyCurve

Curve = tuple[tuple[float, float], ...]

_TABLE_SIZE: Final = 1025


def at(curve: Curve, x: float) -> float:
    """Return the curve's value at `x`, never below 0."""
    if len(curve) == 1:
        return curve[0][1]
    right = min(max(bisect_right(curve, x, key=lambda point: point[0]), 1), len(curve) - 1)
    (x0, y0), (x1, y1) = curve[right - 1], curve[right]
    return max(0.0, y0 + (y1 - y0) * (x - x0) / (x1 - x0))


@dataclass(frozen=True)
class StageCosts:
    """The cost curves of one model on one GPU, and what fits into its memory.

    Attributes:
        name: Model, GPU, source.
        encode_batch_ms: Each run of the vision encoder.
        encode_floor_ms: No run takes less.
        encode_image_ms: An image of so many tokens in a run.
        prefill_ms: A prompt of so many tokens, the part that grows linearly.
        prefill_quadratic_ms: Attention: this times the square of a prompt's tokens.
        decode_ms: A decode step of so many sequences, without reading their KV caches.
        decode_token_ms: Reading the KV cache of one token in a decode step.
        kv_bytes_per_token: Of the KV cache.
        ec_bytes_per_token: Of an embedding.
        kv_handoff_ms: Each handoff of a KV cache, however small.
        ec_handoff_ms: Each handoff of an embedding, however small.
        handoff_bytes_per_s: Speed of one taker's link.
        kv_tokens: Tokens that fit into the KV cache of a pod.
        ec_tokens: Tokens of embeddings that a pod can hold for others.
    """

    name: str
    encode_batch_ms: float
    encode_floor_ms: float
    encode_image_ms: Curve
    prefill_ms: Curve
    prefill_quadratic_ms: float
    decode_ms: Curve
    decode_token_ms: float
    kv_bytes_per_token: int
    ec_bytes_per_token: int
    kv_handoff_ms: float
    ec_handoff_ms: float
    handoff_bytes_per_s: float
    kv_tokens: int
    ec_tokens: int

    @classmethod
    def of(cls, file: CurvesFile) -> "StageCosts":
        """Return the costs that a curves file tells, its `time_scale` applied."""
        handoff, capacity = file.handoff, file.capacity
        costs = cls(
            name=file.source,
            encode_batch_ms=file.encode.batch_ms,
            encode_floor_ms=0.0,
            encode_image_ms=tuple(file.encode.image_ms),
            prefill_ms=tuple(file.prefill_ms),
            prefill_quadratic_ms=0.0,
            decode_ms=tuple(file.decode_step.batch_ms),
            decode_token_ms=file.decode_step.ms_per_1000_tokens / 1e3,
            kv_bytes_per_token=handoff.kv_bytes_per_token,
            ec_bytes_per_token=handoff.ec_bytes_per_token,
            kv_handoff_ms=handoff.fixed_ms * file.time_scale,
            ec_handoff_ms=handoff.embedding_ms * file.time_scale,
            handoff_bytes_per_s=handoff.gib_per_s * 2**30 / (file.time_scale or 1.0),
            kv_tokens=capacity.kv_tokens,
            ec_tokens=capacity.ec_bytes // handoff.ec_bytes_per_token,
        )
        return costs if file.time_scale == 1 else costs.slowed(file.time_scale)

    def slowed(self, factor: float) -> "StageCosts":
        """Return the same curves with every computation `factor` times as long."""

        def scaled(curve: Curve) -> Curve:
            return tuple((x, y * factor) for x, y in curve)

        return replace(
            self,
            name=f"{self.name}, computing x {factor:g}",
            encode_batch_ms=self.encode_batch_ms * factor,
            encode_floor_ms=self.encode_floor_ms * factor,
            encode_image_ms=scaled(self.encode_image_ms),
            prefill_ms=scaled(self.prefill_ms),
            prefill_quadratic_ms=self.prefill_quadratic_ms * factor,
            decode_ms=scaled(self.decode_ms),
            decode_token_ms=self.decode_token_ms * factor,
        )

    def encode_run_ms(self, images_tokens: Sequence[int]) -> float:
        """Return the time of one run of the encoder over images of so many tokens."""
        image_ms = self._image_table
        total = self.encode_batch_ms
        for tokens in images_tokens:
            total += image_ms[tokens] if tokens < len(image_ms) else self._image(tokens)
        return max(self.encode_floor_ms, total)

    def prefill_base_ms(self) -> float:
        """Return what a step with any prefill in it costs beyond its tokens."""
        return self._prefill_base

    def chunk_ms(self, done: int, tokens: int) -> float:
        """Return what `tokens` more tokens of a prompt cost after `done` of them."""
        return self._prefill(done + tokens) - self._prefill(done)

    def decode_step_ms(self, sequences: int, context_tokens: int) -> float:
        """Return the time of a step that only decodes, with so much context in all."""
        table = self._decode_table
        dense = table[sequences] if sequences < _TABLE_SIZE else at(self.decode_ms, sequences)
        return dense + self.decode_token_ms * context_tokens

    def kv_handoff_s(self, tokens: int) -> float:
        """Return the seconds that moving a KV cache of so many tokens takes on an idle link."""
        return (
            self.kv_handoff_ms / 1e3 + tokens * self.kv_bytes_per_token / self.handoff_bytes_per_s
        )

    def ec_handoff_s(self, tokens: int) -> float:
        """Return the seconds that moving an embedding of so many tokens takes on an idle link."""
        return (
            self.ec_handoff_ms / 1e3 + tokens * self.ec_bytes_per_token / self.handoff_bytes_per_s
        )

    def curves(self) -> CostCurves:
        """Return the same as the production policy knows it: its belief is the truth here."""
        return CostCurves(
            source=self.name,
            image_ms=PolicyCurve(self.encode_image_ms),
            prefill_ms=PolicyCurve(self.prefill_ms, self.prefill_quadratic_ms),
            decode_ms=PolicyCurve(self.decode_ms),
            encode_run_ms=self.encode_batch_ms,
            decode_token_ms=self.decode_token_ms,
            handoff_ms=self.kv_handoff_ms,
            ec_handoff_ms=self.ec_handoff_ms,
            handoff_bytes_per_ms=self.handoff_bytes_per_s / 1e3,
            kv_bytes_per_token=self.kv_bytes_per_token,
            ec_bytes_per_token=self.ec_bytes_per_token,
            kv_tokens=self.kv_tokens,
        )

    def _image(self, tokens: int) -> float:
        return at(self.encode_image_ms, tokens)

    def _prefill(self, tokens: int) -> float:
        if tokens < len(self._prefill_table):
            return self._prefill_table[tokens]
        return at(self.prefill_ms, tokens) + self.prefill_quadratic_ms * tokens * tokens

    @cached_property
    def _prefill_base(self) -> float:
        return at(self.prefill_ms, 0)

    @cached_property
    def _prefill_table(self) -> list[float]:
        quadratic = self.prefill_quadratic_ms
        return [at(self.prefill_ms, n) + quadratic * n * n for n in range(8 * _TABLE_SIZE)]

    @cached_property
    def _image_table(self) -> list[float]:
        return [self._image(n) for n in range(4 * _TABLE_SIZE)]

    @cached_property
    def _decode_table(self) -> list[float]:
        return [at(self.decode_ms, n) for n in range(_TABLE_SIZE)]


H200_QWEN3_VL_8B: Final = StageCosts.of(CurvesFile.read(None))
