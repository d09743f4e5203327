"""The worker: serves any stage of any request over gRPC, on a vLLM or a simulated engine."""
