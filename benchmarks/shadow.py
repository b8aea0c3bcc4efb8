"""Time how much a shadow delays callers: the service with shadow 0 and 1, in turns.

The challenger is the shipped model under another number, so both cost the same. A caller sends
512 x 512 frames in one of three ways: each as soon as the one before is answered; at a steady
pace; and at random moments, which nothing can foresee.
"""

import argparse
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import httpx
import numpy as np
from served import ROOT, example_pixels, request_of, running_service

from nuclei.inference.routing import Routing
from nuclei.v1 import segmentation_pb2 as pb
from nuclei.v1.segmentation_pb2_grpc import SegmentationStub
from serving.repository.export import collect_artifacts, export_version, set_routing
from serving.rollout_report import PATH, RolloutReport, Shadow
from serving.triton.control import TritonControl

SIDE_PX = 512
# Between two frames, as multiples of the time of one: steady, and on average at random.
PACE = 5.0
SETTLE_S = 1.5
SHARES = (0.0, 1.0)


@dataclass
class Turns:
    """What was measured of one way to send frames.

    Attributes:
        latency_ms: of each frame, by the share that was shadowed.
        outcomes: of the frames that were to be shadowed.
    """

    latency_ms: dict[float, list[float]] = field(default_factory=lambda: {s: [] for s in SHARES})
    outcomes: Counter[str] = field(default_factory=Counter)

    def row(self, way: str) -> str:
        without, with_shadow = (np.array(self.latency_ms[share]) for share in SHARES)
        cells = [way, str(len(without) + len(with_shadow))]
        for percent in (50, 99):
            one, other = np.percentile(without, percent), np.percentile(with_shadow, percent)
            cells += [f"{one:.1f}", f"{other:.1f}", f"{other / one:.2f}"]
        cells.append(", ".join(f"{name} {n}" for name, n in self.outcomes.most_common()))
        return f"| {' | '.join(cells)} |"


def measure(seconds: float, rounds: int) -> dict[str, Turns]:
    """Start a service with a challenger, and time frames of each way.

    Args:
        seconds: of each turn.
        rounds: turns with and without shadow, of each way.
    """
    with tempfile.TemporaryDirectory() as folder:
        repository = shutil.copytree(ROOT / "model_repository", Path(folder) / "repository")
        (champion,) = (int(path.name) for path in repository.glob("unet_network.*/*[0-9]"))
        challenger = champion + 1
        artifacts = Path(folder) / "artifacts"
        artifacts.mkdir()
        export_version(
            collect_artifacts(repository, "unet", champion, artifacts), repository, challenger
        )
        set_routing(repository, "unet", Routing(champion, challenger))
        state = Path(folder) / "state"
        with running_service(NUCLEI_REPOSITORY=str(repository), NUCLEI_STATE=str(state)) as service:
            (socket,) = state.glob("triton-*/grpc:1")
            control = TritonControl(f"unix:{socket}")

            def shadow(share: float) -> None:
                routing = Routing(champion, challenger, shadow=share)
                for name in set_routing(repository, "unet", routing):
                    control.load(name)
                while found(service.http_url).fraction != share:
                    time.sleep(0.1)
                time.sleep(SETTLE_S)

            with grpc.insecure_channel(service.grpc_address) as channel:
                return _in_turns(
                    SegmentationStub(channel), service.http_url, shadow, seconds, rounds
                )


def found(http_url: str) -> Shadow:
    """What the gateway has found out about the challenger in shadow."""
    answer = httpx.get(http_url + PATH, timeout=30)
    (model,) = RolloutReport.model_validate_json(answer.content).models
    return model.shadow


def _in_turns(
    stub: SegmentationStub,
    http_url: str,
    shadow: Callable[[float], None],
    seconds: float,
    rounds: int,
) -> dict[str, Turns]:
    request = request_of(example_pixels(SIDE_PX))
    frame_s = float(np.median([_timed(stub, request) for _ in range(20)]))
    pauses: dict[str, Callable[[], float]] = {
        "one after the other": lambda: 0.0,
        "steady": lambda: (PACE - 1) * frame_s,
        "random": lambda: random.expovariate(1 / ((PACE - 1) * frame_s)),
    }
    measured = {way: Turns() for way in pauses}
    for turn in range(rounds * len(SHARES)):
        share = SHARES[turn % 2]
        shadow(share)
        for way, pause in pauses.items():
            before = _outcomes(found(http_url))
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                measured[way].latency_ms[share].append(_timed(stub, request) * 1e3)
                time.sleep(pause())
            time.sleep(SETTLE_S)
            measured[way].outcomes.update(_outcomes(found(http_url)) - before)
    return measured


def _timed(stub: SegmentationStub, request: pb.SegmentRequest) -> float:
    started = time.perf_counter()
    stub.Segment(request)
    return time.perf_counter() - started


def _outcomes(shadow: Shadow) -> Counter[str]:
    return Counter(compared=shadow.compared, failed=shadow.failed, **shadow.dropped)


def main() -> None:
    """Parse the arguments and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each turn")
    parser.add_argument("--rounds", type=int, default=3, help="turns with and without shadow")
    arguments = parser.parse_args()
    print("| frames | sent | p50 | with shadow | ratio | p99 | with shadow | ratio | shadowed |")
    print("|---|---|---|---|---|---|---|---|---|")
    for way, turns in measure(arguments.seconds, arguments.rounds).items():
        print(turns.row(way))


if __name__ == "__main__":
    main()
