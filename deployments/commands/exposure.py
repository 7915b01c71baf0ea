"""Whether a service without keys may listen at an address."""

import ipaddress

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


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
