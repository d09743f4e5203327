"""Runs a command in a node: `python -m kube.enter [--all] PROCESS_ID COMMAND...`.

In its network alone, with this machine's files and processes; or with `--all` in everything.
"""

import os
import sys

from kube import namespaces

if __name__ == "__main__":
    arguments = sys.argv[1:]
    everything = arguments[:1] == ["--all"]
    process, *command = arguments[everything:]
    namespaces.enter(int(process), network_only=not everything)
    if not everything:
        os.execvp(command[0], command)  # noqa: S606 - the user's own command
    # The processes of a namespace are seen by children alone.
    child = os.fork()
    if child == 0:
        os.execvp(command[0], command)  # noqa: S606
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
