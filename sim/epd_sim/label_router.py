"""What Arrow's and xLLM's routers share: exact books of their own, and labels that they move.

One router knows every request, so that its books are exact; a label change takes effect at once.
Neither knows a stage of its own for images: who prefills encodes.
"""

from typing import Final

from epd.policy.curves import CostCurves, RequestShape
from epd.vocabulary import Role, Stage
from epd_sim.calls import Call
from epd_sim.pod import Pod
from epd_sim.results import Slo
from epd_sim.world import World

PREFILL_ROLE: Final = Role.ENCODE_PREFILL
DECODE_ROLE: Final = Role.DECODE


class Book:
    """What the router has placed on one pod and not seen end.

    Attributes:
        prefill_ms: Predicted time of its prefills, images included.
        prefill_tokens: Their tokens.
        prefills: How many.
        decode_tokens: Context of its decodes.
        decodes: How many.
    """

    __slots__ = ("decode_tokens", "decodes", "prefill_ms", "prefill_tokens", "prefills")

    def __init__(self) -> None:
        self.prefill_ms = 0.0
        self.prefill_tokens = 0
        self.prefills = 0
        self.decode_tokens = 0
        self.decodes = 0


class LabelRouter:
    """Books and labels; a `Placer` but for its decisions."""

    def __init__(self, slo: Slo) -> None:
        self.slo = slo
        self.books: dict[int, Book] = {}

    def bind(self, world: World) -> None:
        """Learn of the world."""
        self.world = world
        self.curves: CostCurves = world.costs.curves()
        for pod in world.pods:
            self.books[pod.index] = Book()

    def pod_changed(self, pod: Pod) -> None:
        """A new pod gets a book."""
        self.books.setdefault(pod.index, Book())

    def prefill_ms(self, call: Call) -> float:
        """Return the predicted time from nothing to the first token."""
        images_ms = sum(self.curves.encode(1, n) for n in call.request.shape.image_tokens)
        return images_ms + self.curves.prefill(call.context_tokens)

    def began(self, call: Call, stage: Stage, pod: Pod) -> None:
        """Write it into the books."""
        self._count(call, stage, pod, 1)

    def ended(self, call: Call, stage: Stage, pod: Pod) -> None:
        """Strike it out."""
        self._count(call, stage, pod, -1)

    def encode_pod(self, call: Call, image: int) -> Pod:
        """Who prefills encodes; no image is ever placed alone."""
        return self.prefill_pod(call, None)

    def prefill_pod(self, call: Call, encoded_at: Pod | None) -> Pod:
        """Return who was planned at arrival."""
        return call.prefill or self.pods()[0]

    def admits(self, call: Call) -> bool:
        """Everything begins as it comes."""
        return True

    def arrived(self, call: Call) -> None:
        """Pick who prefills; who decodes is picked when the first token is out."""
        call.prefill = self.choose_prefill(call)
        call.fused = bool(call.images_left)

    def choose_prefill(self, call: Call) -> Pod:
        """Return who prefills."""
        raise NotImplementedError

    def pods(self, role: Role | None = None) -> list[Pod]:
        """Return the pods that take work, of one label or all."""
        return [p for p in self.world.pods if p.offered and (role is None or p.role is role)]

    def max_decode_tokens(self, context: float) -> float:
        """Return the context that a pod can decode at once with steps within the TPOT SLO."""
        shape = RequestShape(prompt_tokens=max(1.0, context))
        return self.curves.decode_batch(shape, self.slo.tpot_ms) * max(1.0, context)

    def decode_load(self) -> float:
        """Return the mean predicted step of the decode pods, as a share of the TPOT SLO."""
        pods = self.pods(DECODE_ROLE)
        steps = [
            self.curves.decode_step(book.decodes, book.decode_tokens)
            for pod in pods
            if (book := self.books[pod.index]).decodes
        ]
        return sum(steps) / len(pods) / self.slo.tpot_ms if pods else 0.0

    def _count(self, call: Call, stage: Stage, pod: Pod, sign: int) -> None:
        book = self.books[pod.index]
        tokens = call.request.shape.prompt_tokens
        if stage is Stage.DECODE:
            book.decodes += sign
            book.decode_tokens += sign * tokens
        elif stage is Stage.PREFILL:
            book.prefills += sign
            book.prefill_tokens += sign * tokens
            book.prefill_ms += sign * self.curves.prefill(tokens)
        else:
            images = call.request.shape.image_tokens
            mean = sum(images) / len(images)
            book.prefill_ms += sign * self.curves.encode(1, mean)
