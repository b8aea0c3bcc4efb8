"""Ports."""

import socket

import pytest

from nuclei.errors import MissingPrerequisite
from nuclei.process.ports import LOOPBACK, check_free, free_ports


def test_free_ports_are_different_and_free() -> None:
    ports = free_ports(5)
    assert len(set(ports)) == 5
    for port in ports:
        check_free(LOOPBACK, port, "a test", "--port")


def test_a_taken_port_names_the_setting() -> None:
    with socket.create_server((LOOPBACK, 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(MissingPrerequisite, match=f"port {port} for HTTP.*--http-port"):
            check_free(LOOPBACK, port, "HTTP", "--http-port")


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(MissingPrerequisite, match="cannot be used"):
        check_free("192.0.2.1", 3000, "HTTP", "--http-port")
