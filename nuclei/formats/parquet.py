"""The features of nuclei as Parquet, which pandas, Polars, DuckDB and R read with their types."""

import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from nuclei.formats.features import Columns, feature_columns
from nuclei.imaging.images import Frame
from nuclei.results.segmentation import Segmentation

if TYPE_CHECKING:
    from arro3.core import Array, DataType

Values = NDArray[Any] | Sequence[Any]
# Encoded at a time, and kept in memory until they are a row group of the file.
BLOCK_ROWS, GROUP_ROWS = 8192, 65536
STRING = "string"


def parquet_table(
    segmentation: Segmentation, frame: Frame, check: Callable[[], None] = lambda: None
) -> bytes:
    """One row per nucleus, columns as `feature_columns`; null where something is not known.

    The key `nuclei` of the file's metadata is JSON: model, version and warnings.

    Args:
        segmentation: the nuclei.
        frame: that they are of.
        check: called at intervals; an exception that it raises ends the work.
    """
    columns = feature_columns(segmentation, frame, check)
    about = {
        "model": segmentation.model,
        "version": segmentation.version,
        "warnings": segmentation.warnings,
    }
    file = io.BytesIO()
    types = {name: str(values.dtype) for name, values in columns.items()}
    write_parquet(file, types, _blocks(columns), {"nuclei": json.dumps(about)})
    return file.getvalue()


def write_parquet(
    file: BinaryIO,
    types: Mapping[str, str],
    blocks: Iterable[Mapping[str, Values]],
    about: Mapping[str, str],
) -> None:
    """Write a table, block by block.

    Args:
        file: written from its start to its end.
        types: of the columns, by their names: `STRING`, or the name of a dtype of numpy.
        blocks: values of some rows, by the names of the columns; NaN and None become null.
        about: the file's metadata.
    """
    # Here, as others than its callers need not wait.
    from arro3.core import DataType, Field, RecordBatch, RecordBatchReader, Schema
    from arro3.io import write_parquet as write

    stored: dict[str, DataType] = {
        name: getattr(DataType, type_)() for name, type_ in types.items()
    }
    fields = [Field(name, type_, nullable=True) for name, type_ in stored.items()]
    schema = Schema(fields, metadata=dict(about))
    batches = (
        RecordBatch.from_arrays(
            [_array(block[name], type_) for name, type_ in stored.items()], schema=schema
        )
        for block in blocks
    )
    write(
        RecordBatchReader.from_batches(schema, batches),
        file,
        compression="zstd(1)",
        key_value_metadata=dict(about),
        max_row_group_size=GROUP_ROWS,
    )


def _blocks(columns: Columns) -> Iterator[Mapping[str, Values]]:
    for start in range(0, len(columns["label"]), BLOCK_ROWS):
        rows = slice(start, start + BLOCK_ROWS)
        yield {name: values[rows] for name, values in columns.items()}


def _array(values: Values, type_: "DataType") -> "Array":
    from arro3.core import Array

    if isinstance(values, np.ndarray):
        if not np.isnan(values).any():
            return Array.from_numpy(np.ascontiguousarray(values))
        values = values.tolist()
    # NaN is not itself.
    return Array([None if value != value else value for value in values], type=type_)
