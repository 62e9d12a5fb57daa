"""Addresses of services as gRPC takes them, and how calls spread over the replicas behind one."""

import ipaddress
import json

ROUND_ROBIN = (
    ("grpc.service_config", json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})),
    # The balancing is ours to choose: nobody's DNS is asked for another.
    ("grpc.service_config_disable_resolution", 1),
    # New replicas are found when a connection ends; by default no sooner than 30 s after the last look.
    ("grpc.dns_min_time_between_resolutions_ms", 1_000),
)
"""Options of a channel whose calls go to all addresses that its target resolves to, in turn."""


def target(addresses: str) -> str:
    """HOST:PORT, any gRPC target (`dns:///NAME:PORT`), or IP:PORT,IP:PORT; as one gRPC target.

    Raises ValueError for a list with a name in it.
    """
    each = [address.strip() for address in addresses.split(",") if address.strip()]
    if not each:
        raise ValueError("an address is missing: HOST:PORT")
    if len(each) == 1 or "://" in addresses or each[0].startswith(("ipv4:", "ipv6:")):
        return addresses
    versions = {_ip_version(address) for address in each}
    if len(versions) > 1:
        raise ValueError(f"{addresses!r} mixes IPv4 and IPv6: gRPC takes a list of one kind")
    return f"ipv{versions.pop()}:{','.join(each)}"


def _ip_version(address: str) -> int:
    host, _, port = address.rpartition(":")
    try:
        if not 0 < int(port) < 65536:
            raise ValueError
        return ipaddress.ip_address(host.strip("[]")).version
    except ValueError:
        raise ValueError(f"{address!r} is no IP:PORT; for replicas behind one name use dns:///NAME:PORT") from None
