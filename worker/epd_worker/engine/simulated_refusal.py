"""How the simulated engine refuses a client's mistake."""

import json

from epd.wire.messages import FailureKind
from epd_worker.engine import EngineError


def refusal(message: str, param: str | None = None, code: str | None = None) -> EngineError:
    """Build the error for a client's mistake, with OpenAI's body; `message` quotes no prompt."""
    error = {"message": message, "type": "invalid_request_error", "param": param, "code": code}
    body = json.dumps({"error": error}).encode()
    return EngineError(FailureKind.REFUSED, message, status=400, body=body)
