"""What can go wrong in a stage.

PipelineError
├── InvalidRequestError   the caller asked for something the model cannot draw
├── WeightsError          the weights are missing, or not in a layout the service reads
├── OutOfMemoryError      the stage did not fit on its device
├── NumericalError        the transformer returned values that are not finite
├── DeadlineError         the picture cannot be finished in the time that is left
├── CancelledError        the caller gave up, and the step loop let go
├── ReplicaFullError      the step loop holds as much work as it may, or is closing
├── ReplicaFailedError    the step loop has stopped, and the replica must be replaced
├── AttentionUnavailableError  this machine cannot run the attention kernel that was asked for
├── AccelerationUnavailableError  nor another option of how to compute
└── KernelArchiveError    an archive of compiled kernels that cannot be used here
"""


class PipelineError(Exception):
    """Anything that a stage raises on purpose. Takes one message, so that it can be pickled."""


class InvalidRequestError(PipelineError):
    """The caller asked for something the model cannot draw."""


class WeightsError(PipelineError):
    """The weights are missing, or not in a layout the service reads."""


class OutOfMemoryError(PipelineError):
    """The stage did not fit on its device."""


class NumericalError(PipelineError):
    """The transformer returned values that are not finite."""


class DeadlineError(PipelineError):
    """The picture cannot be finished in the time that is left."""


class CancelledError(PipelineError):
    """The caller gave up, and the step loop let go."""


class ReplicaFullError(PipelineError):
    """The step loop holds as much work as it may, or is closing: ask another replica."""


class ReplicaFailedError(PipelineError):
    """The step loop has stopped, and the replica must be replaced."""


class AttentionUnavailableError(PipelineError):
    """This machine cannot run the attention kernel that was asked for."""


class AccelerationUnavailableError(PipelineError):
    """This machine cannot run the way of computing that was asked for."""


class KernelArchiveError(PipelineError):
    """An archive of compiled kernels that cannot be used here."""
