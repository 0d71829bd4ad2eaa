"""What a map is written as: rasters, polygons, styles, pictures, reports."""
