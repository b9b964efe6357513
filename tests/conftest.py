"""How property-based tests run: no deadline, for a busy machine is no fault; the same examples every time, so that who changes nothing
breaks nothing."""

from hypothesis import HealthCheck, settings

settings.register_profile("halcyon", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("halcyon")
