"""The files of a model, checked before anything reads them."""

from pathlib import Path

from nuclei.errors import InvalidData

# The longest message of protobuf, which an ONNX file is.
MAX_GRAPH_BYTES = 2**31 - 1


def check_file(path: Path, max_bytes: int) -> None:
    """Check that a file of a model is one: a link may lead out of the folder it came in.

    Raises:
        InvalidData: it is missing, a link, or too large.
    """
    if path.is_symlink() or not path.is_file():
        what = "a link" if path.is_symlink() else "missing"
        raise InvalidData(f"{path} is {what}; expected a file: train or register the model again")
    if path.stat().st_size > max_bytes:
        raise InvalidData(
            f"{path} has {path.stat().st_size} bytes; expected at most {max_bytes}: register the "
            "model again"
        )
