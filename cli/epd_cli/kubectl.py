"""Asks a Kubernetes cluster through `kubectl`, which a plugin of kubectl has by definition.

So every way to log in that the user's kubectl knows works here, too.
"""

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from epd_cli.failures import CommandError

_CHANGED = "the object has been modified"


@dataclass(frozen=True, slots=True)
class Kubectl:
    """One kubectl, with the flags that choose cluster and namespace.

    Attributes:
        flags: `--context` and the like, handed through.
        namespace: Where to look; empty: where kubectl looks by itself.
        everywhere: Look in all namespaces.
        program: The program.
    """

    flags: tuple[str, ...] = ()
    namespace: str = ""
    everywhere: bool = False
    program: str = "kubectl"

    def find(self, kind: str, selector: str = "") -> list[dict[str, Any]]:
        """Return all objects of a kind that the labels choose.

        Raises:
            CommandError: kubectl refused.
        """
        arguments = ["get", kind, "-o", "json", *self._where()]
        arguments += ["-l", selector] if selector else []
        items: list[dict[str, Any]] = json.loads(self._run(arguments))["items"]
        return items

    def get(self, kind: str, name: str) -> dict[str, Any]:
        """Return one object.

        Raises:
            CommandError: kubectl refused, or there is none.
        """
        arguments = ["get", kind, name, "-o", "json", *self._in_namespace()]
        found: dict[str, Any] = json.loads(self._run(arguments))
        return found

    def patch(self, kind: str, name: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Merge `body` into an object and return it; a resourceVersion in it must still be right.

        Raises:
            CommandError: kubectl refused, or the object has changed.
        """
        arguments = ["patch", kind, name, "--type=merge", "-p", json.dumps(body), "-o", "json"]
        patched: dict[str, Any] = json.loads(self._run([*arguments, *self._in_namespace()]))
        return patched

    def become(self, arguments: Sequence[str]) -> NoReturn:
        """Go on as kubectl itself: its output, its signals, its exit status."""
        os.execvp(self.program, self.words(arguments))  # noqa: S606 - no shell is what we want

    def words(self, arguments: Sequence[str]) -> list[str]:
        """Return the whole command line of a kubectl that does this."""
        return [self.program, *self.flags, *arguments, *self._in_namespace()]

    def _where(self) -> Sequence[str]:
        return ["--all-namespaces"] if self.everywhere else self._in_namespace()

    def _in_namespace(self) -> Sequence[str]:
        return ["--namespace", self.namespace] if self.namespace else []

    def _run(self, arguments: Sequence[str]) -> str:
        try:
            done = subprocess.run(
                [self.program, *self.flags, *arguments], capture_output=True, text=True, check=False
            )
        except FileNotFoundError:
            raise CommandError("kubectl is not on PATH") from None
        if done.returncode != 0:
            said = " ".join(done.stderr.split()) or f"kubectl ended with {done.returncode}"
            if _CHANGED in said:
                said = "it has changed in the meantime; look at it and try again"
            raise CommandError(said)
        return done.stdout
