import grpc
import pytest

from nuclei import errors
from nuclei.errors import NucleiError


def tree(cls: type[NucleiError]) -> list[type[NucleiError]]:
    return [cls, *(found for child in cls.__subclasses__() for found in tree(child))]


@pytest.mark.parametrize("error", tree(NucleiError))
def test_every_error_maps_to_every_protocol(error: type[NucleiError]) -> None:
    assert error.grpc_status in grpc.StatusCode.__members__
    assert 400 <= error.http_status < 600
    assert error.exit_code > 0
    assert error.__name__ in (errors.__doc__ or "")
