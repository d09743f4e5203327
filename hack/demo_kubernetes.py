"""The demo on a real Kubernetes: `make demo`.

Boots a node on this machine, installs the charts with Helm, applies an `EPDCluster`, chats with
pictures through the gateway's Service, relabels pods while streams run, and shows that nothing was
lost. Every claim of the last line is checked; if one does not hold, the exit status is 1.

Where there is no root or no Kubernetes to be had, it says so in one line and runs `epd demo`: the
same cluster as processes of this machine. With `--mine` it runs on the cluster of KUBECONFIG, and
removes what it made there.
"""

import argparse
import asyncio
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml
from demo_cluster import NAMESPACE, DemoCluster
from demo_reach import OwnNode, Reach, UsersCluster, program
from kube.api import KubectlError
from kube.bed import BedError
from kube.binaries import ROOT, UnavailableError
from kube.node import Node

from epd.api import EngineType, EPDCluster, load_cluster
from epd.vocabulary import GATEWAY_ADMIN_PORT, ROLE_LABEL, Role, Stage
from epd_cli import demo_model
from epd_cli.demo_flips import PROBE_BURSTS
from epd_cli.demo_rotation import rotation
from epd_cli.demo_streams import Client, Slot, long_chats, plain_chats, probe
from epd_cli.demo_timeline import LEGEND, draw_roles
from epd_cli.failures import CommandError
from epd_cli.tables import print_table

EPD: Final = (sys.executable, "-m", "epd_cli")
STREAMS: Final = 8
STREAM_TOKENS: Final = 96


class NotHere(Exception):
    """There is no Kubernetes to be had on this machine; one line says why."""


def main() -> int:
    """Run the demo."""
    parser = argparse.ArgumentParser(description=__doc__, prog="make demo")
    parser.add_argument("-f", "--file", type=Path, default=ROOT / "examples" / "tiny.yaml")
    parser.add_argument("--keep", action="store_true", help="leave it up until Ctrl-C")
    parser.add_argument("--mine", action="store_true", help="run on the cluster of KUBECONFIG")
    parser.add_argument("--values", type=Path, help="values of the chart epd, such as images")
    options = parser.parse_args()
    try:
        cluster = load_cluster(options.file)
        return asyncio.run(_demo(cluster, options))
    except NotHere as why:
        print(f"no Kubernetes on this machine ({why}): the cluster runs as processes instead\n")
        keep = ["--keep"] if options.keep else []
        return subprocess.run([*EPD, "demo", "-f", options.file, *keep], check=False).returncode
    except (BedError, CommandError, KubectlError, subprocess.CalledProcessError) as error:
        print(f"demo: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


async def _demo(cluster: EPDCluster, options: argparse.Namespace) -> int:
    if options.mine:
        with UsersCluster() as reach:
            where = "its nodes have our files" if reach.has_our_files else "images by their names"
            _step(1, f"The cluster of KUBECONFIG={reach.kubeconfig} ({where})")
            if reach.has_our_files:
                await demo_model.ensure(cluster)
            return await _show(reach, cluster, options)
    try:
        program("helm")
        bed = Node()
    except UnavailableError as error:
        raise NotHere(str(error)) from None
    _step(1, "The model")
    await demo_model.ensure(cluster)
    _step(2, "A Kubernetes node on this machine: control plane, kubelet, containerd, DNS")
    began_s = time.monotonic()
    with bed as node:
        print(f"  ready after {time.monotonic() - began_s:.1f} s")
        return await _show(OwnNode(node), cluster, options)


async def _show(reach: Reach, cluster: EPDCluster, options: argparse.Namespace) -> int:
    demo = Demo(reach, yaml.safe_load(options.file.read_text()), options.values)
    demo.exact = cluster.spec.engine.type is EngineType.SIMULATED or any(
        "float32" in argument for argument in cluster.spec.engine.args
    )
    try:
        faults = await demo.run()
        if options.keep:
            print(demo.how_to_use(), flush=True)
            with suppress(asyncio.CancelledError):  # Ctrl-C
                await asyncio.Event().wait()
    finally:
        # A node of ours goes as a whole.
        if options.mine:
            demo.remove()
    return 1 if faults else 0


def _step(number: int, title: str) -> None:
    print(f"\n{number}. {title}", flush=True)


@dataclass(slots=True)
class FlipRecord:
    """One flip, and the work of each stage that its pod has begun since."""

    at_s: float
    pod: str
    before: Role
    after: Role
    gained: dict[str, int]

    @property
    def took_effect(self) -> bool:
        """Whether the pod has begun work of every stage that is new to it."""
        return all(self.gained.values())


class Demo:
    """What is shown on a Kubernetes that is up."""

    def __init__(self, reach: Reach, manifest: dict[str, Any], values: Path | None) -> None:
        """Show `manifest` on the cluster of `reach`; see `DemoCluster`."""
        self._reach = reach
        self._cluster = DemoCluster(reach, manifest, values)
        self._model: str = manifest["spec"]["model"]["servedName"]
        self.exact = True
        self._probes = 0

    async def run(self) -> list[str]:
        """Run every step; return what did not hold."""
        _step(3, "The operator: helm install epd-crds, helm install epd")
        self._cluster.install()
        _step(4, f"kubectl apply -f {self._cluster.name}.yaml, until it is Ready")
        await self._cluster.apply()
        print(self._how_to_watch(), flush=True)
        client = Client(self._cluster.base_url, self._model, self._cluster.key)
        try:
            _step(5, "Chats through the gateway's Service, by the openai client")
            await self._chats(client)
            _step(6, f"{STREAMS} streams with nothing else going on: the reference")
            slots = await self._references(client)
            _step(7, "The same streams again and again, while pods are relabelled")
            before = self._cluster.containers()
            records = await self._flips(client, slots)
        finally:
            await client.close()
        _step(8, "The result")
        return self._verdict(slots, records, before)

    def remove(self) -> None:
        """Remove what was made."""
        _step(9, "Everything that was made is removed; the kind EPDCluster stays")
        self._cluster.remove()

    def _how_to_watch(self) -> str:
        """Say how to see flips happen, in a terminal and in a browser."""
        name, admin = self._cluster.name, GATEWAY_ADMIN_PORT
        kubeconfig = shlex.quote(self._reach.kubeconfig)
        programs = shlex.quote(f"{ROOT / '.venv' / 'bin'}:{program('kubectl').parent}")
        return f"""  Watch it from another terminal, and at http://127.0.0.1:{admin}/live:
    export KUBECONFIG={kubeconfig} PATH={programs}:$PATH
    kubectl epd top {name} -n {NAMESPACE}
    kubectl port-forward deploy/{name}-gateway {admin} -n {NAMESPACE}
  It has no Prometheus. While that forwards, this starts one, and draws the dashboards at Ctrl-C:
    make dashboards-preview WATCH=127.0.0.1:{admin}"""

    def how_to_use(self) -> str:
        """Say what else one may do from that terminal."""
        return f"""
It stays up until Ctrl-C. From the other terminal, besides:
  kubectl -n {NAMESPACE} get epd,pods -L {ROLE_LABEL}
  kubectl -n {NAMESPACE} label pod {self._cluster.name}-0 --overwrite {ROLE_LABEL}=prefill
  curl {self._cluster.base_url}/models -H 'Authorization: Bearer {self._cluster.key}'
"""

    # Showing.

    async def _chats(self, client: Client) -> None:
        rows = []
        for ask in plain_chats(with_images=True):
            before = await self._cluster.started()
            answer = await client.ask(ask)
            if answer.error:
                raise CommandError(f"a chat failed: {answer.error}")
            now = await self._cluster.started()
            where = [
                ", ".join(pod for (pod, s), n in now.items() if s == stage and n > before[pod, s])
                for stage in Stage
            ]
            ttft = "-" if answer.ttft_ms is None else f"{answer.ttft_ms:.0f} ms"
            rows.append([ask.title, *(each or "-" for each in where), ttft])
            rows[-1] += [f"{answer.took_ms:.0f} ms", str(answer.output_tokens)]
        columns = ["REQUEST", "ENCODE", "PREFILL", "DECODE", "TTFT", "TOTAL", "TOKENS"]
        print_table(columns, rows, indent=2)

    async def _references(self, client: Client) -> list[Slot]:
        asks = long_chats(STREAMS, with_images=True, max_tokens=STREAM_TOKENS)
        began_s = time.monotonic()
        answers = await asyncio.gather(*(client.ask(ask) for ask in asks))
        for answer in answers:
            if answer.error:
                raise CommandError(f"a reference stream failed: {answer.error}")
        tokens = sum(answer.output_tokens for answer in answers)
        print(f"  {tokens} tokens in {time.monotonic() - began_s:.1f} s")
        return [Slot(ask, answer) for ask, answer in zip(asks, answers, strict=True)]

    async def _flips(self, client: Client, slots: Sequence[Slot]) -> list[FlipRecord]:
        enough = asyncio.Event()
        tasks = [asyncio.create_task(slot.repeat(client, enough)) for slot in slots]
        began_s = time.monotonic()
        initial = self._cluster.roles()
        records: list[FlipRecord] = []
        try:
            names = list(initial)
            for index, role in rotation(list(initial.values())):
                record = await self._flip(client, names[index], role, began_s)
                effects = ", ".join(f"{stage} +{count}" for stage, count in record.gained.items())
                print(
                    f"  {record.at_s:5.1f} s  {record.pod}: {record.before} → {role}; "
                    f"work it began since: {effects or 'nothing new to it'}",
                    flush=True,
                )
                records.append(record)
            enough.set()
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        took_s = time.monotonic() - began_s
        print(f"\n  roles over {took_s:.1f} s ({LEGEND})")
        changes = [(record.at_s, record.pod, record.after) for record in records]
        for line in draw_roles(initial, changes, took_s):
            print(f"  {line}")
        return records

    async def _flip(self, client: Client, pod: str, role: Role, began_s: float) -> FlipRecord:
        before = self._cluster.roles()[pod]
        self._cluster.relabel(pod, role)
        at_s = time.monotonic() - began_s
        first = await self._cluster.started()
        gained = {stage.value: 0 for stage in sorted(role.stages - before.stages)}
        record = FlipRecord(at_s, pod, before, role, gained)
        for count in PROBE_BURSTS:
            numbers = range(self._probes, self._probes + count)
            self._probes += count
            asks = [client.ask(probe(number, with_images=True)) for number in numbers]
            for answer in await asyncio.gather(*asks):
                if answer.error:
                    raise CommandError(f"a chat after a flip failed: {answer.error}")
            now = await self._cluster.started()
            for stage in gained:
                gained[stage] = round(now[pod, stage] - first[pod, stage])
            if record.took_effect:
                break
        return record

    def _verdict(
        self,
        slots: Sequence[Slot],
        records: Sequence[FlipRecord],
        before: Mapping[str, tuple[str, int]],
    ) -> list[str]:
        answers = sum(len(slot.answers) for slot in slots)
        different = sum(slot.different for slot in slots)
        faults = [f"error: {error}" for slot in slots for error in slot.errors]
        if different and self.exact:
            faults.append(f"{different} of {answers} streams differ from their reference")
        faults += [
            f"no work of its new role reached {record.pod} after it became {record.after}"
            for record in records
            if not record.took_effect
        ]
        if (now := self._cluster.containers()) != before:
            faults.append(f"containers are not the ones they were: {before}, now {now}")
        for fault in faults:
            print(f"  LOST  {fault}")
        print(f"  {answers - different} of {answers} streams are identical to their reference")
        if not faults:
            print(f"\nnothing lost: {answers} streams, {len(records)} flips, 0 errors, 0 restarts")
        return faults


if __name__ == "__main__":
    sys.exit(main())
