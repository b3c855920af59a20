"""Coverage: every model of torchvision and timm through every promise of `apply` and `merge`, one process each."""
