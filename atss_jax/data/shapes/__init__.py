"""Generated images of colored shapes: a data set that is a formula."""
