"""Times for people: in the time zone of this machine, with its name."""

from datetime import datetime


def local_time(time: float | str, *, date: bool = True) -> str:
    """A time such as ``2026-03-01 13:00:00 CET``.

    Args:
        time: Seconds since 1970, or RFC 3339. A text that is no time with a zone is returned as it is.
        date: Whether to show the date too.
    """
    if isinstance(time, str):
        try:
            found = datetime.fromisoformat(time)
        except ValueError:
            return time
        if found.tzinfo is None:
            return time
        here = found.astimezone()
    else:
        here = datetime.fromtimestamp(time).astimezone()
    return f"{here:%Y-%m-%d %H:%M:%S} {here.tzname()}" if date else f"{here:%H:%M:%S} {here.tzname()}"
