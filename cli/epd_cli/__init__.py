"""The epd command: runs, shows and changes a cluster."""

import os

# gRPC's core reads it when it is imported; below errors it writes lines of its own among our logs.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
