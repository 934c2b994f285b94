"""The serving side of the agent: workloads and proxies connect here and are handed what is theirs."""
