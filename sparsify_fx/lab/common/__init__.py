"""What several experiments share: flows, the single neuron, statistics."""
