"""Whether an image of whole numbers can be a label image: photographs and masks are told apart."""

import cv2
import numpy as np
from numpy.typing import NDArray

from nuclei.errors import InvalidData

# A nucleus is one piece; truth that was cut at an edge, or drawn badly, has a few more.
MOST_PIECES_PER_LABEL = 2
# Photographs and gradients have more grey values; fewer labels may all be slivers at an edge.
MANY_LABELS = 16
EXPECTED = "expected a label image, 0 for background and a different number for every nucleus"


def check_label_image(labels: NDArray[np.uint32]) -> None:
    """Refuse what reads as whole numbers but numbers no nuclei.

    Args:
        labels: uint32 [H, W], 0 is background.

    Raises:
        InvalidData: a binary mask, a mask of classes, a photograph, a gradient, or an image without
            background.
    """
    values = np.unique(labels)
    if values[0] != 0:
        raise InvalidData(
            f"no pixel is 0 (they go from {values[0]} to {values[-1]}), as in a photograph; "
            f"{EXPECTED}"
        )
    n_labels = len(values) - 1
    if n_labels == 1 and (n_parts := _n_parts(labels)) > 1:
        raise InvalidData(
            f"it holds the one value {values[1]} in {n_parts} separate places, as a binary mask; "
            f"{EXPECTED}: where no nuclei touch, skimage.measure.label(mask) numbers them"
        )
    if n_labels >= MANY_LABELS and (n_thin := _n_thin(labels)) > n_labels / 2:
        raise InvalidData(
            f"{n_thin} of its {n_labels} values are nowhere three pixels wide and touch others, as "
            f"the grey values of a photograph or a JPEG; {EXPECTED}"
        )
    if (n_pieces := _pieces_less_holes(labels)) > MOST_PIECES_PER_LABEL * n_labels:
        raise InvalidData(
            f"its {n_labels} values lie in {n_pieces} separate places, as classes or grey values; "
            f"{EXPECTED}"
        )


def _n_parts(labels: NDArray[np.uint32]) -> int:
    return int(cv2.connectedComponents((labels > 0).astype(np.uint8))[0]) - 1


def _pieces_less_holes(labels: NDArray[np.uint32]) -> int:
    """The Euler characteristic of all labels together: 8-connected pieces minus their holes.

    It is a sum over pixels, pairs and blocks of four (Gray 1971, "Local properties of binary images
    in two dimensions"), so it needs no search for components.
    """
    inside = labels != 0
    down = inside[1:] & (labels[1:] == labels[:-1])
    right = inside[:, 1:] & (labels[:, 1:] == labels[:, :-1])
    diagonal = inside[1:, 1:] & (labels[1:, 1:] == labels[:-1, :-1])
    anti = inside[1:, :-1] & (labels[1:, :-1] == labels[:-1, 1:])
    # Edges of the graph of 8-neighbours, then its triangles and, for whole blocks, tetrahedra.
    n_edges = down.sum() + right.sum() + diagonal.sum() + anti.sum()
    corners = (
        diagonal & right[:-1],
        diagonal & right[1:],
        anti & right[:-1],
        anti & right[1:],
    )
    n_triangles = sum(int(corner.sum()) for corner in corners)
    n_blocks = (diagonal & anti & right[:-1]).sum()
    return int(inside.sum()) - int(n_edges) + n_triangles - int(n_blocks)


def _n_thin(labels: NDArray[np.uint32]) -> int:
    """How many labels touch others, and have no pixel whose four neighbours have that label, too.

    Specks that lie alone are no grey values: thresholds leave them.
    """
    framed = np.pad(labels, 1, mode="edge")
    centre = framed[1:-1, 1:-1]
    inside = centre != 0
    interior, touching = inside.copy(), np.zeros_like(inside)
    for neighbour in (framed[:-2, 1:-1], framed[2:, 1:-1], framed[1:-1, :-2], framed[1:-1, 2:]):
        same = centre == neighbour
        interior &= same
        touching |= inside & ~same & (neighbour != 0)
    return len(np.setdiff1d(labels[touching], labels[interior]))
