"""What each stage of a request costs a pod: cost curves, fits, and the predictor of TTFT.

Milliseconds, tokens and bytes throughout. Where curves come from is in their `source`.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from epd.policy.control_view import Slo
from epd.vocabulary import Stage

_MAX_BATCH = 4096


@dataclass(frozen=True, slots=True)
class Curve:
    """Straight lines through points (x, milliseconds) at rising x, prolonged by the last one.

    Attributes:
        points: At least one.
        quadratic_ms: This times the square of x is added: attention of a prompt to itself.
    """

    points: tuple[tuple[float, float], ...]
    quadratic_ms: float = 0.0

    def at(self, x: float) -> float:
        """Return the value at `x`, never below 0."""
        points = self.points
        if len(points) == 1:
            return points[0][1] + self.quadratic_ms * x * x
        right = min(max(bisect_right(points, x, key=lambda point: point[0]), 1), len(points) - 1)
        (x0, y0), (x1, y1) = points[right - 1], points[right]
        return max(0.0, y0 + (y1 - y0) * (x - x0) / (x1 - x0)) + self.quadratic_ms * x * x

    def curvature(self) -> float:
        """Return the second difference over the measured span, in milliseconds per square of x."""
        half = self.points[-1][0] / 2
        if not half:
            return 2 * self.quadratic_ms
        return max(0.0, self.at(2 * half) - 2 * self.at(half) + self.at(0.0)) / half**2

    def covers(self, x: float) -> bool:
        """Say whether `x` lies where the curve was measured."""
        return self.points[0][0] <= x <= self.points[-1][0]


def fit_quadratic(points: Sequence[tuple[float, float]]) -> Curve:
    """Return a0 + a1 x + a2 x^2 of least squared relative error; no coefficient is negative.

    How prefill grows with its tokens (xLLM's and Arrow's predictor of TTFT).

    Args:
        points: (x, milliseconds above 0), three or more for a full fit.
    """
    free = [0, 1, 2][: len({x for x, _ in points})]
    while True:
        found = least_squares(
            [[x**power / y for power in free] for x, y in points], [1.0] * len(points)
        )
        if len(free) == 1 or min(found) >= 0:
            break
        free.remove(free[found.index(min(found))])
    a0, a1, a2 = (found[free.index(power)] if power in free else 0.0 for power in range(3))
    span = (min(x for x, _ in points), max(x for x, _ in points))
    return Curve(tuple((x, a0 + a1 * x) for x in dict.fromkeys(span)), a2)


def least_squares(rows: Sequence[Sequence[float]], values: Sequence[float]) -> list[float]:
    """Return the coefficients that bring `rows` nearest to `values` (normal equations)."""
    size = len(rows[0])
    scale = [max(abs(row[i]) for row in rows) or 1.0 for i in range(size)]
    scaled = [[cell / scale[i] for i, cell in enumerate(row)] for row in rows]
    table = [
        [sum(row[i] * row[j] for row in scaled) for j in range(size)]
        + [sum(row[i] * value for row, value in zip(scaled, values, strict=True))]
        for i in range(size)
    ]
    for i in range(size):
        pivot = max(range(i, size), key=lambda k: abs(table[k][i]))
        table[i], table[pivot] = table[pivot], table[i]
        for k in range(size):
            if k != i and table[i][i]:
                factor = table[k][i] / table[i][i]
                table[k] = [a - factor * b for a, b in zip(table[k], table[i], strict=True)]
    return [table[i][size] / table[i][i] / scale[i] if table[i][i] else 0.0 for i in range(size)]


@dataclass(frozen=True, slots=True)
class RequestShape:
    """The mean request.

    Attributes:
        images: Images to encode.
        image_tokens: Tokens of one image.
        prompt_tokens: Of the prompt, images included.
        cached_tokens: Of those, what a prefix cache holds already.
        output_tokens: Of the answer.
        seen_tokens: Of context that a decode step sees of one sequence, on average. Long answers
            run longer, so the mean request's is another; 0: take that.
    """

    images: float = 0.0
    image_tokens: float = 0.0
    prompt_tokens: float = 0.0
    cached_tokens: float = 0.0
    output_tokens: float = 0.0
    seen_tokens: float = 0.0

    @property
    def context_tokens(self) -> float:
        """What a decode step sees of one sequence, on average."""
        return self.seen_tokens or self.prompt_tokens + self.output_tokens / 2


@dataclass(frozen=True, slots=True)
class CostCurves:
    """The curves of one model on one kind of pod.

    Attributes:
        source: Model, GPU, and who measured.
        image_ms: One image of so many tokens in a run of the encoder.
        prefill_ms: A prompt of so many tokens, none of them cached, alone on the pod.
        decode_ms: A decode step of so many sequences, KV caches not read.
        encode_run_ms: Each run of the encoder besides its images.
        decode_token_ms: Reading one token of KV cache in a step.
        handoff_ms: Each handoff, however small.
        ec_handoff_ms: The same of an embedding; None: no other than of a KV cache.
        handoff_bytes_per_ms: Speed of a taker's link.
        kv_bytes_per_token: Of the KV cache.
        ec_bytes_per_token: Of an embedding.
        kv_tokens: Tokens of KV cache that fit into a pod.
        step_tokens: Prompt tokens that an engine computes in one step.
    """

    source: str
    image_ms: Curve
    prefill_ms: Curve
    decode_ms: Curve
    encode_run_ms: float = 0.0
    decode_token_ms: float = 0.0
    handoff_ms: float = 0.0
    ec_handoff_ms: float | None = None
    handoff_bytes_per_ms: float = 2e7
    kv_bytes_per_token: float = 0.0
    ec_bytes_per_token: float = 0.0
    kv_tokens: float = float("inf")
    step_tokens: float = 8192.0

    def encode(self, images: float, tokens: float) -> float:
        """Return the time of one run of the encoder over images of so many tokens each."""
        return self.encode_run_ms + images * self.image_ms.at(tokens) if images else 0.0

    def prefill(self, new_tokens: float, cached_tokens: float = 0.0) -> float:
        """Return the time to prefill so many tokens behind cached ones.

        New tokens attend to cached ones at the price at which long prompts attend to themselves.
        """
        alone_ms = self.prefill_ms.at(new_tokens)
        return alone_ms + self.prefill_ms.curvature() * new_tokens * cached_tokens

    def prefill_share(self, shape: RequestShape, step_ms: float) -> float:
        """Return what a prompt adds to a step that other prompts fill.

        The weights are read once a step, so under load short prompts cost less than alone.

        Args:
            shape: The request.
            step_ms: The longest step that is thought of; `step_tokens` bound it, too.
        """
        new_tokens = shape.prompt_tokens - shape.cached_tokens
        alone_ms = self.prefill(new_tokens, shape.cached_tokens)
        once_ms = min(alone_ms, self.prefill_ms.at(0.0))
        in_time = (step_ms - once_ms) / max(1e-9, alone_ms - once_ms)
        prompts = min(in_time, self.step_tokens / max(1.0, new_tokens))
        return alone_ms - once_ms * (1 - 1 / max(1.0, prompts))

    def decode_step(self, batch: float, context_tokens: float) -> float:
        """Return the time of a step of `batch` sequences with so much context in all."""
        return self.decode_ms.at(batch) + self.decode_token_ms * context_tokens

    def mixed_step(self, new_tokens: float, batch: float, context_tokens: float) -> float:
        """Return the time of a step that decodes and prefills; the weights are read once."""
        if not new_tokens or not batch:
            step_ms = self.decode_step(batch, context_tokens) if batch else 0.0
            return step_ms + (self.prefill(new_tokens) if new_tokens else 0.0)
        step_ms = self.prefill(new_tokens) + self.decode_step(batch, context_tokens)
        return step_ms - self.decode_ms.at(1.0)

    def handoff(self, size_bytes: float) -> float:
        """Return the time to move a KV cache of so many bytes to another pod."""
        return self.handoff_ms + size_bytes / self.handoff_bytes_per_ms

    def ec_handoff(self, size_bytes: float) -> float:
        """Return the time to move embeddings of so many bytes to another pod, at once."""
        fixed_ms = self.handoff_ms if self.ec_handoff_ms is None else self.ec_handoff_ms
        return fixed_ms + size_bytes / self.handoff_bytes_per_ms

    def ttft(
        self, shape: RequestShape, encode_wait_ms: float = 0.0, prefill_wait_ms: float = 0.0
    ) -> float:
        """Return the predicted time to the first token, each stage on a pod of its own."""
        new_tokens = shape.prompt_tokens - shape.cached_tokens
        prefill_ms = prefill_wait_ms + self.prefill(new_tokens, shape.cached_tokens)
        if not shape.images:
            return prefill_ms
        size_bytes = shape.images * shape.image_tokens * self.ec_bytes_per_token
        handoff_ms = self.ec_handoff(size_bytes)
        return (
            encode_wait_ms + self.encode(shape.images, shape.image_tokens) + handoff_ms + prefill_ms
        )

    def decode_batch(self, shape: RequestShape, tpot_ms: float) -> int:
        """Return the sequences a pod can decode at once with steps within `tpot_ms`; at least 1."""
        context = shape.context_tokens
        room = int(min(_MAX_BATCH, self.kv_tokens / max(1.0, context)))
        fits = bisect_left(
            range(1, max(1, room) + 1),
            True,
            key=lambda batch: self.decode_step(batch, batch * context) > tpot_ms,
        )
        return max(1, fits)

    def pod_ms(self, stage: Stage, shape: RequestShape, slo: Slo) -> float:
        """Return how long one request keeps a pod busy that does nothing but `stage`.

        Decode counts its share of steps batched as far as the SLO's TPOT allows.
        """
        if stage is Stage.ENCODE:
            return self.encode(shape.images, shape.image_tokens)
        if stage is Stage.PREFILL:
            return self.prefill(shape.prompt_tokens - shape.cached_tokens, shape.cached_tokens)
        batch = self.decode_batch(shape, slo.tpot_ms)
        steps = max(0.0, shape.output_tokens - 1)  # prefill sampled the first token
        return steps * self.decode_step(batch, batch * shape.context_tokens) / batch
