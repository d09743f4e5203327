"""The worker: serves any stage of any request over gRPC, on a vLLM or a simulated engine."""

import os

# gRPC's core reads it when it is imported; below errors it writes lines of its own among our logs.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
