"""The key that Triton requires for its control protocols: models, shared memory, tracing, logs."""

HEADER = "nuclei-key"
# Triton expects this prefix before the name in gRPC metadata.
GRPC_HEADER = f"triton-grpc-protocol-{HEADER}"

_RESTRICTED = "model-repository,shared-memory,trace,logging"


def restrictions(key: str) -> list[str]:
    """Arguments of `tritonserver` that restrict its control protocols to callers with the key."""
    # Triton takes a key only as an argument, which every user of the machine can read:
    # each start makes a new one.
    return [
        f"--{flag}={_RESTRICTED}:{HEADER}={key}"
        for flag in ("grpc-restricted-protocol", "http-restricted-api")
    ]
