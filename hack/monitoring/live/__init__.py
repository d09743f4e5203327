"""A simulated cluster on this machine under traffic, watched by a real Prometheus."""
