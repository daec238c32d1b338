"""The COCO format: annotation files, data sets of them, and COCO 2017 itself."""
