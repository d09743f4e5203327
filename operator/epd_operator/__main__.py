"""`epd-operator`: makes Kubernetes clusters what their EPDCluster objects ask for."""

import asyncio
import logging
import sys
from collections.abc import Sequence

from epd import logs
from epd_operator.cluster import ServerNotFoundError
from epd_operator.service import run
from epd_operator.settings import parse_arguments

USER_MISTAKE = 2
FAILURE = 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run the operator until a signal ends it; return the exit status."""
    settings = parse_arguments(sys.argv[1:] if argv is None else argv)
    try:
        logs.configure(settings.log_format)
    except logs.LogSettingsError as error:
        return _complain(str(error), USER_MISTAKE)
    # kopf tells of every watch and every object; that is for whoever asks for it.
    logging.getLogger("kopf").setLevel(max(logging.WARNING, logging.getLogger().level))
    # It warns that it takes no signals, and is not to.
    logging.getLogger("kopf._core.reactor.running").setLevel(logging.ERROR)
    try:
        asyncio.run(run(settings))
    except ServerNotFoundError as error:
        return _complain(str(error), USER_MISTAKE)
    except OSError as error:
        return _complain(f"{error.strerror or error}", FAILURE)
    return 0


def _complain(message: str, status: int) -> int:
    sys.stderr.write(f"epd-operator: error: {' '.join(message.split())}\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
