"""What `kubectl epd plan` prints, made from its document; no I/O."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

PLAN_COLUMNS: Final = ("METHOD", "PODS", "SPLIT", "MET SLO", "WEAKEST")


def heading(plan: Mapping[str, Any]) -> Iterator[str]:
    """Yield what the plan rests on, in lines."""
    traffic, slo, now = plan["traffic"], plan["slo"], plan["now"]
    yield f"{plan['cluster']}: {now['pods']} pods, method {now['method']}: {_split(now['split'])}"
    yield (
        f"Traffic of the last {traffic['window_s']} s: {traffic['requests_per_s']:.2f} requests/s, "
        f"{_kinds(traffic)}"
    )
    measured = [
        f"{name} {traffic[key]:.0f} ms"
        for name, key in (("TTFT", "ttft_ms"), ("TPOT", "tpot_ms"))
        if traffic[key] is not None
    ]
    yield (
        f"Objective: TTFT {slo['ttft_ms']:g} ms, mean TPOT {slo['tpot_ms']:g} ms, "
        f"{slo['attainment']:.0%} of requests"
        + (f"; so many have {' and '.join(measured)} now" if measured else "")
    )
    drawn = plan["simulated"]
    yield (
        f"Costs: {plan['costs']}; {drawn['requests']} requests simulated, drawn around the means "
        f"(seed {drawn['seed']})"
    )


def rows(plan: Mapping[str, Any]) -> list[Sequence[str]]:
    """Return the table: a line a method, then what there is now."""
    found: list[Sequence[str]] = [
        (
            each["method"],
            str(each["pods"]) if each["meets_slo"] else f"more than {each['pods']}",
            _split(each["split"]),
            f"{each['attainment']:.1%}",
            each["weakest"],
        )
        for each in plan["plans"]
    ]
    now = plan["now"]
    if now["attainment"] is not None:
        split = now["split"]
        pods = str(sum(split.values()))
        found.append(("as it is", pods, _split(split), f"{now['attainment']:.1%}", ""))
    return found


def advice(plan: Mapping[str, Any]) -> Iterator[str]:
    """Yield what to take, why, and how."""
    best = plan["plans"][0]
    yield (
        f"Take {best['pods']} pods, method {best['method']}: {_split(best['split'])}. "
        f"{best['weakest']} is its weakest role: {best['predicted_requests_per_s']:.2f} requests/s "
        f"by arithmetic, {plan['traffic']['requests_per_s']:.2f} come."
    )
    for other in plan["plans"][1:]:
        if other["pods"] > best["pods"] or not other["meets_slo"]:
            more = "" if other["meets_slo"] else "more than "
            yield f"  {other['method']} would take {more}{other['pods']}."
        else:
            yield f"  {other['method']} meets it with as many, {other['attainment']:.1%}."
    yield f"  {plan['command']}" if plan["command"] else "That is what it has: nothing to do."


def _kinds(traffic: Mapping[str, Any]) -> str:
    words = f"prompts of {traffic['text_tokens']:.0f} tokens of text"
    if not traffic["image_share"]:
        return f"no images; {words}, answers of {traffic['output_tokens']:.0f}"
    answers = f"{traffic['output_tokens']:.0f}, to images {traffic['image_output_tokens']:.0f}"
    return (
        f"{traffic['image_share']:.0%} with {traffic['images']:.1f} images of "
        f"{traffic['image_tokens']:.0f} tokens; {words}, answers of {answers}"
    )


def _split(split: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {role}" for role, count in split.items()) or "no pod is ready"
