"""COCO annotation files: read, checked, downloaded."""
