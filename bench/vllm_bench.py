"""`vllm`: one request over three real engines beside the same request on one; what a worker costs.

The tiny Qwen3-VL, float32 on the CPU: its compute is small, so that what disaggregation adds shows.
Requests go one at a time, each with an image of its own, through the gateway; the two ways take
turns over the same requests, and their answers must be the same. Stages are as the gateway notes
them: *service* on the worker, *queue* everything else, *handoff* within the service.
"""

import base64
import json
import random
import statistics
import time
from typing import Any

import httpx
import vllm_fleet
from fleet import EVERY_STAGE
from programs import MeasurementError, programs
from prompts import noise_png
from report import Options, Report, Table, say
from vllm_fleet import VllmFleet, cpu_share, memory_of, tiny_model

MODEL = "tiny"
WORKERS = ("w0", "w1", "w2")
WAYS = {
    "one pod (EPD)": {"w0": EVERY_STAGE},
    "three pods (E-P-D)": {"w0": "encode", "w1": "prefill", "w2": "decode"},
}
OUTPUT_TOKENS = 32
IMAGE_KIB = 48  # 128 x 128 pixels: 16 tokens
IDLE_S = 20.0

missing = vllm_fleet.missing


def measure(options: Options) -> Report:
    """Measure start, memory, an idle worker, and both ways of one request."""
    repeats = 6 if options.quick else 20
    with programs() as running:
        model = tiny_model(running)
        fleet = VllmFleet(running, MODEL)
        workers: dict[str, dict[str, Any]] = {}
        for name in WORKERS:
            start_s = fleet.start_worker(
                name, model, "--max-model-len=2048", "--kv-cache-memory-bytes=67108864"
            )
            workers[name] = {"start_s": start_s}
        fleet.set_roles(WAYS["three pods (E-P-D)"])
        fleet.start_gateway()
        found: dict[str, list[dict[str, Any]]] = {}
        for number in range(options.rounds):
            for way, roles in WAYS.items():
                say(f"round {number + 1}: {repeats} requests, {way}")
                fleet.set_roles(roles)
                fleet.until_ready()
                found.setdefault(way, []).extend(_ask(fleet, repeats))
        for name in WORKERS:
            workers[name]["memory"] = memory_of(fleet.workers[name])
        fleet.set_roles(WAYS["three pods (E-P-D)"])
        fleet.until_ready()
        time.sleep(12.0 if not options.quick else 2.0)  # leases of the last requests run out
        window_s = IDLE_S / 4 if options.quick else IDLE_S
        for name in WORKERS:
            say(f"{name} idle for {window_s:.0f} s")
            workers[name]["idle_cores"] = cpu_share(fleet.workers[name], window_s)
    return _report(found, workers)


def _ask(fleet: VllmFleet, repeats: int) -> list[dict[str, Any]]:
    """Send the requests of one round, the first two of which only warm up."""
    rng = random.Random(7)
    limits = httpx.Timeout(60.0)
    answers = []
    with httpx.Client(base_url=fleet.url, trust_env=False, timeout=limits) as client:
        for index in range(repeats + 2):
            answer = _chat(client, index, noise_png(IMAGE_KIB, rng))
            answer["gateway"] = fleet.request(answer["request_id"])
            if index >= 2:
                answers.append(answer)
    return answers


def _chat(client: httpx.Client, index: int, png: bytes) -> dict[str, Any]:
    url = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    content = [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "text", "text": f"Picture {index}: what is there to see, and what is not?"},
    ]
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": content}],
        "max_tokens": OUTPUT_TOKENS,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
    }
    start_s = time.monotonic()
    first_s, text = 0.0, ""
    with client.stream("POST", "/v1/chat/completions", json=body) as answer:
        if answer.status_code != 200:
            raise MeasurementError(f"status {answer.status_code}: {answer.read()[:200]!r}")
        for line in answer.iter_lines():
            if not line.startswith("data: {"):
                continue
            for choice in json.loads(line[6:])["choices"]:
                piece = choice["delta"].get("content") or ""
                if piece and not first_s:
                    first_s = time.monotonic()
                text += piece
    return {
        "ttft_ms": 1e3 * (first_s - start_s),
        "total_ms": 1e3 * (time.monotonic() - start_s),
        "request_id": answer.headers["x-request-id"],
        "text": text,
    }


def _report(found: dict[str, list[dict[str, Any]]], workers: dict[str, dict[str, Any]]) -> Report:
    one, three = (found[way] for way in WAYS)
    same = all(a["text"] == b["text"] for a, b in zip(one, three, strict=True))
    latency = {
        way: {
            "ttft_ms": _middle(answer["ttft_ms"] for answer in answers),
            "total_ms": _middle(answer["total_ms"] for answer in answers),
            "stages": _stages(answers),
        }
        for way, answers in found.items()
    }
    stage_rows = [
        (way, stage, *figures.values())
        for way, figures_of_way in latency.items()
        for stage, figures in figures_of_way["stages"].items()
    ]
    tables = [
        Table(
            f"One streamed request: an image, {OUTPUT_TOKENS} tokens; medians"
            f" (answers identical: {'yes' if same else 'NO'})",
            ("", "TTFT ms", "total ms"),
            [(way, f["ttft_ms"], f["total_ms"]) for way, f in latency.items()],
        ),
        Table(
            "Stage by stage, medians in ms",
            ("", "stage", "all", "queue", "service", "of it handoff"),
            stage_rows,
        ),
        Table(
            "A worker",
            (
                "",
                "start s",
                "idle cores",
                "worker MiB",
                "core MiB",
                "other MiB",
                "all, shared once",
            ),
            [(name, *_worker_row(facts)) for name, facts in workers.items()],
        ),
    ]
    return Report(tables, {"latency": latency, "same_answers": same, "workers": workers}, found)


def _middle(numbers: Any) -> float:
    return statistics.median(list(numbers))


def _stages(answers: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Return medians by stage, in the order of the stages."""
    by_stage: dict[str, list[dict[str, Any]]] = {}
    for answer in answers:
        for entry in answer["gateway"]["stages"]:
            by_stage.setdefault(entry["stage"], []).append(entry)
    names = ("duration_ms", "queue_ms", "service_ms", "handoff_ms")
    return {
        stage: {name: _middle(entry[name] for entry in entries) for name in names}
        for stage, entries in by_stage.items()
    }


def _worker_row(facts: dict[str, Any]) -> tuple[float, ...]:
    def resident(what: str) -> float:
        return sum(entry["rss"] for entry in facts["memory"] if entry["process"] == what)

    own = (resident(what) for what in ("worker", "engine core", "other"))
    together = sum(entry["pss"] for entry in facts["memory"])
    return (facts["start_s"], facts["idle_cores"], *own, together)
