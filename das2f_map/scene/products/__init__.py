"""Scenes as they are delivered: a product's folder, archive or metadata file → the MS and PAN images in it.

Each kind of product has a module with a table of what it recognises. :func:`recognise.recognise` tries them.
Nothing is unpacked or copied: bands in separate files become one image that GDAL composes while it reads.
"""
