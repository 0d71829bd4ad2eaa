"""The files of a map: rasters, polygons, styles, pictures, reports."""
