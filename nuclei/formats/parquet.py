"""The features of nuclei as Parquet, which pandas, Polars, DuckDB and R read with their types."""

import io
import json
from collections.abc import Callable

from nuclei.errors import MissingPrerequisite
from nuclei.formats.features import feature_columns
from nuclei.imaging.images import Frame
from nuclei.results.segmentation import Segmentation


def parquet_table(
    segmentation: Segmentation, frame: Frame, check: Callable[[], None] = lambda: None
) -> bytes:
    """One row per nucleus, columns as `feature_columns`; null where something is not known.

    The key `nuclei` of the file's metadata is JSON: model, version and warnings.

    Args:
        segmentation: the nuclei.
        frame: that they are of.
        check: called at intervals; an exception that it raises ends the work.

    Raises:
        MissingPrerequisite: pyarrow is not installed.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError:
        raise MissingPrerequisite(
            "Parquet needs pyarrow, which is not installed: `pip install pyarrow`, or choose csv"
        ) from None
    columns = feature_columns(segmentation, frame, check)
    about = {
        "model": segmentation.model,
        "version": segmentation.version,
        "warnings": segmentation.warnings,
    }
    table = pyarrow.table(
        {name: pyarrow.array(values, from_pandas=True) for name, values in columns.items()}
    ).replace_schema_metadata({"nuclei": json.dumps(about)})
    file = io.BytesIO()
    parquet.write_table(table, file, compression="zstd")
    return file.getvalue()
