"""The control loop: observe, decide, enact, report; in Kubernetes and on one machine alike."""
