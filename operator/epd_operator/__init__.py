"""The operator: observes a cluster, decides its split and enacts it."""
