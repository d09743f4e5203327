"""Real Kubernetes for tests and the demo, on one Linux machine: `python hack/kube --help`.

`ControlPlane` is etcd, API server, controller manager and scheduler on loopback; anybody can start
it. `Node` is all of that and a real node, where pods are containers; it needs root. Nothing here is
part of the product.
"""
