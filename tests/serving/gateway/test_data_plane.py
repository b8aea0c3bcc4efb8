"""The way of a frame whose version goes away meanwhile."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as pb

from nuclei.errors import FrameTooLarge, ModelNotFound
from nuclei.formats import FORMATS
from nuclei.imaging.decoding import Header
from nuclei.imaging.frame_options import AS_IT_IS, FrameOptions
from nuclei.imaging.images import Frame, FrameLimits, frame_from_plane
from nuclei.inference.memory import memory_bytes
from nuclei.inference.method import CONSENSUS, WATERSHED
from nuclei.inference.model_config import contract_of
from nuclei.inference.routing import Routing
from nuclei.postprocessing.consensus import ConsensusParameters
from nuclei.results.segmentation import Segmentation
from serving.decoding.decoders import Decoders, decoding_bytes, probing_bytes
from serving.engine import TritonEngine
from serving.gateway.data_plane import DataPlane, Encoding, Options
from serving.gateway.observation import observed
from serving.gateway.settings import GatewaySettings
from tests.serving.tritons import Context, StandIn

SHAPE = (600, 1200, 1)


class Switching(StandIn):
    """It exchanges its version for the next once it has answered a tile."""

    def _names(self) -> set[str]:
        if len(self.inferred) == 1:
            self.versions = {max(self.versions) + 1}
            self.routing = Routing(max(self.versions))
            self.inferred.append("")
        return super()._names()


class Greedy(Switching):
    """The next version has a method that needs more memory."""

    async def ModelConfig(  # noqa: N802
        self, request: pb.ModelConfigRequest, context: Context
    ) -> pb.ModelConfigResponse:
        answer = await super().ModelConfig(request, context)
        if self.inferred and "." in request.name:
            contract = contract_of(answer.config)
            greedy = replace(contract, method=CONSENSUS, postprocessing=ConsensusParameters())
            answer.config.parameters["contract"].string_value = greedy.to_json()
        return answer


class Pixels:
    """A frame that needs no decoder."""

    file: bytes | None = None

    def __init__(self, shape: tuple[int, int, int] = SHAPE) -> None:
        self.shape = shape

    def frame_options(self) -> FrameOptions:
        return AS_IT_IS

    def take(self, decoded: Frame) -> None:
        raise AssertionError

    def probe(self, limits: FrameLimits) -> Header:
        return Header(*self.shape, 1)

    def read(self, limits: FrameLimits) -> Frame:
        return frame_from_plane(np.zeros(self.shape, np.uint8))


async def segmented(
    triton: StandIn,
    version: int | None = None,
    shape: tuple[int, int, int] = SHAPE,
    bytes_per_nucleus: int = 0,
    **settings: int,
) -> Segmentation:
    async with triton.running():
        engine = TritonEngine([triton.address], 2**18, 2**24)
        with ThreadPoolExecutor(2) as executor:
            gateway = GatewaySettings(triton_address=triton.address, **settings)
            plane = DataPlane(engine, Decoders(0, executor), executor, gateway)
            encoding = Encoding(lambda found, frame, check: found, 0, bytes_per_nucleus)
            with observed("grpc") as observation, plane.admission.admit("grpc", "a:1") as permit:
                found = await plane.segment(
                    Pixels(shape), Options(version=version), encoding, observation, permit
                )
        await engine.close()
    return found


async def test_a_frame_whose_version_goes_is_segmented_anew_as_a_whole(
    repository: Path, version: str
) -> None:
    triton = Switching(repository, int(version), {int(version)})
    found = await segmented(triton)
    newer = str(int(version) + 1)
    assert found.version == newer
    first, _, *then = triton.inferred
    assert first == f"unet.{version}"
    assert set(then) == {f"unet.{newer}"}
    assert len(then) > 1


async def test_a_version_that_takes_over_has_its_memory_reserved_as_well(
    repository: Path, version: str
) -> None:
    shape = (4000, 5000, 1)
    enough = memory_bytes(*shape, 1, WATERSHED)
    assert enough < memory_bytes(*shape, 1, CONSENSUS)
    triton = Greedy(repository, int(version), {int(version)})
    with pytest.raises(FrameTooLarge, match=f"at most {enough} "):
        await segmented(triton, shape=shape, max_bytes_in_flight=enough)
    assert f"unet.{int(version) + 1}" not in triton.inferred


async def test_a_frame_that_can_be_full_of_nuclei_is_refused_only_if_it_is(
    repository: Path, version: str
) -> None:
    enough = memory_bytes(*SHAPE, 1, WATERSHED)
    triton = StandIn(repository, int(version), {int(version)})
    found = await segmented(triton, bytes_per_nucleus=10**6, max_bytes_in_flight=enough)
    assert len(found.nuclei) < 10


def test_the_largest_frame_fits_by_default_with_its_outlines_and_some_left_out() -> None:
    settings = GatewaySettings()
    side = settings.max_side_px
    file_bytes = 2 * side * side
    header = Header(side, side, 1, 2, file_bytes)
    outlines = FORMATS["geojson"]
    encoding = Encoding(lambda *_: None, outlines.bytes_per_px + 4, outlines.bytes_per_nucleus)
    needed = (
        probing_bytes(file_bytes),
        decoding_bytes(file_bytes + 2**20, header),
        memory_bytes(side, side, 1, 2),
        encoding.memory_bytes(header, 500_000),
    )
    assert max(needed) <= settings.max_bytes_in_flight


async def test_a_version_that_was_asked_for_is_not_replaced(repository: Path, version: str) -> None:
    triton = Switching(repository, int(version), {int(version)})
    with pytest.raises(ModelNotFound, match=f"loaded are: {int(version) + 1}"):
        await segmented(triton, int(version))
