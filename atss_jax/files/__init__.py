"""Files, whatever is in them: atomic writes, locks, downloads, reading ahead."""
