"""What a command says of its failure."""

import sys


def tell_failure(reason: object) -> None:
    """Write the line to stderr: what goes to stdout may be a file of data."""
    print(f"zimage-serve: {reason}", file=sys.stderr, flush=True)
