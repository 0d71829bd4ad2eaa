"""Training: settings, spatial split, patches, the loop and the files of a run."""
