"""Who is to blame when a shadow is not compared."""

import asyncio
from pathlib import Path

import numpy as np

from nuclei.imaging.images import frame_from_plane
from nuclei.inference.engine import ServedVersion
from nuclei.inference.routing import Routing
from nuclei.results.nuclei import Nuclei
from nuclei.results.segmentation import Segmentation
from serving.engine import TritonEngine
from serving.gateway.admission import Admission
from serving.gateway.bounds import Bounds
from serving.gateway.shadow import ShadowedFrame, Shadows
from serving.gateway.trial import Trial
from tests.serving.tritons import StandIn


async def test_a_champion_that_is_gone_is_not_the_challengers_failure(
    repository: Path, version: str
) -> None:
    shipped = int(version)
    async with StandIn(repository, shipped, {shipped + 1}).running() as triton:
        engine = TritonEngine([triton.address], 2**18, 2**24)
        contract = await engine.contract(f"unet.{shipped + 1}")
        champion, challenger = (
            ServedVersion("unet", str(number), f"unet.{number}", contract)
            for number in (shipped, shipped + 1)
        )
        trial = Trial(champion, challenger, Bounds(0.02, 2.0, 0.5, 20))
        shadows = Shadows(engine, Admission(8, 2**30, 4))
        frame = frame_from_plane(np.zeros((64, 64, 1), np.uint8))
        labels = np.zeros((64, 64), np.uint32)
        none = np.zeros(0)
        nuclei = Nuclei(none, none, none, none, none, none, none)
        found = Segmentation(labels, nuclei, None, "unet", version)
        shadows.offer(ShadowedFrame("a", frame, found, False, trial))
        async with asyncio.timeout(10):
            while not (shadow := trial.report(Routing(shipped), 0).shadow).dropped:
                assert not shadow.failed
                await asyncio.sleep(0.02)
        assert (shadow.dropped, shadow.failed) == ({"unavailable": 1}, 0)
        shadows.close()
        await engine.close()
