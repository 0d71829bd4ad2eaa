"""Comparing classes: confusion matrices, accuracies, and a map against a reference."""
