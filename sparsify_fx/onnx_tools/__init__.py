"""What export, runtime and the passes over graphs share: views, shapes, constants, inputs to run a model on.

Why a room of its own: a pass is one rewrite and nothing else, and three packages look at the same graphs.
"""
