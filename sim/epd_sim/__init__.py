"""The simulator: a seeded discrete-event world for the policy and the operator."""
