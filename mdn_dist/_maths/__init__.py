"""The mathematics of mixtures: tensors in, tensors out."""
