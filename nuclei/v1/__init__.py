"""The public API, package `nuclei.v1`: segmentation.proto and the stubs `make proto` generates."""
