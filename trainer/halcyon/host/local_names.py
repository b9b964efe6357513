"""The names of this machine by which only its own programs reach it.

A web page of another site can make a browser send requests to this machine under a name of that site (DNS rebinding). A
server for this machine alone therefore refuses the header ``Host`` of any other name.
"""

from ipaddress import ip_address


def is_loopback(host: str) -> bool:
    """Whether a name or an address is one of this machine alone."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def is_own_host(header: str) -> bool:
    """Whether the header ``Host``, with a port or without, names this machine.

    So does an empty one, which no browser sends.
    """
    name = header.rpartition(":")[0] if header.rpartition(":")[2].isdigit() else header
    return not name or is_loopback(name)
