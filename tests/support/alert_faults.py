"""For every alert: the fault that fires it for real in a test, and where.

Those of a cluster are fired in `tests/e2e/test_alerts_fire.py`, those of the operator in
`tests/integration/test_operator_alerts_fire.py`.
"""

OF_CLUSTER = {
    "EPDTPOTBurnsFast": "epd fault slow on the decode pods",
    "EPDTPOTBurnsSlowly": "epd fault slow on the decode pods",
    "EPDTTFTBurnsFast": "more pictures than the encode pod can take",
    "EPDTTFTBurnsSlowly": "more pictures than the encode pod can take",
    "EPDStageStarved": "more pictures than the encode pod can take",
    "EPDHeldTooLong": "more pictures than the encode pod can take, and bounds that keep the roles",
    "EPDHandoffsFail": "epd fault lossy-handoff on the decode pods",
    "EPDStagesFail": "epd fault lossy-handoff on the decode pods",
    "EPDVersionSkew": "a gateway of another release beside ours",
    "EPDRosterStale": "a gateway whose roster file is broken",
    "EPDLeasesLeak": "a gateway killed while pods keep embeddings for it",
    "EPDFlapping": "somebody who flips pods back as often as the loop flips them",
    "EPDStageWithoutPod": "epd fault kill on the prefill pod, again and again",
    "EPDNoReadyPods": "epd fault freeze on all pods",
    "EPDRequestsFail": "epd fault freeze on all pods",
    "EPDDecisionsStale": "epd fault freeze on all pods",
}
OF_OPERATOR = {
    "EPDOperatorPassesFail": "an API server that refuses Secrets and pods",
    "EPDCertificateExpires": "a certificate near its end, and an API server that refuses Secrets",
    "EPDOperatorStuck": "a call that blocks the operator's main loop",
    "EPDOperatorAbsent": "a killed operator",
}
