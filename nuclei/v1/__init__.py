"""The public API, package `nuclei.v1`: segmentation.proto and the stubs generated from it.

Generated, from the repository root and with the pinned grpcio-tools and mypy-protobuf, by
`python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. --grpc_python_out=.
--mypy_grpc_out=. nuclei/v1/segmentation.proto`.
"""
