"""Whether a service without keys may listen at an address, and who can follow its URLs."""

import ipaddress
from urllib.parse import urlsplit

from deployments.config_file import ConfigurationError
from deployments.keys_config import KeysConfig


def check_exposure(host: str, keys: KeysConfig, *, insecure_no_keys: bool) -> None:
    """Refuse an address that other machines reach, unless callers need a key.

    Raises:
        ConfigurationError: If there are no keys, and nobody said that there need be none.
    """
    if keys.file is not None or keys.insecure_no_keys or insecure_no_keys or _is_loopback(host):
        return
    raise ConfigurationError(
        "--host must be a loopback address as long as keys.file is unset, "
        f"got {host} (`zimage-serve key new` makes keys, --insecure-no-keys goes without)"
    )


def warn_of_urls(host: str, base_url: str) -> str | None:
    """Say so where other machines reach a service, but not the URLs of its pictures.

    Args:
        host: The address that the service listens on.
        base_url: What the URLs begin with; it is valid.
    """
    named = urlsplit(base_url).hostname or ""
    if _is_loopback(host) or not _is_loopback(named):
        return None
    return (
        f"warning: URLs of pictures name {named}, which other machines do not reach: "
        "set store.base_url to where they reach this service"
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
