"""The command lines: `halcyon` for the local machine and a cluster, `kubectl halcyon` for a cluster only."""
