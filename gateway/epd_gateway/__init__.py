"""The gateway: speaks OpenAI's API and places every stage of a request on a pod."""

import os

# gRPC's core reads it when it is imported; below errors it writes lines of its own among our logs.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
