"""Grafana dashboards, recording rules and alerts of Halcyon, as code."""
