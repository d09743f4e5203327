"""What goes into one engine step, and how long the step takes: arithmetic only."""

from collections.abc import Sequence

from epd_sim.batching import Batching, Encoder
from epd_sim.calls import Piece
from epd_sim.costs import StageCosts


def plan_chunks(
    batching: Batching, costs: StageCosts, prefilling: Sequence[Piece], sequences: int
) -> tuple[list[tuple[Piece, int]], float]:
    """Return the prompt chunks of a step, and what they cost in milliseconds.

    Decodes come first: `sequences` tokens of the budget are theirs. Without chunking, a prompt that
    does not fit waits, unless it is the first: it would wait for ever.
    """
    budget = batching.token_budget - sequences
    chunks: list[tuple[Piece, int]] = []
    cost_ms = costs.prefill_base_ms()
    for piece in prefilling:
        left = piece.tokens - piece.done
        if left > budget and not batching.chunked and chunks:
            break
        tokens = min(left, budget) if batching.chunked else left
        if tokens <= 0:
            break
        budget -= tokens
        cost_ms += costs.chunk_ms(piece.done, tokens)
        chunks.append((piece, tokens))
    return chunks, cost_ms if chunks else 0.0


def language_ms(
    costs: StageCosts, prefill_ms: float, sequences: int, context_tokens: int
) -> tuple[float, float]:
    """Return how long the language model takes for a step, and how long without its prefill.

    The weights are read once a step: prefill beside decode saves what a lone decode costs.
    """
    if not sequences:
        return prefill_ms, 0.0
    decode_ms = costs.decode_step_ms(sequences, context_tokens)
    if not prefill_ms:
        return decode_ms, decode_ms
    return max(decode_ms, decode_ms + prefill_ms - costs.decode_step_ms(1, 0)), decode_ms


def with_images_ms(batching: Batching, step_ms: float, encode_ms: float) -> float:
    """Return how long a step takes that encodes images as well."""
    if batching.encoder is Encoder.IN_STEP:
        return step_ms + encode_ms
    shorter, longer = sorted((step_ms, encode_ms))
    return longer + batching.stretch * shorter
