"""How much memory a frame takes while it is segmented."""

from nuclei.inference.adjusting import largest_shape
from nuclei.inference.contract import Contract
from nuclei.inference.method import WATERSHED, Method
from nuclei.inference.pipeline import TILES_IN_FLIGHT_PX
from nuclei.postprocessing.bands import BAND_PX
from nuclei.results.adjustments import Adjustments

# For a pixel of a band: its height before and after smoothing, and its share of the saddle lists.
LANDSCAPE_BYTES = 16
# A frame smaller than its tile is padded by at most this.
MIRRORED_PX = 2**16
# A tile on its way to the engine exists as an array and as messages.
TILE_COPIES = 3


def memory_bytes(
    height: int,
    width: int,
    channels: int,
    itemsize: int,
    method: Method = WATERSHED,
    *,
    tta: bool = False,
) -> int:
    """Memory that segmenting a frame takes at its peak, the frame's own pixels included.

    Args:
        height, width, channels: of the frame, [H, W, C].
        itemsize: bytes of one value, 1 to 8.
        method: of the model.
        tta: whether it is segmented with test-time augmentation.
    """
    pixels = height * width
    of_views = len(method.outputs_of_views) if tta else 0
    # The frame, three maps, those of views, the labels; one more byte covers the nuclei's tables.
    whole = pixels * (channels * itemsize + 3 + 4 + 1 + of_views)
    band = min(pixels, BAND_PX) * LANDSCAPE_BYTES
    of_tile_px = 2 * channels + 3 + of_views
    tiles = min(pixels + MIRRORED_PX, TILES_IN_FLIGHT_PX) * of_tile_px * TILE_COPIES
    return whole + max(band + tiles, method.bytes_per_px * pixels)


def adjusted_memory_bytes(
    height: int,
    width: int,
    channels: int,
    itemsize: int,
    contract: Contract,
    adjustments: Adjustments,
    *,
    tta: bool = False,
) -> int:
    """The same for a frame that is segmented with adjustments.

    Raises:
        InvalidOption: the model cannot be adjusted so.
    """
    seen = largest_shape(height, width, adjustments, contract)
    needed = memory_bytes(*seen, channels, itemsize, contract.method, tta=tta)
    if adjustments.diameter_px is None:
        return needed
    # The caller's frame and its labels are there besides.
    return needed + height * width * (channels * itemsize + 4)
