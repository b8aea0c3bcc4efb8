"""The OpenAPI document of the HTTP routes, for clients and for tests that explore them."""

from typing import Any

from nuclei.formats import FORMATS
from serving.gateway.observation import UNEXPECTED

_PROBLEMS = {
    "400": "an option is wrong",
    "401": "the token is missing or wrong",
    "404": "there is no such model",
    "413": "the frame is over a limit",
    "422": "the body is not a frame that can be read",
    "429": "too much work at once; try again later",
    "500": UNEXPECTED,
    "503": "the inference server does not answer",
    "504": "the time ran out",
}

_HEADERS = {
    "X-Request-ID": "the request's name, or a new one",
    "X-Model": "the model that answered",
    "X-Model-Version": "its version",
    "X-Nuclei-Count": "number of nuclei",
    "X-Nuclei-Warnings": "what was guessed, chosen or is doubtful: a JSON list of sentences, in "
    "ASCII; absent when nothing is",
    "Server": "version of the service, such as nuclei-serving/0.2.0",
    "Server-Timing": "time of each step (wait, decode, tile, infer, postprocess, measure, encode) "
    "on the server, milliseconds",
}

_NUMBERS = {"type": "string", "pattern": "^[-+.0-9e]+(,[-+.0-9e]+)?$"}


def openapi_document(server_version: str) -> dict[str, Any]:
    """OpenAPI 3.1 of `/v1`."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "Nuclei segmentation", "version": server_version},
        "paths": {
            "/v1/segment": {"post": _segment()},
            "/v1/models": {
                "get": {
                    "summary": "The models served now, and the limits",
                    "responses": {
                        "200": {
                            "description": "models and limits",
                            "content": {"application/json": {"schema": {"type": "object"}}},
                        },
                        **_problems("401", "500", "503", "504"),
                    },
                }
            },
        },
        # A gateway without NUCLEI_TOKEN asks for none.
        "security": [{}, {"token": []}],
        "components": {
            "schemas": {"Problem": _problem_schema()},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _segment() -> dict[str, Any]:
    binary = {"type": "string", "contentMediaType": "application/octet-stream"}
    form = {"type": "object", "properties": {"file": binary}, "required": ["file"]}
    return {
        "summary": "Segment the nuclei of one frame",
        "parameters": [
            _query(
                "model",
                {"type": "string", "pattern": "^[A-Za-z0-9_.-]{0,64}$"},
                "name of a model; absent or empty: the default one",
            ),
            _query("tta", {"type": "boolean"}, "mean over 8 rotations and reflections"),
            _query(
                "channel", {"type": "string"}, "the channel to segment: its name or number from 0"
            ),
            _query("plane", {"type": "integer", "minimum": 0}, "the plane to segment, from 0"),
            _query("project", {"enum": ["max"]}, "how the planes of a stack become one"),
            _query("pixel_size", _NUMBERS, "micrometres: one number, or y,x; else the file's"),
            _query(
                "intensity_range",
                _NUMBERS,
                "lo,hi: values of the frame that become black and "
                "white for the network; absent: found by the server",
            ),
            _query("intensity_percentiles", _NUMBERS, "lo,hi: the same as percentiles, 0 to 100"),
            _query("format", {"enum": list(FORMATS), "default": "json"}, "what to answer"),
            {
                "name": "X-Request-ID",
                "in": "header",
                "description": "names the request in the log; absent or empty: a new name",
                "schema": {"type": "string", "pattern": "^[!-~]{0,128}$"},
            },
        ],
        "requestBody": {
            "description": "the file itself: PNG, JPEG, TIFF or OME-TIFF, 8 or 16 bit",
            "required": True,
            "content": {
                "application/octet-stream": {"schema": binary},
                "multipart/form-data": {"schema": form},
            },
        },
        "responses": {
            "200": {
                "description": "the nuclei, in the chosen format",
                "headers": {
                    name: {"description": description, "schema": {"type": "string"}}
                    for name, description in _HEADERS.items()
                },
                "content": {format_.media_type: {} for format_ in FORMATS.values()},
            },
            **_problems(*_PROBLEMS),
        },
    }


def _query(name: str, schema: dict[str, Any], description: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "description": description, "schema": schema}


def _problems(*statuses: str) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/Problem"}
    content = {"application/problem+json": {"schema": schema}}
    return {status: {"description": _PROBLEMS[status], "content": content} for status in statuses}


def _problem_schema() -> dict[str, Any]:
    return {
        "description": "RFC 9457; title is the class of nuclei.errors, or the phrase of the status "
        "where type is about:blank",
        "type": "object",
        "required": ["type", "title", "status", "detail"],
        "properties": {
            "type": {"type": "string"},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string"},
        },
    }
