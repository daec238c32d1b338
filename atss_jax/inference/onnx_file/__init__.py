"""A detector as an ONNX file: a small graph writer, its check, and onnxruntime."""
