"""What is computed together with a sparse layer, and in which layout values pass from layer to layer."""
