"""Small inferences that show whether Triton works; its own word is not enough.

A model stays ready when its process was killed or frozen, and a frozen Triton still accepts
connections. Nothing of ours is imported: it can run wherever Triton's client does.
"""

import time
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

# A busy server answers late, but it completes requests meanwhile.
_SILENT_S = 4.0
_STUCK_S = 15.0
_PATIENCE_S = 60.0
_ROUNDS = 2
_ROUND_GAP_S = 0.5
_POLL_S = 0.1
_SIDE_PX = 64

_BROKEN = (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)
_OPTIONS = (("grpc.enable_http_proxy", 0),)


class Fault(Exception):
    """A server does not work; the message says why."""


def check_triton(address: str) -> None:
    """Ask every ensemble that callers name for a small inference, and wait for the answers.

    Versions on trial are left out: one that fails is taken back, and no reason to end Triton.

    Args:
        address: host:port of Triton's gRPC endpoint, or `unix:` and the path of its socket.

    Raises:
        Fault: Triton does not answer a control call in 4 s; an ensemble fails twice in a row; or
            it does not answer in 15 s while no ensemble completes anything, in 60 s while some do.
    """
    with grpc.insecure_channel(address, _OPTIONS) as channel:
        server = _Server(GRPCInferenceServiceStub(channel))
        ensembles = server.ensembles()
        for _ in range(_ROUNDS):
            failed = _failures(server, ensembles)
            if not failed:
                return
            time.sleep(_ROUND_GAP_S)
    raise Fault("; ".join(f"'{name}' fails: {reason}" for name, reason in failed.items()))


def _failures(server: "_Server", ensembles: list[str]) -> dict[str, str]:
    """The errors of the ensembles that fail, by name; raises Fault when one does not answer."""
    waiting = {name: server.infer(name) for name in ensembles}
    started = progress = time.monotonic()
    completed = server.completed(ensembles)
    failed = {}
    while waiting:
        time.sleep(_POLL_S)
        for name in [name for name, answer in waiting.items() if answer.done()]:
            error: Any = waiting.pop(name).exception()
            if error is not None and error.code() in _BROKEN:
                failed[name] = error.details()
        now = time.monotonic()
        if (latest := server.completed(ensembles)) != completed:
            completed, progress = latest, now
        if waiting and (now - progress > _STUCK_S or now - started > _PATIENCE_S):
            raise Fault(f"no answer from '{min(waiting)}' in {now - started:.0f} s")
    return failed


class _Server:
    def __init__(self, stub: GRPCInferenceServiceStub) -> None:
        self._stub = stub

    def ensembles(self) -> list[str]:
        """Names of the ensembles that are ready and that are none of a version (`unet.4`)."""
        names = {model.name for model in self._statistics() if "." not in model.name}
        requests = {name: pb.ModelMetadataRequest(name=name) for name in names}
        return sorted(
            name
            for name, request in requests.items()
            if self._call(self._stub.ModelMetadata, request).platform == "ensemble"
        )

    def completed(self, ensembles: list[str]) -> int:
        """Requests that these have completed since the server's start."""
        return sum(
            model.inference_stats.success.count
            for model in self._statistics()
            if model.name in ensembles
        )

    def infer(self, ensemble: str) -> "grpc.Future[Any]":
        """Start an inference of a small gradient, uint16 [64, 64, 1]."""
        image = np.arange(_SIDE_PX * _SIDE_PX, dtype=np.uint16)
        request = pb.ModelInferRequest(
            model_name=ensemble,
            inputs=[
                {"name": "IMAGE", "datatype": "UINT16", "shape": [_SIDE_PX, _SIDE_PX, 1]},
                {"name": "RANGE", "datatype": "FP32", "shape": [2]},
            ],
            raw_input_contents=[image.tobytes(), np.array([0, image[-1]], np.float32).tobytes()],
        )
        infer: grpc.UnaryUnaryMultiCallable[Any, Any] = self._stub.ModelInfer
        return infer.future(request, _PATIENCE_S + _STUCK_S)

    def _statistics(self) -> list[pb.ModelStatistics]:
        answer = self._call(self._stub.ModelStatistics, pb.ModelStatisticsRequest())
        return list(answer.model_stats)

    def _call(self, method: "grpc.UnaryUnaryMultiCallable[Any, Any]", request: Any) -> Any:
        try:
            return method(request, timeout=_SILENT_S)
        except grpc.RpcError as error:
            raise Fault(f"it does not answer ({error.code().name}, {error.details()})") from None
