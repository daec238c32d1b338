"""Effects on disk that know nothing of detection: downloads, locks, writing."""
