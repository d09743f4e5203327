"""xllm-service's SLO_AWARE policy as released (2025-2026), as a baseline."""

from epd.vocabulary import Stage
from epd_sim.calls import Call
from epd_sim.label_router import DECODE_ROLE, PREFILL_ROLE, LabelRouter
from epd_sim.pod import Pod


class XllmSloAware(LabelRouter):
    """Picks both pods at arrival, spills prefill to idle decode pods, flips on need and on rest."""

    def arrived(self, call: Call) -> None:
        """Route a request as the released code does."""
        slo = self.slo
        prefills, decodes = self.pods(PREFILL_ROLE), self.pods(DECODE_ROLE)
        if not prefills or not decodes:
            call.prefill = call.decode = self.pods()[0]
            call.fused = bool(call.images_left)
            return
        prefill = min(prefills, key=self._estimated_ms)
        idlest = min(decodes, key=lambda pod: self._tpot_ms(pod, call))
        decode = next((p for p in decodes if self._tpot_ms(p, call) <= slo.tpot_ms), idlest)
        spare = (len(decodes) - 1) / len(decodes)
        if (
            self._estimated_ms(prefill) > slo.ttft_ms
            and decode is not idlest
            and self._tpot_ms(idlest, call) < slo.tpot_ms * spare
            and self._estimated_ms(idlest) < self._estimated_ms(prefill)
        ):
            prefill = idlest
        elif self._tpot_ms(decode, call) > slo.tpot_ms and len(prefills) > 1:
            mean_ms = sum(map(self._estimated_ms, prefills)) / len(prefills)
            relaxed = mean_ms < slo.ttft_ms * (len(prefills) - 1) / len(prefills)
            if relaxed or len(decodes) < len(prefills):
                decode = min((p for p in prefills if p is not prefill), key=self._estimated_ms)
                self.world.flip(decode, DECODE_ROLE)
        call.prefill, call.decode = prefill, decode
        call.fused = bool(call.images_left)

    def choose_prefill(self, call: Call) -> Pod:
        """Return the shortest prefill queue, for a call that lost its plan."""
        return min(self.pods(PREFILL_ROLE) or self.pods(), key=self._estimated_ms)

    def decode_pod(self, call: Call, prefilled_at: Pod) -> Pod:
        """Decode where it was planned; where it was prefilled, for a call that lost its plan."""
        return call.decode or prefilled_at

    def ended(self, call: Call, stage: Stage, pod: Pod) -> None:
        """A decode pod that has nothing left becomes a prefill pod; one always stays."""
        super().ended(call, stage, pod)
        idle = pod.role is DECODE_ROLE and not self.books[pod.index].decodes
        if idle and len(self.pods(DECODE_ROLE)) > 1:
            self.world.flip(pod, PREFILL_ROLE)

    def _estimated_ms(self, pod: Pod) -> float:
        return self.books[pod.index].prefill_ms

    def _tpot_ms(self, pod: Pod, call: Call) -> float:
        book = self.books[pod.index]
        return self.curves.decode_step(book.decodes + 1, book.decode_tokens + call.context_tokens)
