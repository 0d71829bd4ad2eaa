"""Vector file, raster or table of labels to labelled pixels of a grid."""
