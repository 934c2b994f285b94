"""Credentials of gateways: secrets of Kubernetes, checked, for those who may read them."""
