"""The evaluation report: one HTML page of everything that is wrong."""
