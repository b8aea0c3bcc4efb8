import numpy as np
from numpy.typing import NDArray

from nuclei.inference.contract import Contract
from nuclei.inference.deadline import Deadline
from nuclei.inference.engine import ServedVersion
from nuclei.postprocessing.accumulation import Outputs
from training.data.dataset import Sample


class Echo:
    """An engine that answers with the image itself."""

    served = ServedVersion("unet", "1", "unet.1", Contract("unet"))

    async def infer(
        self,
        graph: str,
        outputs: tuple[str, ...],
        image: NDArray[np.uint16],
        intensity: NDArray[np.float32],
        deadline: Deadline,
    ) -> Outputs:
        maps = image[..., :1].transpose(2, 0, 1).repeat(3, axis=0)
        return {"MAPS": maps[None].astype(np.uint8)}


def test_every_view_is_turned_back() -> None:
    from views import ALL, predictions

    y, x = np.mgrid[:70, :101]
    pixels = (x + y // 2)[..., None].astype(np.uint8)
    sample = Sample("ramp", "fluorescence", pixels, np.zeros((70, 101), np.uint16))
    assert len(set(ALL)) == 24
    for view in ALL:
        (maps,) = predictions([sample], Echo(), Echo.served, view)
        assert maps.shape == (3, 70, 101)
        assert np.abs(maps.astype(int) - pixels[..., 0]).max() <= 2, view


def test_answers_are_averaged_image_by_image() -> None:
    from views import averaged

    dark, bright = np.zeros((3, 4, 5), np.uint8), np.full((3, 4, 5), 101, np.uint8)
    first, second = averaged([[dark, bright], [bright, bright]])
    assert (first == 50).all()
    assert (second == 101).all()
