"""Which addresses only this machine can reach."""

import ipaddress


def is_loopback(host: str) -> bool:
    """Whether a host, as `localhost`, `127.0.0.1` or `[::1]`, is this machine and nobody else can reach it there.

    Any other name may be resolved to anything, so it is not.
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
