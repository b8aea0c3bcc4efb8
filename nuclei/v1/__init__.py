"""The public API, package `nuclei.v1`: segmentation.proto and the stubs generated from it.

Generated, from the repository root and with the pinned grpcio-tools, by
`python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. --grpc_python_out=.
nuclei/v1/segmentation.proto`.
"""
