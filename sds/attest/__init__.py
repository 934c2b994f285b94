"""Workload attestors: adapters of `sds.serve.callers.WorkloadAttestor`."""
