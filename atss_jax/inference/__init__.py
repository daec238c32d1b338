"""A trained detector on any images: loading, batching, results, export."""
