"""Attention over packed heads as one operator, recognized by what it computes."""
