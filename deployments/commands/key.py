"""`zimage-serve key new`: a key for a caller, shown once."""

import argparse

import yaml

from deployments.commands.failure import tell_failure
from deployments.config_file import ConfigurationError
from deployments.key_file import draw_key, hash_key


def run_key_new(options: argparse.Namespace) -> int:
    """Print a key, and the entry of `keys.file` that knows it by its hash."""
    try:
        key = draw_key(options.name)
    except ConfigurationError as exc:
        tell_failure(exc)
        return 1
    entry = {"keys": [{"name": options.name, "hashes": [hash_key(key)]}]}
    print("# the key, for the caller; it is not shown again:")
    print(f"# {key}")
    print("# for keys.file (an entry may have two hashes while a key is replaced):")
    print(yaml.safe_dump(entry, sort_keys=False), end="")
    return 0
