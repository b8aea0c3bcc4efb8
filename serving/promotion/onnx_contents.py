"""What an ONNX file is made of, read without loading it: operators, and weights kept elsewhere."""

import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from nuclei.errors import InvalidData
from serving.triton.backend.onnx_file import BYTES, VARINT, OnnxVersions, fields, read_versions

# Numbers of fields in onnx.proto.
_MODEL_GRAPH, _MODEL_FUNCTIONS = 7, 25
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_SPARSE = 1, 5, 15
_FUNCTION_NAME, _FUNCTION_NODE, _FUNCTION_DOMAIN = 1, 7, 10
_NODE_OPERATOR, _NODE_ATTRIBUTE, _NODE_DOMAIN = 4, 5, 7
_ATTRIBUTE_TENSOR, _ATTRIBUTE_GRAPH = (5, 10), (6, 11)
_SPARSE_TENSORS = (1, 2)
_TENSOR_EXTERNAL, _TENSOR_LOCATION = 13, 14
_EXTERNAL = 1
# Graphs in graphs; ours have at most three.
MAX_DEPTH = 16
MAX_TEXT = 256
STANDARD = ("", "ai.onnx")


@dataclass
class OnnxContents:
    """What an ONNX file is made of.

    Attributes:
        versions: of the file and of its standard operators.
        operators: (domain, name) of each; the standard ones are of the domain "".
        functions: (domain, name) of those that the file defines itself.
        external: whether weights lie in other files.
    """

    versions: OnnxVersions
    operators: set[tuple[str, str]] = field(default_factory=set)
    functions: set[tuple[str, str]] = field(default_factory=set)
    external: bool = False

    @property
    def foreign(self) -> list[str]:
        """Operators that are neither of the standard nor defined in the file, sorted."""
        return sorted(
            f"{domain}.{name}"
            for domain, name in self.operators - self.functions
            if domain not in STANDARD
        )


def read_contents(path: Path) -> OnnxContents:
    """Read what an ONNX file is made of; its weights are skipped.

    Raises:
        InvalidData: it is not an ONNX file, is truncated, or is nested too deeply.
    """
    try:
        contents = OnnxContents(read_versions(path))
        with path.open("rb") as file:
            _read(file, path.stat().st_size, contents)
    except (OSError, ValueError) as error:
        raise InvalidData(f"{path.name}: {error}; register the model again") from error
    return contents


def _read(file: io.BufferedIOBase, end: int, contents: OnnxContents) -> None:
    for number, inner in _messages(file, end):
        if number == _MODEL_GRAPH:
            _read_graph(file, inner, contents, 0)
        elif number == _MODEL_FUNCTIONS:
            _read_function(file, inner, contents)


def _read_graph(file: io.BufferedIOBase, end: int, contents: OnnxContents, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise ValueError(f"its graphs are nested more than {MAX_DEPTH} times")
    for number, inner in _messages(file, end):
        if number == _GRAPH_NODE:
            _read_node(file, inner, contents, depth)
        elif number == _GRAPH_INITIALIZER:
            _read_tensor(file, inner, contents)
        elif number == _GRAPH_SPARSE:
            for part, tensor in _messages(file, inner):
                if part in _SPARSE_TENSORS:
                    _read_tensor(file, tensor, contents)


def _read_function(file: io.BufferedIOBase, end: int, contents: OnnxContents) -> None:
    name = domain = ""
    for number, inner in _messages(file, end):
        if number == _FUNCTION_NAME:
            name = _text(file, inner)
        elif number == _FUNCTION_DOMAIN:
            domain = _text(file, inner)
        elif number == _FUNCTION_NODE:
            _read_node(file, inner, contents, 0)
    contents.functions.add((domain, name))


def _read_node(file: io.BufferedIOBase, end: int, contents: OnnxContents, depth: int) -> None:
    operator = domain = ""
    for number, inner in _messages(file, end):
        if number == _NODE_OPERATOR:
            operator = _text(file, inner)
        elif number == _NODE_DOMAIN:
            domain = _text(file, inner)
        elif number == _NODE_ATTRIBUTE:
            for part, value in _messages(file, inner):
                if part in _ATTRIBUTE_GRAPH:
                    _read_graph(file, value, contents, depth + 1)
                elif part in _ATTRIBUTE_TENSOR:
                    _read_tensor(file, value, contents)
    contents.operators.add(("" if domain in STANDARD else domain, operator))


def _read_tensor(file: io.BufferedIOBase, end: int, contents: OnnxContents) -> None:
    for number, kind, value in fields(file, end):
        if kind == BYTES:
            contents.external |= number == _TENSOR_EXTERNAL
            file.seek(value, io.SEEK_CUR)
        elif (number, kind, value) == (_TENSOR_LOCATION, VARINT, _EXTERNAL):
            contents.external = True


def _messages(file: io.BufferedIOBase, end: int) -> Iterator[tuple[int, int]]:
    """Number and end of each field that has a length; it is skipped once the caller is done."""
    for number, kind, value in fields(file, end):
        if kind == BYTES:
            inner = file.tell() + value
            yield number, inner
            file.seek(inner)


def _text(file: io.BufferedIOBase, end: int) -> str:
    length = end - file.tell()
    if length > MAX_TEXT:
        raise ValueError(f"it has a name of {length} characters")
    return file.read(length).decode("utf-8", "replace")
