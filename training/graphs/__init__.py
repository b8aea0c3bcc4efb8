"""The torch modules that become ONNX files."""
