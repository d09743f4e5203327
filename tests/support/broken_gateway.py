"""A gateway with a defect, to show that tests find it: `python broken_gateway.py DEFECT ...`."""

import sys
from collections.abc import Callable

from epd.vocabulary import Role
from epd_gateway.__main__ import main
from epd_gateway.workers import Worker


def label_only(worker: Worker, role: Role) -> None:
    """Show the new role everywhere, and go on placing by the old one."""
    worker.role = role


def gains_nothing(worker: Worker, role: Role) -> None:
    """Offer only what the pod is offered already, unless that would be nothing."""
    worker.role = role
    worker.view.stages = worker.view.stages & role.stages or role.stages


def loses_nothing(worker: Worker, role: Role) -> None:
    """Never stop offering what the pod was once offered."""
    worker.role = role
    worker.view.stages |= role.stages


DEFECTS: dict[str, Callable[[Worker, Role], None]] = {
    defect.__name__: defect for defect in (label_only, gains_nothing, loses_nothing)
}

if __name__ == "__main__":
    Worker.set_role = DEFECTS[sys.argv[1]]  # type: ignore[method-assign]
    sys.exit(main(sys.argv[2:]))
