"""The error tree. Every error says what was wrong, what was expected and what to do.

NucleiError
├── InvalidInput            the caller's fault; sending the same again cannot help
│   ├── InvalidImage        not an image, truncated, zero-size, wrong dtype or axes
│   │   ├── FrameTooLarge   over a limit on pixels or bytes
│   │   └── ChoiceRequired  several planes or channels, of which none is chosen
│   ├── InvalidOption       an option, parameter or setting with an impossible value
│   │   ├── NotAcceptable         HTTP: the caller accepts no format of the answer
│   │   └── UnsupportedEncoding   HTTP: the body is compressed in a way that is not read
│   └── InvalidData         a dataset, label image or model file that breaks its contract
├── Unauthenticated         no token, or a wrong one
├── ModelNotFound           no model (or version) of that name
├── DeadlineExceeded        the caller's time ran out
├── Overloaded              more work than allowed at once; try again later
├── EngineUnavailable       Triton (or the gateway) does not answer
├── EngineFailed            Triton answered with an internal failure
├── MissingPrerequisite     this machine lacks something: a library, a free port, an extra
│   ├── KindMissing         the cluster does not know a kind of object: a CRD is not installed
│   ├── GpuMissing          no node of the cluster offers the GPUs that pods ask for
│   └── SecretMissing       pods name a secret, or a key of one, that the cluster does not have
├── RegistryUnavailable     the registry of model versions does not answer
├── VersionRefused          a model version may not serve: a gate, its rollout or a process said no
├── Conflict                somebody else changes, or has just changed, the same
│   └── OtherVersionServed  another version of this number is in use than the registry has
├── ClusterUnavailable      there is no Kubernetes cluster, or it does not answer
├── NotPermitted            the cluster forbids a verb on a resource, a token does not open this
├── TrainingInterrupted     a training was told to stop, or lost one of its processes: resume it
└── InternalError           a fault of ours that nobody foresaw; the log of the service says more

Each class carries its gRPC status name, its HTTP status and the exit code of the command line. The
exit code names the branch: subclasses share it. The base class has no codes and is never raised.
"""

from collections.abc import Sequence
from typing import ClassVar


class NucleiError(Exception):
    """Base of every error this project raises on purpose.

    Attributes:
        grpc_status: name of the gRPC status code.
        http_status: status code of HTTP.
        exit_code: exit code of the `nuclei` command.
    """

    grpc_status: ClassVar[str]
    http_status: ClassVar[int]
    exit_code: ClassVar[int]


class InvalidInput(NucleiError):
    grpc_status = "INVALID_ARGUMENT"
    http_status = 400
    exit_code = 2


class InvalidImage(InvalidInput):
    http_status = 422


class FrameTooLarge(InvalidImage):
    http_status = 413


class ChoiceRequired(InvalidImage):
    """Attributes:
    holds: what the image holds, without how to choose.
    channels: names of its channels, "" for one without a name.
    planes: number of planes of a channel.
    """

    def __init__(
        self, holds: str, how: str = "", channels: Sequence[str] = ("",), planes: int = 1
    ) -> None:
        super().__init__(f"{holds}: {how}" if how else holds)
        self.holds = holds
        self.channels = tuple(channels)
        self.planes = planes


class InvalidOption(InvalidInput):
    pass


class NotAcceptable(InvalidOption):
    http_status = 406


class UnsupportedEncoding(InvalidOption):
    http_status = 415


class InvalidData(InvalidInput):
    http_status = 422


class Unauthenticated(NucleiError):
    grpc_status = "UNAUTHENTICATED"
    http_status = 401
    exit_code = 9


class ModelNotFound(NucleiError):
    grpc_status = "NOT_FOUND"
    http_status = 404
    exit_code = 3


class DeadlineExceeded(NucleiError):
    grpc_status = "DEADLINE_EXCEEDED"
    http_status = 504
    exit_code = 4


class Overloaded(NucleiError):
    """Attributes:
    retry_after_s: when to try again, seconds.
    """

    grpc_status = "RESOURCE_EXHAUSTED"
    http_status = 429
    exit_code = 5

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class EngineUnavailable(NucleiError):
    grpc_status = "UNAVAILABLE"
    http_status = 503
    exit_code = 6


class EngineFailed(NucleiError):
    grpc_status = "INTERNAL"
    http_status = 500
    exit_code = 7


class MissingPrerequisite(NucleiError):
    grpc_status = "FAILED_PRECONDITION"
    http_status = 500
    exit_code = 8


class KindMissing(MissingPrerequisite):
    pass


class GpuMissing(MissingPrerequisite):
    pass


class SecretMissing(MissingPrerequisite):
    pass


class RegistryUnavailable(NucleiError):
    grpc_status = "UNAVAILABLE"
    http_status = 503
    exit_code = 10


class VersionRefused(NucleiError):
    grpc_status = "FAILED_PRECONDITION"
    http_status = 409
    exit_code = 11


class Conflict(NucleiError):
    grpc_status = "ABORTED"
    http_status = 409
    exit_code = 12


class OtherVersionServed(Conflict):
    pass


class ClusterUnavailable(NucleiError):
    grpc_status = "UNAVAILABLE"
    http_status = 503
    exit_code = 13


class NotPermitted(NucleiError):
    grpc_status = "PERMISSION_DENIED"
    http_status = 403
    exit_code = 14


class TrainingInterrupted(NucleiError):
    grpc_status = "ABORTED"
    http_status = 503
    exit_code = 15


class InternalError(NucleiError):
    grpc_status = "INTERNAL"
    http_status = 500
    exit_code = 1
