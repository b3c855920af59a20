"""Layers between activations in 8 bits (QDQ): their weights as float32 for the sparse operators, and back."""
