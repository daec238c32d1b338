"""mmdetection's config files, 2.x and 3.x, read without running them and translated."""
