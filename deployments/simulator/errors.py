"""What can be wrong with a plan."""


class PlanError(Exception):
    """The trace, the pools or the target of a simulation make no sense. Takes one message."""
