"""The evaluation report: one HTML page that shows what goes wrong, and how much."""
