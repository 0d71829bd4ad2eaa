"""Classes that were compared: confusion matrices, accuracies, and a map held against a reference."""
