"""The gateway: speaks OpenAI's API and places every stage of a request on a pod."""

import os
import sys

# gRPC's core reads it when it is imported; below errors it writes lines of its own among our logs.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

# httpx imports its command line where rich and click are there: 4 MiB and a quarter of a second.
sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]
