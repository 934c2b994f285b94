"""Upstream `files`: the issuing authority lies in a folder, as Istio's cacerts or a Secret of Kubernetes."""
