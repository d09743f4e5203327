"""Which pod takes which stage of one request: the least predicted wait.

Inputs are views of pods and a counter, outputs name pods; nothing here keeps state, reads a clock
or draws at random, so that the gateway and the simulator place alike.

Whoever is asked for a stage is drawn from the first of these that is not empty:

1. pods offered the stage that are not suspect;
2. any pod that is not suspect (overflow);
3. pods offered the stage, suspect ones included;
4. any pod (overflow);
5. the same again without regard to `avoid`, the pods where this request failed before.

Unhealthy pods are never drawn. Where the best pod of the role is predicted to miss the TTFT that
`Costs.ttft_ms` allows and a pod of another role is not, encode and prefill overflow to that one.
Of a large fleet, every n-th pod is looked at, each request at others.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from math import inf
from typing import Final

from epd.policy.candidates import draw, groups, in_turn, of_hash
from epd.policy.pods import Costs, PodView, answer_waits_ms, answers_lost, service_ms, wait_ms
from epd.vocabulary import Stage

_ENCODE: Final = Stage.ENCODE
_PREFILL: Final = Stage.PREFILL
_DECODE: Final = Stage.DECODE

_NOBODY: Final[frozenset[str]] = frozenset()
_NO_PREFIXES: Final[Mapping[str, float]] = {}
_SAMPLE: Final = 4  # times `max_considered`: pods that are looked at, of a large fleet
_GOLDEN: Final = 0x9E3779B97F4A7C15
_MASK_64: Final = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Choice:
    """Where one stage goes.

    Attributes:
        pod: The pod.
        wait_ms: Predicted time until the stage is done waiting there.
        overflow: The pod's role does not offer the stage.
    """

    pod: PodView
    wait_ms: float
    overflow: bool


@dataclass(frozen=True, slots=True)
class PairChoice:
    """Where prefill and decode of one request go; the same pod for both means no handoff.

    Attributes:
        prefill: The pod that prefills.
        decode: The pod that decodes.
        cost_ms: Predicted waits of both, and the handoff.
        overflow: The stages whose pod has another role.
        fused_encode: The prefill pod had better encode the images itself.
    """

    prefill: PodView
    decode: PodView
    cost_ms: float
    overflow: tuple[Stage, ...] = ()
    fused_encode: bool = False


def home_of(image_key: int, pods: Sequence[PodView]) -> PodView:
    """Return the pod that an image belongs to (rendezvous hashing): stable as others come and go.

    Args:
        image_key: A number drawn from the image's content.
        pods: The candidates, at least one.
    """
    return max(pods, key=lambda pod: (((image_key ^ pod.salt) * _GOLDEN) & _MASK_64) >> 11)


def place_encode(
    pods: Iterable[PodView],
    image_key: int,
    costs: Costs,
    *,
    turn: int = 0,
    avoid: Collection[str] = _NOBODY,
    compatibility_hash: str = "",
) -> Choice | None:
    """Return the pod that should encode an image; None if no pod is healthy.

    The image's home may hold its embedding already: it is preferred by the time of one encode,
    and no more, so that a popular image never makes a hot spot.

    Args:
        pods: All pods.
        image_key: A number drawn from the image's content.
        costs: The constants.
        turn: A counter that breaks ties.
        avoid: Names of pods where this image failed before.
        compatibility_hash: The embedding must fit pods of this hash; empty: any.
    """
    drawn, overflow, _ = draw(of_hash(pods, compatibility_hash), _ENCODE, avoid)
    if not drawn:
        return None
    home = home_of(image_key, drawn)

    def cost_ms(pod: PodView) -> float:
        elsewhere_ms = 0.0 if pod is home else service_ms(pod, _ENCODE, costs)
        return wait_ms(pod, _ENCODE, costs) + elsewhere_ms

    best = min((home, *in_turn(drawn, turn, costs)), key=cost_ms)
    if not overflow and (other := _relief(pods, best, _ENCODE, avoid, compatibility_hash, costs)):
        best, overflow = other, True
    return Choice(best, wait_ms(best, _ENCODE, costs), overflow)


def place_generation(
    pods: Iterable[PodView],
    costs: Costs,
    *,
    images: int = 0,
    turn: int = 0,
    avoid: Collection[str] = _NOBODY,
    compatibility_hash: str = "",
    embeddings_at: Collection[str] = _NOBODY,
    prefix_at: Mapping[str, float] = _NO_PREFIXES,
) -> PairChoice | None:
    """Return the pods for prefill and decode, picked together; None if no pod is healthy.

    Args:
        pods: All pods.
        costs: The constants.
        images: Images that are not encoded yet; with any, `fused_encode` is decided too.
        turn: A counter that breaks ties.
        avoid: Names of pods where this request failed before.
        compatibility_hash: The embeddings' hash; empty: any.
        embeddings_at: Names of pods that hold the request's embeddings.
        prefix_at: Shares (0 to 1) of the prompt that the prefix caches of pods are believed to
            hold, by name. Each is worth that share of one prefill, and no more: where many prompts
            begin alike, a queue sends them elsewhere.
    """
    fitting = of_hash(pods, compatibility_hash)
    stride = len(fitting) // (_SAMPLE * costs.max_considered)
    if stride > 1 and not embeddings_at:
        sample = fitting[turn % stride :: stride]
        if prefix_at:
            sample = [*sample, *(pod for pod in fitting if pod.name in prefix_at)]
        best, rank = _best_of_groups(sample, costs, images, turn // stride, avoid, (), prefix_at)
        if rank == 0 and not (images and not any(_ENCODE in pod.stages for pod in sample)):
            return best
    return _best_of_groups(fitting, costs, images, turn, avoid, embeddings_at, prefix_at)[0]


def _best_of_groups(
    pods: Sequence[PodView],
    costs: Costs,
    images: int,
    turn: int,
    avoid: Collection[str],
    embeddings_at: Collection[str],
    prefix_at: Mapping[str, float],
) -> tuple[PairChoice | None, int]:
    """Return the best pair of any hash, and the rank of the lists it comes from; -1 for none."""
    best: PairChoice | None = None
    best_rank = -1
    for group in groups(pods):
        prefills, prefill_overflow, prefill_rank = draw(group, _PREFILL, avoid)
        decodes, decode_overflow, decode_rank = draw(group, _DECODE, avoid)
        if not prefills or not decodes:
            continue
        prefill, decode, cost_ms, fused = _best_pair(
            in_turn(prefills, turn, costs, prefix_at),
            in_turn(decodes, turn, costs),
            costs,
            _encode_apart(group, images, costs, turn) if images else _NOTHING_TO_ENCODE,
            embeddings_at,
            prefix_at,
        )
        rank = prefill_rank + decode_rank
        if best is None or (rank, cost_ms) < (best_rank, best.cost_ms):
            if not prefill_overflow and not fused:
                other = _relief(group, prefill, _PREFILL, avoid, "", costs)
                prefill, prefill_overflow = other or prefill, other is not None
            encode_overflow = fused and _ENCODE not in prefill.stages
            overflows = (encode_overflow, prefill_overflow, decode_overflow)
            overflow = tuple(compress(Stage, overflows)) if any(overflows) else ()
            best = PairChoice(prefill, decode, cost_ms, overflow, fused)
            best_rank = rank
    return best, best_rank


def _relief(
    pods: Iterable[PodView],
    chosen: PodView,
    stage: Stage,
    avoid: Collection[str],
    compatibility_hash: str,
    costs: Costs,
) -> PodView | None:
    """Return the pod of another role that meets the TTFT where `chosen` does not.

    Pods where answers wait for room are left alone: taking from decode while decode is loaded
    piles up finished prefills (Arrow's overload rule). So are those where answers would miss the
    TPOT for it.
    """
    best: PodView | None = None
    best_ms = costs.ttft_ms
    usual_ms = service_ms(chosen, stage, costs)
    if wait_ms(chosen, stage, costs) + usual_ms <= best_ms:
        return None
    for pod in of_hash(pods, compatibility_hash):
        if stage in pod.stages or not pod.healthy or pod.suspect or pod.name in avoid:
            continue
        if pod.loads[_DECODE].waiting or pod.kv_used_permille > costs.kv_full_permille:
            continue
        work_ms = max(usual_ms, service_ms(pod, stage, costs))  # which may never have done it
        takes_ms = wait_ms(pod, stage, costs) + work_ms
        if takes_ms < best_ms and answers_lost(pod, work_ms, costs) <= costs.overflow_price:
            best, best_ms = pod, takes_ms
    return best


def place_whole(
    pods: Iterable[PodView],
    costs: Costs,
    *,
    turn: int = 0,
    avoid: Collection[str] = _NOBODY,
    compatibility_hash: str = "",
) -> Choice | None:
    """Return the pod for a request that cannot be split; None if no pod is healthy.

    A pod offered both stages is best, then one offered decode, for that is where time is spent.
    """
    fitting = of_hash(pods, compatibility_hash)
    both = [pod for pod in fitting if _DECODE in pod.stages and _PREFILL in pod.stages]
    drawn, overflow, rank = draw(both, _DECODE, avoid)
    if rank > 0:
        drawn, overflow, _ = draw(fitting, _DECODE, avoid)
    if not drawn:
        return None
    pods = in_turn(drawn, turn, costs)
    decoding_ms = answer_waits_ms(pods, costs)
    cost_ms = [
        wait_ms(pod, _PREFILL, costs) + ms for pod, ms in zip(pods, decoding_ms, strict=True)
    ]
    best_ms = min(cost_ms)
    return Choice(pods[cost_ms.index(best_ms)], best_ms, overflow)


def place_decode(
    pods: Iterable[PodView],
    costs: Costs,
    *,
    turn: int = 0,
    avoid: Collection[str] = _NOBODY,
    compatibility_hash: str = "",
) -> Choice | None:
    """Return the pod that should decode what is prefilled already; None if no pod is healthy.

    Args:
        pods: All pods.
        costs: The constants.
        turn: A counter that breaks ties.
        avoid: Names of pods that shall not, if there are others.
        compatibility_hash: The KV cache's hash; empty: any.
    """
    drawn, overflow, _ = draw(of_hash(pods, compatibility_hash), _DECODE, avoid)
    if not drawn:
        return None
    decodes = in_turn(drawn, turn, costs)
    waits_ms = answer_waits_ms(decodes, costs)
    best_ms = min(waits_ms)
    return Choice(decodes[waits_ms.index(best_ms)], best_ms, overflow)


@dataclass(frozen=True, slots=True)
class _EncodeApart:
    """Encoding the images of a request on other pods than the one that prefills.

    Attributes:
        images: How many; 0: there is nothing to encode.
        cost_ms: Wait, work and handoff of the images, which are encoded in parallel.
        anywhere: No pod is offered encode, so that any may do it.
    """

    images: int = 0
    cost_ms: float = 0.0
    anywhere: bool = False


_NOTHING_TO_ENCODE: Final = _EncodeApart()


def _encode_apart(group: Sequence[PodView], images: int, costs: Costs, turn: int) -> _EncodeApart:
    drawn, overflow, _ = draw(group, _ENCODE, _NOBODY)
    cost_ms = costs.ec_handoff_ms + min(
        wait_ms(pod, _ENCODE, costs) + service_ms(pod, _ENCODE, costs)
        for pod in in_turn(drawn, turn, costs)
    )
    return _EncodeApart(images, cost_ms, overflow)


def _best_pair(
    prefills: Sequence[PodView],
    decodes: Sequence[PodView],
    costs: Costs,
    encode: _EncodeApart,
    embeddings_at: Collection[str],
    prefix_at: Mapping[str, float],
) -> tuple[PodView, PodView, float, bool]:
    """Return the pair of least cost: prefill, decode, cost, and whether to fuse encode.

    Waits of the two stages add up, so the best of each are the best pair of two pods; only the
    pairs of one pod with itself, which save the handoff, are compared besides.
    """
    waits_ms = answer_waits_ms(decodes, costs)
    decode_ms = min(waits_ms)
    decode = decodes[waits_ms.index(decode_ms)]
    paired_ms = decode_ms + costs.kv_handoff_ms
    decoding_ms = dict(zip(map(id, decodes), waits_ms, strict=True))
    best: tuple[PodView, PodView, bool] = (prefills[0], decode, False)
    best_ms = inf
    for pod in prefills:
        prefill_ms = wait_ms(pod, _PREFILL, costs)
        if embeddings_at and pod.name not in embeddings_at:
            prefill_ms += costs.ec_handoff_ms
        if prefix_at and (share := prefix_at.get(pod.name)):
            prefill_ms -= share * service_ms(pod, _PREFILL, costs)
        fused = False
        if encode.images:
            encode_ms = encode.cost_ms
            if encode.anywhere or _ENCODE in pod.stages:  # one image after the other
                here_ms = encode.images * service_ms(pod, _ENCODE, costs)
                here_ms += wait_ms(pod, _ENCODE, costs)
                fused = here_ms <= encode_ms
                encode_ms = min(here_ms, encode_ms)
            prefill_ms += encode_ms
        if pod is not decode and prefill_ms + paired_ms < best_ms:
            best, best_ms = (pod, decode, fused), prefill_ms + paired_ms
        same_ms = prefill_ms + decoding_ms.get(id(pod), inf)
        if same_ms < best_ms:
            best, best_ms = (pod, pod, fused), same_ms
    return best[0], best[1], best_ms, best[2]
