"""Which URLs and addresses may get webhooks: pure rules against requests forged by the server."""

import ipaddress
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from deployments.errors import InvalidFieldError

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
_DEFAULT_PORTS: Final = {"https": 443, "http": 80}
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
_SPECIAL: Final = (
    # Protocol assignments (RFC 6890): Oracle Cloud has metadata at 192.0.0.192.
    ipaddress.ip_network("192.0.0.0/24"),
    # Azure's platform: name server, health probes and what a machine is told of itself
    # (learn.microsoft.com/azure/virtual-network/what-is-ip-address-168-63-129-16).
    ipaddress.ip_network("168.63.129.16/32"),
    # Relays from 6to4, given up (RFC 7526).
    ipaddress.ip_network("192.88.99.0/24"),
    # Documentation (RFC 9637).
    ipaddress.ip_network("3fff::/20"),
)
"""No receiver's, though Python calls them global."""
PARAM: Final = "webhook.url"


@dataclass(frozen=True)
class TargetRules:
    """What the operator allows."""

    allowed_hosts: frozenset[str]
    """`host` for its scheme's own port, or `host:port`."""
    allow_http: bool = False
    allow_private_addresses: bool = False


@dataclass(frozen=True)
class Target:
    """A URL that is allowed, in parts."""

    scheme: str
    host: str
    port: int
    path: str
    """With the query."""

    @property
    def host_header(self) -> str:
        """What the receiver is told that it is called."""
        is_default = self.port == _DEFAULT_PORTS[self.scheme]
        return self.host if is_default else f"{self.host}:{self.port}"


def parse_target(url: str, rules: TargetRules) -> Target:
    """Take a URL apart, if it is allowed. Messages never show it: it may hold a secret.

    Raises:
        InvalidFieldError: If it breaks a rule.
    """
    if not url.isascii() or any(character <= " " or character in "\\\x7f" for character in url):
        raise InvalidFieldError(f"{PARAM} must be visible ASCII without backslashes", PARAM)
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as exc:
        raise InvalidFieldError(f"{PARAM} must be a URL", PARAM) from exc
    schemes = ("https", "http") if rules.allow_http else ("https",)
    if parts.scheme not in schemes:
        raise InvalidFieldError(f"{PARAM} must start with {schemes[0]}://", PARAM)
    if parts.username is not None or parts.password is not None:
        raise InvalidFieldError(f"{PARAM} must have no user name or password", PARAM)
    host = parts.hostname or ""
    default_port = _DEFAULT_PORTS[parts.scheme]
    allowed = {host} if port in (None, default_port) else set()
    allowed.add(f"{host}:{port or default_port}")
    if rules.allowed_hosts.isdisjoint(allowed):
        raise InvalidFieldError(f"{PARAM} must be of a host that the operator allows", PARAM)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(parts.scheme, host, port or default_port, path)


def is_public(address: IPAddress) -> bool:
    """Say whether an address is on the public internet, with what is embedded in it too.

    Refuses loopback, private, link-local (where clouds have their metadata), shared, multicast,
    reserved and unspecified addresses, and a few more that are nobody's or a cloud's own.
    """
    embedded = _embedded(address)
    if embedded is not None and not is_public(embedded):
        return False
    if any(address in network for network in _SPECIAL):
        return False
    is_site_local = isinstance(address, ipaddress.IPv6Address) and address.is_site_local
    return address.is_global and not (
        is_site_local
        or address.is_multicast
        or address.is_private
        or address.is_loopback
        or address.is_link_local
        or address.is_reserved
        or address.is_unspecified
    )


def _embedded(address: IPAddress) -> ipaddress.IPv4Address | None:
    """Return the IPv4 address that a translator would connect an IPv6 address to."""
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    if address.teredo is not None:
        return address.teredo[1]
    return address.ipv4_mapped or address.sixtofour
