"""The key without which Triton refuses to be controlled."""

HEADER = "nuclei-key"
# Triton puts this prefix before the name of gRPC's key.
GRPC_HEADER = f"triton-grpc-protocol-{HEADER}"

_RESTRICTED = "model-repository,shared-memory,trace,logging"


def restrictions(key: str) -> list[str]:
    """Arguments of `tritonserver` that restrict whatever changes it to callers with the key."""
    # Triton reads a key from its arguments only, and those anyone on the machine can read:
    # a key lives no longer than the server.
    return [
        f"--{flag}={_RESTRICTED}:{HEADER}={key}"
        for flag in ("grpc-restricted-protocol", "http-restricted-api")
    ]
