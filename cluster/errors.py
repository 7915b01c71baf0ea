"""What can go wrong with the machines underneath.

ClusterError
├── PlacementError   no card or node can hold what the configuration asks for
└── CapacityError    a rate or a size is asked of hardware that does not have it
"""


class ClusterError(Exception):
    """Anything this package raises on purpose. Takes one message, so that it can be pickled."""


class PlacementError(ClusterError):
    """No card or node can hold what the configuration asks for."""


class CapacityError(ClusterError):
    """A rate or a size is asked of hardware that does not have it."""
