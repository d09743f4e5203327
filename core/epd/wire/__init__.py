"""The wire between gateways and workers: `worker.proto`, plain messages, and their codec."""
