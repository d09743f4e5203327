"""Show a cluster of `epd up` under traffic as docs/seeing.md does: `make screens`.

Writes the terminal view and a request's trace into the page, between its marks, and the browser
view as docs/images/live.png (where a Chromium is installed). All of it is what the programs gave.
"""

import asyncio
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import grpc.aio
import yaml
from monitoring.live.traffic import Mix, Traffic
from monitoring.live.watched import until
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as otlp

from epd_operator.local_state import RunningCluster, StateDirectory

ROOT: Final = Path(__file__).resolve().parent.parent
PAGE: Final = ROOT / "docs" / "seeing.md"
PICTURE: Final = ROOT / "docs" / "images" / "live.png"
BROWSERS: Final = ("chromium", "chromium-browser", "google-chrome", "chrome")
WINDOW: Final = "1280,800"
TRAFFIC_S: Final = 12.0
SPANS_OF_A_REQUEST: Final = 9
EXPORT: Final = "opentelemetry.proto.collector.trace.v1.TraceService"
SHOWN: Final = ("epd.pod", "epd.handoff.from", "epd.service_ms", "epd.ttft_ms")


class Collector:
    """Keeps the spans that it gets over OTLP, by trace."""

    def __init__(self) -> None:
        """Hold nothing yet."""
        self.url = ""
        self.traces: dict[bytes, list[Any]] = {}

    async def start(self) -> grpc.aio.Server:
        """Listen on a free port of loopback; return what is to be stopped."""
        server = grpc.aio.server()
        handler = grpc.unary_unary_rpc_method_handler(self._take)
        server.add_generic_rpc_handlers(
            [grpc.method_handlers_generic_handler(EXPORT, {"Export": handler})]
        )
        self.url = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        await server.start()
        return server

    async def _take(self, request: bytes, context: object) -> bytes:
        for group in otlp.ExportTraceServiceRequest.FromString(request).resource_spans:
            for scope in group.scope_spans:
                for span in scope.spans:
                    self.traces.setdefault(span.trace_id, []).append(span)
        return b""

    def whole(self) -> list[Any] | None:
        """Return the spans of a request with every stage and both handoffs; None: not yet."""
        found = (spans for spans in list(self.traces.values()) if len(spans) == SPANS_OF_A_REQUEST)
        return next(found, None)


def tree(spans: list[Any]) -> str:
    """Return a trace as lines, each span below its parent: name, what matters of it, its time."""
    below: dict[bytes, list[Any]] = {}
    ids = {span.span_id for span in spans}
    for span in sorted(spans, key=lambda span: span.start_time_unix_nano):
        parent = span.parent_span_id if span.parent_span_id in ids else b""
        below.setdefault(parent, []).append(span)

    def lines(parent: bytes, indent: str) -> Iterator[str]:
        children = below.get(parent, [])
        for child in children:
            is_last = child is children[-1]
            branch = "" if parent == b"" else "└─ " if is_last else "├─ "
            rest = "" if parent == b"" else "   " if is_last else "│  "
            head = indent + branch + child.name
            took_ms = (child.end_time_unix_nano - child.start_time_unix_nano) / 1e6
            yield f"{head:<34} {took_ms:7.1f} ms  {_told(child)}".rstrip()
            yield from lines(child.span_id, indent + rest)

    return "\n".join(lines(b"", ""))


def _told(span: Any) -> str:
    values = {each.key: each.value for each in span.attributes}
    shown = []
    for name in SHOWN:
        if name in values:
            kind = values[name].WhichOneof("value")
            value = getattr(values[name], kind)
            shown.append(f"{name}={value:.1f}" if kind == "double_value" else f"{name}={value}")
    return "  ".join(shown)


@contextmanager
def running(folder: Path, collector: str) -> Iterator[tuple[StateDirectory, RunningCluster]]:
    """Run a cluster of four simulated pods that sends its spans to a collector."""
    manifest = yaml.safe_load((ROOT / "examples" / "simulated.yaml").read_text())
    manifest["spec"] |= {"replicas": 4, "control": {"mode": "Active", "intervalSeconds": 1}}
    (folder / "cluster.yaml").write_text(yaml.safe_dump(manifest))
    state = StateDirectory(folder / "state")
    command = [sys.executable, "-m", "epd_cli", "up", "-f", str(folder / "cluster.yaml")]
    command += ["--port", "0", "--state-dir", str(state.path)]
    traced = ["env", f"OTEL_EXPORTER_OTLP_ENDPOINT={collector}", "OTEL_BSP_SCHEDULE_DELAY=200"]
    with (folder / "up.log").open("w+") as log:
        process = subprocess.Popen([*traced, *command], stdout=log, stderr=log)
        try:
            until(lambda: "is ready after" in (folder / "up.log").read_text())
            yield state, state.read()
        finally:
            process.send_signal(signal.SIGINT)
            process.wait()


def terminal(state: StateDirectory) -> str:
    """Return what `epd top --once` prints."""
    command = [sys.executable, "-m", "epd_cli", "top", "--once", "--state-dir", str(state.path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return "\n".join(line.rstrip() for line in done.stdout.splitlines()).strip("\n")


def photograph(url: str, folder: Path) -> None:
    """Draw the browser view; without a browser the picture stays as it is."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        print("no Chromium here: docs/images/live.png stays")
        return
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'browser'}"]
    flags += [f"--screenshot={PICTURE}", f"--window-size={WINDOW}", "--virtual-time-budget=4000"]
    subprocess.run([browser, *flags, url], check=True, capture_output=True)
    print(PICTURE.relative_to(ROOT))


def put(page: str, name: str, screen: str) -> str:
    """Return a page with a screen between its marks."""
    begin, end = f"<!-- {name} -->\n```\n", "\n```\n<!-- end -->"
    before, _, rest = page.partition(begin)
    _, _, after = rest.partition(end)
    if not after:
        raise SystemExit(f"{PAGE.name} has no marks for {name!r}")
    return before + begin + screen + end + after


async def main() -> None:
    """Capture all."""
    collector = Collector()
    server = await collector.start()
    with tempfile.TemporaryDirectory(prefix="epd-screens-") as name:
        screens = await asyncio.to_thread(_capture, Path(name), collector)
    await server.stop(None)
    page = PAGE.read_text(encoding="utf-8")
    for mark, screen in screens.items():
        page = put(page, mark, screen)
    PAGE.write_text(page, encoding="utf-8")
    print(PAGE.relative_to(ROOT))


def _capture(folder: Path, collector: Collector) -> dict[str, str]:
    with (
        running(folder, collector.url) as (state, cluster),
        Traffic(cluster.gateway_url, cluster.model, Mix(clients=4, pictures=1, tokens=120)),
    ):
        time.sleep(TRAFFIC_S)
        screen = terminal(state)
        photograph(f"{cluster.admin_url}/live", folder)
        until(collector.whole)
    return {"epd top --once": screen, "a trace": tree(collector.whole() or [])}


if __name__ == "__main__":
    asyncio.run(main())
