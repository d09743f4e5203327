"""Draw the pictures of docs/concepts.md, or with `--check` compare those that are drawn by hand.

The last one is a run of the simulator: the production code of the control loop on simulated pods.
It is not compared, for it may change with every improvement of that code.
"""

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.patches import FancyBboxPatch, Rectangle

from epd.vocabulary import Method, Role
from epd_sim.costs import H200_QWEN3_VL_8B
from epd_sim.policies import Setup, run
from epd_sim.scenarios import SCENARIOS, square_wave
from epd_sim.study import split_over_time

IMAGES: Final = Path(__file__).resolve().parent.parent / "docs" / "images"
ENCODE, PREFILL, DECODE = "#e0a030", "#3f78c0", "#3f8f5f"
COLOURS: Final = {Role.ENCODE: ENCODE, Role.PREFILL: PREFILL, Role.DECODE: DECODE}
GREY, INK = "#888888", "#222222"
SEED, RATE, SECONDS, PERIOD_S = 1, 12.0, 360.0, 180.0


class Sheet:
    """A page of boxes, words and arrows, in units of a tenth of an inch."""

    def __init__(self, width: float, height: float) -> None:
        """Begin an empty one."""
        self.figure = plt.figure(figsize=(width / 10, height / 10), facecolor="white")
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set(xlim=(0, width), ylim=(0, height))
        self.axes.axis("off")

    def box(self, x: float, y: float, width: float, height: float, colour: str, **how: Any) -> None:
        """Draw a box from its lower left corner."""
        style = "round,pad=0,rounding_size=0.8"
        look = {"facecolor": colour, "edgecolor": INK, "linewidth": 0.8, **how}
        self.axes.add_patch(FancyBboxPatch((x, y), width, height, boxstyle=style, **look))

    def bar(self, x: float, y: float, width: float, full: float, colour: str) -> None:
        """Draw how much of something there is."""
        self.axes.add_patch(Rectangle((x, y), width, 1, facecolor="#eeeeee"))
        self.axes.add_patch(Rectangle((x, y), width * full, 1, facecolor=colour))

    def words(self, x: float, y: float, text: str, **how: Any) -> None:
        """Write, centred unless told otherwise."""
        look = {"ha": "center", "va": "center", "fontsize": 9, "color": INK, **how}
        self.axes.text(x, y, text, **look)

    def arrow(self, x: float, y: float, to_x: float, to_y: float, colour: str = INK) -> None:
        """Draw an arrow."""
        look = {"arrowstyle": "-|>", "color": colour, "linewidth": 1.2, "shrinkA": 0, "shrinkB": 0}
        self.axes.annotate("", (to_x, to_y), (x, y), arrowprops=look)


def stages() -> Any:
    """One request through three stages, and what each asks of a GPU."""
    sheet = Sheet(88, 34)
    kinds = (
        (14, "encode", "each image", ENCODE, 0.9, 0.2),
        (40, "prefill", "the prompt, at once", PREFILL, 1.0, 0.3),
        (66, "decode", "a token, and another …", DECODE, 0.15, 0.95),
    )
    for x, name, what, colour, computing, bandwidth in kinds:
        sheet.box(x, 16, 15, 8, colour)
        sheet.words(x + 7.5, 21.5, name, color="white", weight="bold", fontsize=11)
        sheet.words(x + 7.5, 18.3, what, color="white", fontsize=7.5)
        sheet.words(x, 12.5, "computing", ha="left", fontsize=7.5)
        sheet.bar(x, 10, 15, computing, colour)
        sheet.words(x, 7.5, "memory bandwidth", ha="left", fontsize=7.5)
        sheet.bar(x, 5, 15, bandwidth, colour)
    sheet.words(5, 20, "client", weight="bold")
    sheet.arrow(8.5, 20, 14, 20)
    sheet.words(11, 21.5, "images", fontsize=7)
    for x, name in ((29, "embeddings\n(EC)"), (55, "KV cache")):
        sheet.arrow(x, 20, x + 11, 20)
        sheet.words(x + 5.2, 22 if "\n" not in name else 22.5, name, fontsize=7.5)
    for x, to_y, name in (
        (47.5, 30, "token 1: the TTFT ends"),
        (73.5, 30, "token 2, 3, …: the TPOT"),
    ):
        sheet.arrow(x, 24, x, to_y)
        sheet.words(x, 31.7, name, fontsize=8)
    return sheet.figure


def roles() -> Any:
    """Pods of one kind each, beside pods that are only offered some of what they can do."""
    sheet = Sheet(88, 34)
    sheet.words(20, 31.5, "elsewhere: a pod is of one kind", weight="bold")
    sheet.words(66, 31.5, "here: a role says what a pod is offered", weight="bold")
    kinds = ((ENCODE, "E"), (PREFILL, "P"), (DECODE, "D"), (DECODE, "D"))
    for index, (colour, letter) in enumerate(kinds):
        sheet.box(2 + 9.5 * index, 17, 7.5, 8, colour)
        sheet.words(5.75 + 9.5 * index, 21, letter, color="white", weight="bold", fontsize=13)
    sheet.words(20, 11, "another split: delete a pod, start a pod, load the weights", fontsize=8)
    sheet.words(20, 7, "minutes, and streams are cut or drained", fontsize=8, color="#a02020")
    offered = (("E",), ("P",), ("D",), ("E", "D"))
    names = ("encode", "prefill", "decode", "encode-decode")
    for index, (letters, name) in enumerate(zip(offered, names, strict=True)):
        x = 46 + 10.5 * index
        sheet.box(x, 17, 9, 8, "#f4f4f4")
        for place, (colour, letter) in enumerate(kinds[:3]):
            has = letter in letters
            fill = colour if has else "white"
            sheet.box(x + 0.7 + 2.6 * place, 19.6, 2.3, 3, fill, edgecolor=colour)
            ink = "white" if has else colour
            sheet.words(x + 1.85 + 2.6 * place, 21, letter, color=ink, fontsize=8)
        sheet.words(x + 4.5, 15.2, name, fontsize=7.5)
    sheet.words(
        66, 11, "another split: write another label; every pod can do all of it", fontsize=8
    )
    sheet.words(66, 7, "milliseconds, and no stream notices", fontsize=8, color="#207040")
    return sheet.figure


def flip() -> Any:
    """A pod goes from decode to encode while it streams."""
    sheet = Sheet(88, 36)
    written, done, right = 38, 46, 86
    for y, name in ((27, "label"), (19.5, "gateways"), (9, "the pod")):
        sheet.words(1, y, name, ha="left", weight="bold")
    sheet.box(12, 25.5, written - 12, 3, DECODE)
    sheet.box(written, 25.5, right - written, 3, ENCODE)
    sheet.words(25, 27, "decode", color="white")
    sheet.words(62, 27, "encode", color="white")
    for index, seen in enumerate((41, done)):
        y = 20.3 - 2.6 * index
        sheet.box(12, y, seen - 12, 2, DECODE, linewidth=0.4)
        sheet.box(seen, y, right - seen, 2, ENCODE, linewidth=0.4)
        sheet.words(25, y + 1, "offer it decode", color="white", fontsize=7)
        sheet.words(66, y + 1, "offer it images to encode", color="white", fontsize=7)
    for y, start, end in ((12.5, 13, 60), (10, 20, 71), (7.5, 34, 52)):
        sheet.box(start, y, end - start, 1.7, DECODE, linewidth=0.4)
    for x in (48, 57, 66, 74, 80):
        sheet.box(x, 4.5, 4, 1.7, ENCODE, linewidth=0.4)
    sheet.words(72, 12.6, "streams that have begun", ha="left", fontsize=7.5)
    sheet.words(73, 10.2, "go on here to their end", ha="left", fontsize=7.5)
    for x, name, place in ((written, "the label is written", "right"), (done, "done", "left")):
        sheet.axes.plot([x, x], [3, 31], color=GREY, linewidth=0.8, linestyle="--")
        sheet.words(x, 32.5, f" {name} ", ha=place, fontsize=8)
    sheet.words(0.5 * (written + done), 1.5, "a few milliseconds", fontsize=8)
    return sheet.figure


def loop() -> Any:
    """Pods by role in the simulator while the share of images jumps."""
    scenario = SCENARIOS["square-wave"]
    setup = Setup(H200_QWEN3_VL_8B.slowed(3), scenario.slo, method=Method.E_P_D)
    outcome = run(setup, "elastic", square_wave(RATE, SECONDS, SEED, period_s=PERIOD_S))
    timeline = split_over_time(outcome)
    times = [*(at_s for at_s, _ in timeline), SECONDS]
    figure, axes = plt.subplots(figsize=(8.8, 3.4), facecolor="white")
    counts = [[split.get(role, 0) for _, split in timeline] for role in COLOURS]
    axes.stackplot(
        times,
        [[*row, row[-1]] for row in counts],
        step="post",
        colors=list(COLOURS.values()),
        labels=[str(role) for role in COLOURS],
    )
    for turn in range(1, round(SECONDS / PERIOD_S * 2)):
        axes.axvline(turn * PERIOD_S / 2, color="white", linestyle="--", linewidth=1.5)
    phases = ("90 % have images", "10 % have images")
    for turn in range(round(SECONDS / PERIOD_S * 2)):
        axes.text((turn + 0.5) * PERIOD_S / 2, 8.15, phases[turn % 2], ha="center", fontsize=8)
    axes.set(xlim=(0, SECONDS), ylim=(0, 8), xlabel="seconds", ylabel="pods")
    axes.legend(loc="lower left", fontsize=8)
    share = outcome.results.attainment(scenario.slo)
    title = f"{RATE:g} requests a second on 8 simulated pods: {outcome.results.flips} flips, "
    figure.suptitle(f"{title}{share:.0%} met the objective", fontsize=9, y=0.97)
    figure.tight_layout()
    return figure


BY_HAND: Final[dict[str, Callable[[], Any]]] = {"stages": stages, "roles": roles, "flip": flip}


def svg(draw: Callable[[], Any]) -> str:
    """Return a picture as text that is the same at every run."""
    with mpl.rc_context({"svg.hashsalt": "epd", "svg.fonttype": "none"}):
        figure = draw()
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
        plt.close(figure)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n"


def main(arguments: list[str]) -> int:
    """Draw or compare; return the exit status."""
    mpl.use("Agg")
    check = arguments == ["--check"]
    for name, draw in (BY_HAND if check else {**BY_HAND, "loop": loop}).items():
        path = IMAGES / f"concept-{name}.svg"
        text = svg(draw)
        if not check:
            path.write_text(text, encoding="utf-8")
        elif not path.is_file() or path.read_text(encoding="utf-8") != text:
            print(f"docs/images/{path.name} is not what is drawn; run `make docs-pictures`")
            return 1
    print(f"docs/images/concept-*.svg: {'up to date' if check else 'drawn'}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
