"""Which of the annotated objects are nuclei, where files have objects of several categories."""

from collections import Counter
from collections.abc import Sequence

from nuclei.errors import InvalidData


def chosen_categories(found: Counter[str], asked: Sequence[str]) -> frozenset[str]:
    """The categories whose objects are nuclei.

    Args:
        found: how many objects there are of each.
        asked: those that the caller named; none where there is only one.

    Raises:
        InvalidData: several categories and none was named, or one that does not occur.
    """
    if not asked and len(found) > 1:
        raise InvalidData(
            f"the objects are of several categories, {counted(found)}; say which are nuclei, for "
            f"example --category '{found.most_common(1)[0][0]}' (repeat it for several)"
        )
    unknown = [name for name in asked if name not in found]
    if unknown:
        known = counted(found) if found else "none: only COCO, YOLO, GeoJSON and labelme have them"
        raise InvalidData(f"there is no object of category '{unknown[0]}'; found {known}")
    return frozenset(asked or found)


def counted(found: Counter[str]) -> str:
    """Categories with their numbers of objects, the most common first."""
    return ", ".join(f"{name} ({n})" for name, n in found.most_common())
