"""Estimates 98 face landmarks with JAX and Flax."""

import os

# OpenCV refuses larger images by their headers, before it takes memory for the pixels. It reads
# this when it is imported, which a module of this package does.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(2**27))
