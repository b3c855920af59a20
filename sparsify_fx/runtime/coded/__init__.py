"""Weights in bytes: values of less than 32 bits and gaps of a few, which `csrc/coded.cpp` decodes at load."""
