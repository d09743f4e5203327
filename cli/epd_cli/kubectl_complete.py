"""`kubectl_complete-epd`: what kubectl asks when a user presses Tab after `kubectl epd`.

kubectl runs the program of this name on PATH with the words so far, the last one unfinished, and
takes one suggestion a line, then a line with a number that says what else the shell may do.
"""

import sys
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

from epd.vocabulary import CLUSTER_LABEL, COMPONENT_LABEL, Component, Role
from epd_cli.failures import CommandError
from epd_cli.kubectl import Kubectl
from epd_cli.kubectl_epd import CLUSTERS

NO_FILES: Final = ":4"
_COMMANDS: Final = ("status", "top", "roles", "flip", "explain", "plan", "logs")
_FLAGS: Final = ("--namespace", "--all-namespaces", "--output", "--context", "--kubeconfig")
_WITH_VALUE: Final = {
    "-n", "--namespace", "-o", "--output", "--context", "--kubeconfig", "--tail", "--prometheus",
    "--curves", "--window-s", "--image-tokens", "--pods", "--seconds", "--seed",
}  # fmt: skip
_CHOICES: Final = {
    "-o": ("table", "json", "yaml"),
    "--output": ("table", "json", "yaml"),
    "--component": ("worker", "gateway"),
    "--role": tuple(Role),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the suggestions."""
    words = list(sys.argv[1:] if arguments is None else arguments) or [""]
    for word in suggestions(words):
        print(word)
    print(NO_FILES)
    return 0


def suggestions(words: Sequence[str], kubectl: Kubectl | None = None) -> list[str]:
    """Return what may stand in place of the last word.

    Args:
        words: The words after `kubectl epd`; the last one is unfinished.
        kubectl: Whom to ask for names; chosen by the words themselves where None.
    """
    *before, unfinished = words
    if before and before[-1] in _CHOICES:
        candidates: Sequence[str] = _CHOICES[before[-1]]
    elif unfinished.startswith("-"):
        candidates = _FLAGS
    else:
        named = _positional(before)
        candidates = _names(named, kubectl or _kubectl(before)) if named else _COMMANDS
    return [word for word in candidates if word.startswith(unfinished)]


def _names(named: Sequence[str], kubectl: Kubectl) -> Sequence[str]:
    try:
        if named[0] == "flip" and len(named) == 1:
            selector = f"{CLUSTER_LABEL},{COMPONENT_LABEL}={Component.WORKER}"
            return [pod["metadata"]["name"] for pod in kubectl.find("pods", selector)]
        if named[0] == "flip" and len(named) == 2:
            return tuple(Role)
        if len(named) == 1:
            return [cluster["metadata"]["name"] for cluster in kubectl.find(CLUSTERS)]
    except CommandError:
        pass  # Tab is no place for complaints
    return ()


def _positional(words: Sequence[str]) -> list[str]:
    """Return the words that are neither flags nor their values."""
    flags_before = [False, *(word in _WITH_VALUE or word in _CHOICES for word in words)]
    pairs = zip(words, flags_before, strict=False)
    return [word for word, is_value in pairs if not is_value and not word.startswith("-")]


def _kubectl(words: Sequence[str]) -> Kubectl:
    values = dict(pairwise(words))
    values |= dict(word.split("=", 1) for word in words if word.startswith("--") and "=" in word)
    flags = [f"{name}={values[name]}" for name in ("--context", "--kubeconfig") if name in values]
    return Kubectl(tuple(flags), values.get("-n") or values.get("--namespace") or "")


if __name__ == "__main__":
    sys.exit(main())
