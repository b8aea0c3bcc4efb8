"""JSON files of any origin, read without trust."""

import json
from typing import Any

from nuclei.errors import InvalidData


def parsed_json(text: bytes) -> Any:
    """The content of a JSON file.

    Raises:
        InvalidData: it is no JSON, or nested deeper than any annotation is.
    """
    try:
        return json.loads(text)
    except ValueError as error:
        raise InvalidData(f"is no JSON ({error}); write it again") from error
    except RecursionError as error:
        raise InvalidData("is nested too deeply to be annotations; write it again") from error
