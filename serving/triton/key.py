"""The key that Triton requires for its control protocols."""

HEADER = "nuclei-key"
# Triton puts this prefix before the name of gRPC's key.
GRPC_HEADER = f"triton-grpc-protocol-{HEADER}"

_RESTRICTED = "model-repository,shared-memory,trace,logging"


def restrictions(key: str) -> list[str]:
    """Arguments of `tritonserver` that restrict its control protocols to callers with the key."""
    # Triton takes the key only as an argument, which everybody on the machine can read: so
    # each server gets a new one.
    return [
        f"--{flag}={_RESTRICTED}:{HEADER}={key}"
        for flag in ("grpc-restricted-protocol", "http-restricted-api")
    ]
