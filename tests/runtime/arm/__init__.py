"""The kernels on 64-bit ARM: built by a cross compiler and run under qemu, in stock onnxruntime for that processor."""
