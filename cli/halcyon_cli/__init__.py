"""What people type: `halcyon` on their own machine, and `kubectl halcyon` against a cluster."""
