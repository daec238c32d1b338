"""Several devices and several hosts: mapping, watching, finding each other."""
