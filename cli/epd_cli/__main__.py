"""`epd`: parses the command line and turns whatever goes wrong into one line.

Exit status: 0 done, 1 it did not work, 2 what was asked for makes no sense, 130 interrupted.
Commands are imported when they are chosen: `epd up` must not wait for the libraries of `epd chat`.
"""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NoReturn

from epd.vocabulary import Env, Role
from epd_cli import study_options

EXAMPLES: Final = """\
examples:
  epd demo                                      see everything at once
  epd up -f examples/tiny.yaml                  run a cluster here until Ctrl-C
  epd status                                    its pods, their roles and load
  epd top                                       the same at one look, anew each second
  epd chat --image photo.png "What is this?"    ask it, and see which pod did what
  epd flip tiny-2 encode-prefill                change the role of a running pod
  epd plan --rate 10                            how many pods, split how
  epd simulate square-wave                      what other policies would make of a traffic
"""


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong with a command line."""

    def error(self, message: str) -> NoReturn:
        """Print the line and exit with 2."""
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    root = Parser(
        prog="epd",
        description="Encode, prefill and decode of multimodal models on one fleet of vLLM pods.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = root.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _add_up(commands)
    _add_status(commands)
    _add_top(commands)
    _add_logs(commands)
    _add_flip(commands)
    _add_fault(commands)
    _add_chat(commands)
    _add_demo(commands)
    _add_profile(commands)
    study_options.add_simulate(
        _command(
            commands,
            "simulate",
            "Serve a traffic in the simulated world, by one policy after the other.",
            study_options.SIMULATE_EXAMPLES,
        )
    )
    study_options.add_plan(
        _command(
            commands,
            "plan",
            "Find the smallest fleet, and its split, for a traffic and an objective.",
            study_options.PLAN_EXAMPLES,
        )
    )
    return root


if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[Parser]


def _command(commands: "Commands", name: str, summary: str, examples: str) -> Parser:
    return commands.add_parser(
        name,
        help=summary,
        description=summary,
        epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _add_up(commands: "Commands") -> None:
    command = _command(
        commands,
        "up",
        "Run a cluster on this machine, as processes, until Ctrl-C.",
        "  epd up -f examples/simulated.yaml\n  epd up -f examples/tiny.yaml --port 8080\n",
    )
    command.add_argument(
        "-f", "--file", required=True, metavar="CLUSTER.yaml", help="an EPDCluster manifest"
    )
    _add_listening(command)
    command.add_argument(
        "--state-dir",
        metavar="DIR",
        help="where roster and logs go; logs stay there "
        "(default: a private folder that is removed at the end)",
    )


def _add_listening(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--host", default="127.0.0.1", help="address the gateway listens on (%(default)s)"
    )
    command.add_argument(
        "--port",
        type=_port,
        metavar="PORT",
        help="port the gateway listens on; 0 takes a free one (default: spec.gateway.port)",
    )


def _add_cluster_choice(command: argparse.ArgumentParser) -> None:
    choice = command.add_mutually_exclusive_group()
    choice.add_argument("--cluster", metavar="NAME", help="which cluster, if several run here")
    choice.add_argument("--state-dir", metavar="DIR", help="the --state-dir it was started with")


def _add_status(commands: "Commands") -> None:
    command = _command(
        commands,
        "status",
        "Show the pods of a running cluster: role, process, load.",
        "  epd status\n  epd status -o json | jq '.pods[].role'\n",
    )
    command.add_argument("-o", "--output", choices=("table", "json"), default="table")
    _add_cluster_choice(command)


def _add_top(commands: "Commands") -> None:
    command = _command(
        commands,
        "top",
        "Show pods, stages, objective and decisions at one look, anew each second.",
        "  epd top\n  epd top --once\n",
    )
    command.add_argument("--once", action="store_true", help="print plain text, once")
    _add_cluster_choice(command)


def _add_logs(commands: "Commands") -> None:
    command = _command(
        commands,
        "logs",
        "Show the last lines that pods and gateway of a running cluster wrote.",
        "  epd logs\n  epd logs gateway tiny-2 --tail 100\n",
    )
    command.add_argument(
        "names", nargs="*", metavar="POD", help="a pod, or gateway (default: all of them)"
    )
    command.add_argument(
        "--tail", type=_count, default=20, metavar="LINES", help="of each (%(default)s)"
    )
    _add_cluster_choice(command)


def _add_flip(commands: "Commands") -> None:
    command = _command(
        commands,
        "flip",
        "Change the role of a running pod. Nothing restarts, no stream is dropped.",
        "  epd flip tiny-0 decode\n  epd flip tiny-2 encode-prefill\n",
    )
    command.add_argument("pod", metavar="POD", help="a pod's name, as epd status shows it")
    command.add_argument("role", metavar="ROLE", help=", ".join(Role))
    _add_cluster_choice(command)


def _add_fault(commands: "Commands") -> None:
    command = _command(
        commands,
        "fault",
        "Harm a pod of a cluster here, to see what becomes of its requests.",
        "  epd fault kill tiny-2\n  epd fault freeze tiny-1 --for 20\n  epd fault slow tiny-1\n"
        "  epd fault lossy-handoff tiny-2 --share 0.3 --for 60\n",
    )
    command.add_argument("fault", choices=("kill", "freeze", "slow", "lossy-handoff"))
    command.add_argument("pod", metavar="POD", help="a pod's name, as epd status shows it")
    command.add_argument(
        "--for",
        dest="seconds",
        type=_seconds,
        default=10.0,
        metavar="SECONDS",
        help="how long it stands still, is slow or loses handoffs (%(default)g)",
    )
    command.add_argument(
        "--share",
        type=_share,
        default=0.5,
        metavar="SHARE",
        help="of the handoffs that lossy-handoff loses, up to 1 (%(default)g)",
    )
    _add_cluster_choice(command)


def _add_chat(commands: "Commands") -> None:
    command = _command(
        commands,
        "chat",
        "Ask the model; show the answer as it comes, then which pod did what.",
        '  epd chat "Tell me a story"\n  epd chat --image a.png --image b.png "Compare these."\n',
    )
    command.add_argument("prompt", metavar="PROMPT")
    command.add_argument(
        "--image", action="append", default=[], metavar="FILE", help="may be given several times"
    )
    command.add_argument("--max-tokens", type=_count, default=64, metavar="N", help="(%(default)s)")
    command.add_argument("--url", help="base URL of another gateway, such as http://host:8000/v1")
    command.add_argument("--model", help="model to ask for (default: the one that is served)")
    _add_cluster_choice(command)


def _add_demo(commands: "Commands") -> None:
    command = _command(
        commands,
        "demo",
        "Start a cluster, chat with it, flip its pods while streams run, check that all is well.",
        "  epd demo\n  epd demo --keep\n  epd demo -f examples/simulated.yaml\n",
    )
    command.add_argument(
        "-f",
        "--file",
        default="examples/tiny.yaml",
        metavar="CLUSTER.yaml",
        help="an EPDCluster manifest (%(default)s)",
    )
    command.add_argument("--keep", action="store_true", help="leave the cluster up until Ctrl-C")
    _add_listening(command)


def _add_profile(commands: "Commands") -> None:
    command = _command(
        commands,
        "profile",
        "Measure what the stages cost on a live worker; write the curves for epd simulate.",
        "  epd profile tiny-0 -o tiny.yaml                      handoffs to another pod, too\n"
        "  epd profile 10.0.0.7:9000 --taker 10.0.0.8:9000 -o h200.yaml\n"
        "  epd simulate smooth --model h200.yaml\n"
        "  epd profile --from aiconfigurator --model Qwen/Qwen3-VL-8B-Instruct --gpu b200 "
        "-o b200.yaml\n\n"
        "Prompts and pictures are drawn at random, so that no cache helps. The worker should\n"
        "have nothing else to do.\n",
    )
    command.add_argument(
        "worker",
        nargs="?",
        metavar="POD|HOST:PORT",
        help="a pod of epd status, or where a worker listens",
    )
    command.add_argument(
        "--from",
        dest="source",
        choices=("aiconfigurator",),
        help="NVIDIA's measured kernel times instead of a worker; needs no GPU",
    )
    command.add_argument("--model", metavar="NAME", help="for --from: as on Hugging Face")
    command.add_argument("--gpu", metavar="GPU", help="for --from: h100, h200, b200, h100_pcie, …")
    command.add_argument(
        "--taker",
        metavar="POD|HOST:PORT",
        help="a second worker, to measure handoffs to (default: another pod of the same cluster)",
    )
    command.add_argument("-o", "--output", required=True, metavar="FILE", help="the curves file")
    command.add_argument(
        "--repeats",
        type=_count,
        default=7,
        metavar="N",
        help="rounds over all sizes at least; more where the machine is not quiet (%(default)s)",
    )
    command.add_argument("--quick", action="store_true", help="the smaller sizes only")
    command.add_argument(
        "--seed",
        type=int,
        metavar="N",
        help="of prompts and pictures (default: another at each run, for workers cache)",
    )
    _add_cluster_choice(command)


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65_535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port; 0 to 65535 are")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds up to 3600")
    return seconds


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no share; above 0 and up to 1 are")
    return share


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no positive whole number")
    return int(text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status."""
    options = parser().parse_args(arguments)
    from epd_cli.failures import FAILURES, status_of

    try:
        command = importlib.import_module(f"epd_cli.{options.command}")
        status: int = command.run(options)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read our output has gone; Python would complain when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except FAILURES as failure:
        print(f"epd {options.command}: {failure}", file=sys.stderr)
        return status_of(failure)
    except Exception as defect:
        if os.environ.get(Env.LOG_LEVEL) == "debug":
            raise
        name = type(defect).__name__
        print(
            f"epd {options.command}: a defect of ours, {name}: {defect} "
            f"({Env.LOG_LEVEL}=debug shows where)",
            file=sys.stderr,
        )
        return 1
    return status


if __name__ == "__main__":
    sys.exit(main())
