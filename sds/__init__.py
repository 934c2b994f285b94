"""The data plane: the agent on each node, which attests workloads, holds their keys and serves Envoy over SDS."""
