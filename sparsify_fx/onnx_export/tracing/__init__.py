"""From a PyTorch module to a dense ONNX model with readable names and open axes."""
